"""Training samples: image and labels move together, padding policies (P3), labels of novel images, leaks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anyshot.data.classes import ClassTable
from anyshot.data.images import write_image, write_mask
from anyshot.data.manifest import Sample
from anyshot.data.transforms import CropWindow, colour_jitter, random_crop
from anyshot.errors import DataError
from anyshot.retab.datasets import (
    AffinityDataset,
    BoundaryDataset,
    ClassifierDataset,
    SegmentationDataset,
    mask_reader,
)
from anyshot.retab.options import Affinity, Boundary, Classifier, Crops, Segmentation
from tests.reference import affinity as reference
from tests.reference import resample

TABLE = ClassTable.of(("background", "cat", "car", "boat"), ids=(0, 7, 30, 12))
IDS = np.array(TABLE.ids, dtype=np.uint8)
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]
NO_JITTER = [0.0, 0.0, 0.0, 0.0]

Make = Callable[..., Sample]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write an image whose colours tell the class of every pixel (index k is k * 40 in all channels)."""

    def written(name: str, indices: np.ndarray, *, labels: tuple[int, ...] = (7,)) -> Sample:
        image, mask = tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png"
        shown = np.where(indices == 255, 200, indices * 40).astype(np.uint8)
        write_image(image, np.repeat(shown[..., None], 3, axis=2))
        void = indices == 255
        write_mask(mask, np.where(void, 255, IDS[np.where(void, 0, indices)]).astype(np.uint8), TABLE)
        return Sample(name, image, mask, "train", labels)

    return written


def regions(height: int, width: int, *, seed: int = 0, void: bool = False) -> np.ndarray:
    """Index map of random 5 px blocks."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 4, size=(height // 5 + 1, width // 5 + 1))
    if void:
        blocks[rng.random(blocks.shape) < 0.2] = 255
    return blocks.repeat(5, axis=0).repeat(5, axis=1)[:height, :width]


def colours(image: torch.Tensor) -> np.ndarray:
    """Normalised image -> grey levels (H, W)."""
    levels = image.numpy().transpose(1, 2, 0) * STD + MEAN
    return np.round(255 * levels).astype(int)[..., 0]


def crops(**changes: object) -> Crops:
    return Crops(**{"crop": 48, "jitter": NO_JITTER, **changes})  # type: ignore[arg-type]


def boundary(samples: list[Sample], **changes: object) -> BoundaryDataset:
    options = Boundary(crops=changes.pop("crops", crops()), **changes)  # type: ignore[arg-type]
    return BoundaryDataset(
        samples=samples, table=TABLE, read_base_mask=mask_reader(samples), options=options, mean=MEAN, std=STD
    )


@pytest.mark.parametrize(("height", "width"), [(90, 100), (30, 100), (20, 25), (48, 48)])
def test_image_and_labels_move_together(make: Make, height: int, width: int) -> None:
    """Crop, padding and mirror: each label is the one that its own pixel's colour tells."""
    data = boundary([make("a", regions(height, width, void=True))])
    for seed in range(6):
        item = data.item(0, np.random.default_rng(seed))
        assert item["image"].shape == (3, 48, 48)
        assert item["labels"].dtype == torch.uint8
        labels = item["labels"].numpy()
        expected = np.where(labels == 255, 200, labels.astype(int) * 40)
        assert (colours(item["image"]) == expected).all()


@pytest.mark.parametrize("image_pad", ["black", "mean"])
@pytest.mark.parametrize("pad_label", [0, 255])
def test_padding_of_boundary_crops(make: Make, pad_label: int, image_pad: str) -> None:
    """P3: official padding is black and background; `255` is ignored (254 here: 255 is the contour)."""
    data = boundary([make("a", np.full((20, 25), 2))], crops=crops(pad_label=pad_label, image_pad=image_pad))
    item = data.item(0, np.random.default_rng(0))
    labels = item["labels"].numpy()
    inside = labels == 2
    assert inside.sum() == 20 * 25
    assert (labels[~inside] == (0 if pad_label == 0 else 254)).all()
    padding = item["image"].numpy()[:, ~inside]
    if image_pad == "black":
        assert padding == pytest.approx(
            np.repeat([[-2.0], [-2.0], [-3.0]], padding.shape[1], axis=1), abs=1e-5
        )
    else:
        assert np.abs(padding).max() < 0.5 / 255 / min(STD) + 1e-6


def test_synthesised_contour(make: Make) -> None:
    """P1: drawn where a mask has no 255 at all; masks with a contour keep their own."""
    indices = np.zeros((48, 48), dtype=int)
    indices[:, 24:] = 1
    with_own = indices.copy()
    with_own[0, 0] = 255
    samples = [make("plain", indices), make("own", with_own)]
    official = boundary(samples).item(0, np.random.default_rng(0))["labels"]
    assert not (official == 255).any()
    drawn = boundary(samples, contour="synthesise", contour_width=5)
    assert (drawn.item(0, np.random.default_rng(0))["labels"] == 255).sum() == 5 * 48
    assert (drawn.item(1, np.random.default_rng(0))["labels"] == 255).sum() == 1


