"""Bundles of several sources, and the loss of a step (larvseg.md 1.8, 1.9, 2.3 to 2.6)."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anyshot.data.manifest import Sample
from anyshot.errors import ConfigError, DataError
from anyshot.larvseg.attention_loss import AttentionRule
from anyshot.larvseg.bank import CompactBank
from anyshot.larvseg.datasets import Crops, ManifestImages, MixedDataset, SourceData, fitted_size
from anyshot.larvseg.head import ActiveClasses, CosineHead
from anyshot.larvseg.learning import SourcePlan, mixed_loss
from anyshot.larvseg.networks import LarvSegNet
from anyshot.larvseg.options import Baseline, Source
from anyshot.larvseg.tables import IGNORE
from tests.reference import larvseg_head as plain
from tests.shapes import draw

WIDTH, GRID = 5, (4, 4)
LUT = np.full(65536, IGNORE, dtype=np.int32)
LUT[1:7] = np.arange(6)


class Given(LarvSegNet):
    """Whose features are the images, as they are; one px per token."""

    def __init__(self, *, rows: int, bank: CompactBank | None = None) -> None:
        nn.Module.__init__(self)
        self.head, self.bank = CosineHead(width=WIDTH, classes=rows).double(), bank

    def tokens(self, images: Tensor) -> Tensor:
        return images


def plan(name: str, rows: list[int], *, masks: bool, share: float = 0.5, **weights: float) -> SourcePlan:
    return SourcePlan(
        name=name, with_masks=masks, share=share, active=ActiveClasses(rows=torch.tensor(rows)),
        weight=weights.get("weight", 1.0), attention_weight=weights.get("attention_weight", 0.0),
    )  # fmt: skip


def batch(*, bundles: int = 2, images: int = 2) -> dict[str, Tensor]:
    """A source `m` of three classes with masks, a source `t` of five with image labels."""
    generator = torch.Generator().manual_seed(7)
    shape = (bundles, images)
    labels = torch.randint(-1, 3, (*shape, 8, 8), generator=generator, dtype=torch.int32)
    present = torch.rand(*shape, 5, generator=generator) < 0.5
    present[0, 0] = torch.tensor([False, True, False, True, False])
    return {
        "seed": torch.arange(bundles),
        "m.images": torch.randn(*shape, WIDTH, *GRID, generator=generator, dtype=torch.float64),
        "m.valid": labels != IGNORE,
        "m.labels": labels,
        "t.images": torch.randn(*shape, WIDTH, *GRID, generator=generator, dtype=torch.float64),
        "t.valid": torch.rand(*shape, 8, 8, generator=generator) < 0.9,
        "t.present": present,
    }


def reference_head(head: CosineHead) -> plain.Head:
    return plain.Head(head.feature_projection, head.class_projection, head.table, head.scale, head.shift)


def label_sets(present: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in present]


def test_the_loss_is_the_weighted_sum_of_the_plain_losses_per_bundle() -> None:
    torch.manual_seed(0)
    model, given = Given(rows=6), batch()
    head = reference_head(model.head)
    plans = [
        plan("m", [2, 5, 0], masks=True, share=0.25, weight=1.5),
        plan("t", [0, 1, 2, 3, 4], masks=False, share=0.75, weight=0.3),
    ]
    found = mixed_loss(model, model, given, plans=plans, options=Baseline(), rule=None)
    pixels, labels = [], []
    for bundle in range(2):
        logits = torch.stack([head.logits(one, [2, 5, 0]) for one in given["m.images"][bundle]])
        pixels.append(plain.pixel_loss(logits, given["m.labels"][bundle], ignore=IGNORE))
        logits = torch.stack([head.logits(one, [0, 1, 2, 3, 4]) for one in given["t.images"][bundle]])
        labels.append(plain.image_loss(logits, label_sets(given["t.present"][bundle]), (8, 8)))
    expected = 0.25 * 1.5 * torch.stack(pixels).mean() + 0.75 * 0.3 * torch.stack(labels).mean()
    torch.testing.assert_close(found["loss"].double(), expected.detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found["m_pixels"].double(), torch.stack(pixels).mean().detach())
    torch.testing.assert_close(found["t_labels"].double(), torch.stack(labels).mean().detach())


def literal_bank(bank: CompactBank) -> plain.Bank:
    """The published bank whose one vector per slot is the compact bank's, made a unit vector."""
    made = plain.Bank(bank.slots.double()[:, :, None])
    made.full, made.ptr = bank.wraps.tolist(), bank.pointer.tolist()
    return made


def unit_bank(rows: int) -> CompactBank:
    bank = CompactBank(classes=rows, width=WIDTH, slots=3, tokens=1).double()
    bank.slots = nn.functional.normalize(bank.slots, dim=2)
    bank.refresh()
    bank.wraps[:4] = 1
    return bank


def test_the_attentive_loss_is_the_plain_one_and_all_bundles_look_before_any_writes() -> None:
    torch.manual_seed(1)
    bank = unit_bank(6)
    model, given = Given(rows=6, bank=bank), batch()
    head, literal = reference_head(model.head), literal_bank(bank)
    rule = AttentionRule(order="two_phase")
    plans = [plan("t", [0, 1, 2, 3, 4], masks=False, share=1.0, weight=0.0, attention_weight=1.0)]
    found = mixed_loss(model, model, given, plans=plans, options=Baseline(), rule=rule)
    sets = [label_sets(bundle) for bundle in given["t.present"]]
    own = [
        plain.attentive_loss(
            head, copy.deepcopy(literal), images, one, [0, 1, 2, 3, 4], (8, 8), plain.Rule(two_phase=True)
        )
        for images, one in zip(given["t.images"], sets, strict=True)
    ]
    torch.testing.assert_close(found["loss"].double(), torch.stack(own).mean().detach(), atol=1e-6, rtol=0)
    assert found["t_warm"] > 0
    written = int(bank.pointer.sum() + 3 * (bank.wraps - torch.tensor(literal.full)).sum())
    assert written == sum(len(one) for bundle in sets for one in bundle)


def test_sampling_as_many_classes_as_there_are_changes_nothing() -> None:
    torch.manual_seed(2)
    model, given = Given(rows=6), batch()
    given["t.present"][..., 1:] = False
    plans = [plan("t", [0, 1, 2, 3, 4], masks=False)]
    found = [
        mixed_loss(model, model, given, plans=plans, options=Baseline(sampled_classes=count), rule=None)
        for count in (None, 5)
    ]
    assert torch.equal(found[0]["loss"], found[1]["loss"])
    few = mixed_loss(model, model, given, plans=plans, options=Baseline(sampled_classes=2), rule=None)
    again = mixed_loss(model, model, given, plans=plans, options=Baseline(sampled_classes=2), rule=None)
    assert torch.equal(few["loss"], again["loss"])
    assert few["loss"] < found[0]["loss"], "fewer classes compete"


def test_bundles_without_a_label_cost_nothing() -> None:
    model, given = Given(rows=6), batch()
    given["t.present"][:] = False
    found = mixed_loss(
        model, model, given, plans=[plan("t", [0, 1, 2, 3, 4], masks=False)], options=Baseline(), rule=None
    )
    assert found["loss"] == 0


# --- data ---


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(3)
    found = []
    for number in range(12):
        image, mask, labels = draw(folder, number, rng)
        found.append(Sample(f"{number:03d}", image, mask, "train", labels))
    return found


def source(role: str, **changes: object) -> Source:
    content = {
        "name": role, "data": "shapes", "role": role, "crop": 64, "short_side": 64, "long_side": 128,
        "images_per_step": 4, **changes,
    }  # fmt: skip
    return Source.model_validate(content)


def labels_of(sample: Sample) -> list[int]:
    return [label - 1 for label in sample.labels]


def images_of(
    samples: list[Sample], *, masks: bool, by_class: bool = False, lut: np.ndarray = LUT
) -> ManifestImages:
    return ManifestImages(
        samples=samples, lut=lut, labels=labels_of, read_masks=masks, by_class=by_class, seed=5, name="s"
    )


def data_of(options: Source, images: ManifestImages, *, masks: bool) -> SourceData:
    crops = Crops(options, mirror=True, downsample=2, mean=[0.5] * 3, std=[0.5] * 3)
    return SourceData(source=options, images=images, crops=crops, with_masks=masks, classes=6, bundles=2)


def test_a_turn_shows_every_image_once(samples: list[Sample]) -> None:
    images = images_of(samples, masks=True)
    turns = [[images.draw(12 * turn + place) for place in range(12)] for turn in range(3)]
    assert all(sorted(turn) == list(range(12)) for turn in turns)
    assert turns[0] != turns[1] != turns[2]