def affinity(samples: list[Sample], base: set[str], **changes: object) -> AffinityDataset:
    options = Affinity(crops=changes.pop("crops", crops()))  # type: ignore[arg-type]
    base_samples = [sample for sample in samples if sample.id in base]
    return AffinityDataset(
        samples=samples,
        table=TABLE,
        base_ids=frozenset(base),
        read_base_mask=mask_reader(base_samples),
        read_crf=changes.pop("read_crf", None),  # type: ignore[arg-type]
        open_maps=changes.pop("open_maps", None),  # type: ignore[arg-type]
        options=options,
        mean=MEAN,
        std=STD,
    )


def window_of(seed: int, height: int, width: int) -> CropWindow:
    """The crop that an item takes: the colours draw first, then the window."""
    rng = np.random.default_rng(seed)
    colour_jitter(np.zeros((height, width, 3), dtype=np.uint8), NO_JITTER, rng)
    return random_crop(height, width, 48, rng)


@pytest.mark.parametrize("pad_label", [0, 255])
@pytest.mark.parametrize(("height", "width"), [(90, 100), (40, 60), (21, 27)])
def test_base_labels_are_the_top_left_pixel_of_each_block(
    make: Make, height: int, width: int, pad_label: int
) -> None:
    """retab.md 2.8; padding is background (P3) or ignored, void pixels are ignored."""
    indices = regions(height, width, void=True)
    data = affinity([make("a", indices)], {"a"}, crops=crops(pad_label=pad_label, mirror=False))
    for seed in range(4):
        window = window_of(seed, height, width)
        canvas = np.full((48, 48), pad_label)
        canvas[window.target] = indices[window.source]
        labels = data.item(0, np.random.default_rng(seed))["labels"]
        assert labels.tolist() == [[canvas[8 * i, 8 * j] for j in range(6)] for i in range(6)]


def test_mirror_turns_image_and_label_grid(make: Make) -> None:
    samples = [make("a", regions(90, 100))]
    straight, mirrored = (affinity(samples, {"a"}, crops=crops(mirror=m)) for m in (False, True))
    turned = 0
    for seed in range(12):
        one, two = (data.item(0, np.random.default_rng(seed)) for data in (straight, mirrored))
        same = torch.equal(one["image"], two["image"])
        turned += not same
        direction = (lambda t: t) if same else (lambda t: t.flip(-1))
        assert torch.equal(two["image"], direction(one["image"]))
        assert torch.equal(two["labels"], direction(one["labels"]))
    assert 1 < turned < 11


class Results:
    """CRF results and open maps of one image; remembers the windows that were read."""

    def __init__(self, height: int, width: int, *, k: int = 2) -> None:
        rng = np.random.default_rng(3)
        coarse = rng.dirichlet(np.ones(k + 1), size=(2, height // 6 + 1, width // 6 + 1))
        maps = coarse.transpose(0, 3, 1, 2).repeat(6, axis=2).repeat(6, axis=3)
        self.maps = maps[:, :, :height, :width].astype(np.float16)
        self.opened = (rng.random((height, width)) < 0.7).astype(np.uint8)
        self.windows: list[tuple[int, int, int, int]] = []

    def crf(self, sample_id: str, window: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        self.windows.append(window)
        y0, y1, x0, x1 = window
        return self.maps[0][:, y0:y1, x0:x1], self.maps[1][:, y0:y1, x0:x1]

    def open_map(self, sample_id: str) -> np.ndarray:
        return self.opened


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("height", "width"), [(90, 100), (30, 100), (21, 27)])
def test_labels_of_novel_images(make: Make, height: int, width: int, gated: bool) -> None:
    """Block means of `la` and `ha` in the crop, merged cell by cell, minus boundary cells (retab.md 2.8)."""
    results = Results(height, width)
    data = affinity(
        [make("n", regions(height, width))],
        set(),
        read_crf=results.crf,
        open_maps=results.open_map if gated else None,
        crops=crops(mirror=False),
    )
    for seed in range(3):
        labels = data.item(0, np.random.default_rng(seed))["labels"].numpy()
        window = window_of(seed, height, width)
        assert results.windows[-1] == window.window
        canvas = np.zeros((2, 3, 48, 48))
        canvas[:, :, *window.target] = results.maps[:, :, *window.source]
        low, high = (resample.pool(part) for part in canvas)
        opened = None
        if gated:
            opened_canvas = np.zeros((48, 48), dtype=bool)
            opened_canvas[window.target] = results.opened[window.source] != 0
            opened = opened_canvas[::8, ::8]
        assert labels.tolist() == reference.novel_labels(low, high, opened).tolist()


def test_mask_of_a_novel_image_cannot_be_read(make: Make) -> None:
    """The weak-shot promise: no stage can open a novel image's mask, and a missing CRF result is an error."""
    base, novel = make("b", regions(30, 30)), make("n", regions(30, 30))
    read = mask_reader([base])
    assert read("b").shape == (30, 30)
    with pytest.raises(DataError, match="mask of n may not be read"):
        read("n")
    with pytest.raises(DataError, match="image n is no base image, and no CRF results"):
        affinity([base, novel], {"b"}).item(1, np.random.default_rng(0))
    assert novel.mask is not None
    novel.mask.unlink()
    results = Results(30, 30)
    data = affinity([base, novel], {"b"}, read_crf=results.crf, open_maps=results.open_map)
    assert data.item(1, np.random.default_rng(0))["labels"].shape == (6, 6)
    with pytest.raises(DataError, match="may not be read"):
        mask_reader([Sample("x", base.image, None, "train", (7,))])("x")


def test_multi_hot_targets(make: Make) -> None:
    """One entry per foreground class, in table order, whatever the ids."""
    data = ClassifierDataset(
        samples=[make("a", regions(30, 40), labels=(7, 12)), make("b", regions(30, 40), labels=(30,))],
        table=TABLE,
        options=Classifier(crop=32, long_side=[24, 60], jitter=NO_JITTER),
        mean=MEAN,
        std=STD,
    )
    assert data.item(0, np.random.default_rng(0))["target"].tolist() == [1, 0, 1]
    item = data.item(1, np.random.default_rng(1))
    assert item["target"].tolist() == [0, 1, 0]
    assert item["image"].shape == (3, 32, 32)


def test_classifier_pads_with_the_mean_colour(make: Make) -> None:
    """retab.md 2.3: a small image lies at a random offset in a canvas of zeros after the normalisation."""
    data = ClassifierDataset(
        samples=[make("a", np.full((10, 40), 3))],
        table=TABLE,
        options=Classifier(crop=64, long_side=[40, 40], jitter=NO_JITTER),
        mean=MEAN,
        std=STD,
    )
    offsets = set()
    for seed in range(6):
        image = data.item(0, np.random.default_rng(seed))["image"]
        shown = (image != 0).any(dim=0)
        assert shown.sum() == 400
        offsets.add(tuple(shown.nonzero()[0].tolist()))
    assert len(offsets) > 3


def test_image_of_background_alone_has_all_zeros(make: Make) -> None:
    data = ClassifierDataset(
        samples=[make("empty", regions(20, 20), labels=())],
        table=TABLE,
        options=Classifier(crop=32, long_side=[32, 32]),
        mean=MEAN,
        std=STD,
    )
    assert not data.item(0, np.random.default_rng(0))["target"].any()


def segmentation(sample: Sample, **changes: object) -> SegmentationDataset:
    options = Segmentation(**{"crop": 64, "jitter": NO_JITTER, **changes})  # type: ignore[arg-type]
    return SegmentationDataset(
        samples=[sample],
        table=TABLE,
        read_labels=mask_reader([sample]),
        options=options,
        mean=MEAN,
        std=STD,
    )


def test_segmentation_padding_is_right_and_bottom(make: Make) -> None:
    """retab.md 4: image 0 after normalisation, label 255."""
    item = segmentation(make("a", np.full((20, 40), 1)), long_side=[40, 40]).item(0, np.random.default_rng(0))
    labels = item["labels"].numpy()
    assert (labels[:20, :40] == 1).all()
    labels[:20, :40] = 255
    assert (labels == 255).all()
    assert not item["image"][:, 20:].any()
    assert not item["image"][:, :, 40:].any()
    assert item["image"][:, :20, :40].all()


def test_segmentation_labels_follow_the_image(make: Make) -> None:
    """Rescaled, mirrored and cropped: away from edges the colour still tells the label."""
    indices = np.zeros((60, 80), dtype=int)
    indices[:30, 40:], indices[30:, :40], indices[30:, 40:] = 1, 2, 3
    data = segmentation(make("a", indices), long_side=[70, 160])
    firsts = set()
    for seed in range(8):
        item = data.item(0, np.random.default_rng(seed))
        labels, shown = item["labels"].numpy(), colours(item["image"])
        known = labels != 255
        assert (np.abs(shown - labels.astype(int) * 40) < 20)[known].mean() > 0.95
        firsts.add(int(labels[0, 0]))
    assert len(firsts) >= 2


def test_same_generator_same_sample(make: Make) -> None:
    sample = make("a", regions(70, 90, void=True))
    data = boundary([sample], crops=crops(jitter=[0.3, 0.3, 0.3, 0.1]))
    first, again, other = (data.item(0, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["labels"], again["labels"])
    assert not torch.equal(first["image"], other["image"])


def test_crop_must_hold_pairs() -> None:
    """Below 40 px the label grid has fewer than 5 cells a side, the radius falls to 1: nothing to learn."""
    assert Affinity(crops=Crops(crop=40)).crops.crop == 40
    with pytest.raises(ValueError, match="40 px or more"):
        Affinity(crops=Crops(crop=32))