def test_drawing_by_class_shows_rare_classes_as_often(samples: list[Sample]) -> None:
    rare = [sample for sample in samples if 1 not in sample.labels] + [
        next(sample for sample in samples if 1 in sample.labels)
    ]
    images = images_of(rare, masks=False, by_class=True)
    drawn = [images.draw(place) for place in range(600)]
    share = sum(1 in images.samples[number].labels for number in drawn) / 600
    assert share > 1 / 6 - 0.05, "a sixth of the draws, though one image of many has it"
    assert drawn == [images.draw(place) for place in range(600)], "a pure function of the position"


def test_bundles_have_what_their_sources_know(samples: list[Sample]) -> None:
    with_masks = data_of(source("pixel"), images_of(samples, masks=True), masks=True)
    tags = source("image", label_source="image")
    labelled = data_of(tags, images_of(samples, masks=False), masks=False)
    mixed = MixedDataset([with_masks, labelled])
    assert len(mixed) == 6, "12 images, 2 in a bundle"
    item = mixed.item_of(1, 3, np.random.default_rng(0))
    again = mixed.item_of(1, 3, np.random.default_rng(0))
    assert all(torch.equal(torch.as_tensor(item[key]), torch.as_tensor(again[key])) for key in item)
    assert item["pixel.images"].shape == (2, 3, 64, 64)
    assert item["pixel.labels"].shape == item["image.valid"].shape == (2, 32, 32)
    assert set(item["pixel.labels"].unique().tolist()) <= set(range(-1, 6))
    position = (1 * 6 + 3) * 2
    own = [labelled.images.read(1, position + place).labels for place in range(2)]
    assert [tuple(row.nonzero()[:, 0].tolist()) for row in item["image.present"]] == own


def test_image_labels_are_learnt_without_reading_a_mask(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leak(path: Path) -> np.ndarray:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("anyshot.larvseg.datasets.read_mask", leak)
    tags = source("image", label_source="image")
    item = data_of(tags, images_of(samples, masks=False), masks=False).part(0, 0, np.random.default_rng(0))
    assert "image.labels" not in item
    with pytest.raises(AssertionError, match="was read"):
        data_of(source("pixel"), images_of(samples, masks=True), masks=True).part(
            0, 0, np.random.default_rng(0)
        )


def test_labels_of_the_crop_are_those_with_pixels_in_it(samples: list[Sample]) -> None:
    zoomed = source("image", crop=32, ratio=(2.0, 2.0))
    data = data_of(zoomed, images_of(samples, masks=True), masks=False)
    for place in range(6):
        rng = np.random.default_rng(place)
        image = data.images.read(0, place)
        crop = data.crops.item(image, rng)
        shown = {int(value) for value in np.unique(crop.labels)} - {IGNORE}
        assert shown == set(data.known(image, crop.labels))
        assert shown <= set(image.labels)
        assert (crop.valid == (crop.labels != IGNORE)).all()


def test_padding_is_zero_after_normalisation_and_not_valid(samples: list[Sample]) -> None:
    small = source("pixel", crop=96, ratio=(1.0, 1.0))
    images = images_of(samples, masks=True)
    data = data_of(small, images, masks=True)
    crop = data.crops.item(images.read(0, 0), np.random.default_rng(0))
    assert (crop.image[:, 64:] == 0).all()
    assert (crop.image[:, :, 64:] == 0).all()
    assert not crop.valid[32:].any()
    assert (crop.labels[32:] == IGNORE).all()


def test_sizes_fit_both_limits() -> None:
    assert fitted_size(480, 640, short_side=512, long_side=2048) == (512, 683)
    assert fitted_size(100, 1000, short_side=512, long_side=2048) == (205, 2048)
    assert fitted_size(480, 640, short_side=512, long_side=2048, ratio=0.5) == (256, 341)


def test_bad_sources_are_named(samples: list[Sample]) -> None:
    without = [Sample(s.id, s.image, None, s.subset, s.labels) for s in samples]
    with pytest.raises(DataError, match=r"12 images have no mask.*label_source: image"):
        images_of(without, masks=True)
    unlabelled = [Sample(s.id, s.image, s.mask, s.subset, ()) for s in samples]
    with pytest.raises(DataError, match="none of the 12 images of source 's' shows one of its classes"):
        images_of(unlabelled, masks=True)
    with pytest.raises(ConfigError, match="no multiple of `downsample` 3"):
        Crops(source("pixel"), mirror=True, downsample=3, mean=[0.5] * 3, std=[0.5] * 3)
