"""Crops and what they tell of novel classes: none of their pixels, in `crop` mode their presence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from anyshot.data.classes import ClassTable
from anyshot.data.images import write_image, write_mask
from anyshot.data.manifest import Sample
from anyshot.errors import DataError
from anyshot.simformer.datasets import (
    CropDataset,
    Crops,
    PairDataset,
    Supervision,
    mask_labels,
    short_side_size,
)
from anyshot.simformer.options import Augmentation
from anyshot.simformer.pairing import ImageLabels, Partners
from anyshot.simformer.tables import WeakTables

TABLE = ClassTable.of(["sky", "tree", "cow", "dog"], ids=[3, 4, 7, 9])
TABLES = WeakTables.make(TABLE, ["dog", "cow"])  # indices 2 and 3
SMALL = Augmentation(crop=64, short_sides=[48, 72], longest=400, jitter=False)


def sample(folder: Path, name: str, mask: np.ndarray, labels: Sequence[int]) -> Sample:
    paths = folder / f"{name}.png", folder / f"{name}_mask.png"
    rng = np.random.default_rng(len(name))
    write_image(paths[0], rng.integers(0, 255, (*mask.shape, 3)).astype(np.uint8))
    write_mask(paths[1], mask, TABLE)
    return Sample(name, *paths, "train", tuple(labels))


def quarters(*values: int) -> np.ndarray:
    """A mask (60, 80) of four parts."""
    small = np.array(values, dtype=np.uint8).reshape(2, 2)
    return small.repeat(30, axis=0).repeat(40, axis=1)


def crops_of(
    samples: Sequence[Sample], supervision: Supervision, options: Augmentation = SMALL
) -> CropDataset:
    return CropDataset(
        samples=samples, read=mask_labels(TABLES, supervision=supervision), tables=TABLES,
        supervision=supervision,
        crops=Crops(options, mean=[0.5] * 3, std=[0.25] * 3),
    )  # fmt: skip


def items(data: CropDataset, count: int = 20) -> list[dict[str, Tensor]]:
    return [data.item(0, np.random.default_rng(seed)) for seed in range(count)]


@pytest.fixture
def mixed(tmp_path: Path) -> Sample:
    """Sky, tree, dog and void."""
    return sample(tmp_path, "mixed", quarters(3, 4, 9, 255), [3, 4, 9])


def test_a_crop_shows_base_classes_and_hides_novel_ones(mixed: Sample) -> None:
    for item in items(crops_of([mixed], "crop")):
        assert set(item["labels"].unique().tolist()) <= {0, 1, 255}
        assert item["image"].shape == (3, 64, 64)
        assert (item["labels"][item["pad"]] == 255).all()
        assert torch.allclose(
            item["image"][:, item["pad"]], torch.tensor((128 / 255 - 0.5) / 0.25), atol=1e-5
        )


def test_labels_follow_the_pixels_through_scale_crop_and_mirror(tmp_path: Path) -> None:
    coloured = sample(tmp_path, "coloured", quarters(3, 4, 4, 3), [3, 4])
    colours = {3: (200, 10, 10), 4: (10, 200, 10)}
    mask = quarters(3, 4, 4, 3)
    image = np.zeros((*mask.shape, 3), np.uint8)
    for value, colour in colours.items():
        image[mask == value] = colour
    cv2.imwrite(str(coloured.image), image[..., ::-1])
    seen = set()
    for item in items(crops_of([coloured], "crop"), count=30):
        red = item["image"][0] > item["image"][1]
        valid = item["labels"] != 255
        agreement = (red == (item["labels"] == 0))[valid].float().mean()
        assert agreement > 0.95  # but for pixels that the resize blends at borders
        seen.add(bool(item["labels"][0, 0] == 0))
    assert seen == {True, False}


def test_image_labels_stay_whatever_the_crop_shows(mixed: Sample) -> None:
    small = Augmentation(crop=32, short_sides=[200], longest=400, jitter=False)
    by_image, by_crop = (items(crops_of([mixed], mode, small)) for mode in ("image", "crop"))
    assert all(item["novel"].tolist() == [False, False, False, True] for item in by_image)
    assert {tuple(item["novel"].tolist()) for item in by_crop} == {(False,) * 4, (False, False, False, True)}


@pytest.mark.parametrize("supervision", ["image", "none"])
def test_no_pixel_of_a_novel_class_is_read(mixed: Sample, tmp_path: Path, supervision: Supervision) -> None:
    """The leak test: void in place of novel pixels, any novel class in place of another, changes no bit."""
    (tmp_path / "other").mkdir()
    wanted = items(crops_of([mixed], supervision))
    for values in ((3, 4, 255, 255), (3, 4, 7, 9)):
        other = sample(tmp_path / "other", "mixed", quarters(*values), mixed.labels)
        other = dataclasses.replace(other, image=mixed.image)
        for found, expected in zip(items(crops_of([other], supervision)), wanted, strict=True):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_counts_are_those_of_the_losses(mixed: Sample) -> None:
    for item in items(crops_of([mixed], "crop")):
        masks = len([value for value in item["labels"].unique().tolist() if value != 255])
        missing = int(item["novel"].sum())
        assert item["counts"].tolist() == [1, masks + missing, masks, float(missing > 0)]


def test_the_oracle_sees_all_masks_and_ignore_novel_none(mixed: Sample) -> None:
    whole = Augmentation(crop=96, short_sides=[60], longest=400, jitter=False)
    oracle, unseen = (
        crops_of([mixed], mode, whole).item(0, np.random.default_rng(0)) for mode in ("masks", "none")
    )
    assert set(oracle["labels"].unique().tolist()) == {0, 1, 3, 255}
    assert set(unseen["labels"].unique().tolist()) == {0, 1, 255}
    assert not oracle["novel"].any()
    assert not unseen["novel"].any()


def test_a_crop_around_a_rare_pixel_is_found(tmp_path: Path) -> None:
    mask = np.full((300, 300), 255, np.uint8)
    mask[7, 290] = 4
    tiny = Augmentation(crop=32, short_sides=[300], longest=400, jitter=False)
    one = sample(tmp_path, "rare", mask, [4])
    for item in items(crops_of([one], "crop", tiny), count=3):
        assert (item["labels"] == 1).sum() == 1


def test_an_image_without_mask_is_learnt_from_its_labels_or_refused(tmp_path: Path) -> None:
    bare = dataclasses.replace(sample(tmp_path, "bare", quarters(3, 4, 9, 9), [4, 9]), mask=None)
    item = crops_of([bare], "image").item(0, np.random.default_rng(0))
    assert (item["labels"] == 255).all()
    assert item["novel"].tolist() == [False, True, False, True]  # the base class, too, is known by name alone
    with pytest.raises(DataError, match=r"bare has no mask: set `joint\.novel_label_source: image`"):
        crops_of([bare], "crop").item(0, np.random.default_rng(0))


def test_a_pair_is_two_crops_and_repeats(tmp_path: Path) -> None:
    both = [
        sample(tmp_path, "one", quarters(3, 4, 9, 9), [3, 4, 9]),
        sample(tmp_path, "other", quarters(3, 3, 9, 7), [3, 7, 9]),
    ]
    labels = ImageLabels.of((one.id, *TABLES.labels_of(one)) for one in both)
    pairs = PairDataset(
        images=crops_of(both, "crop"), partners=Partners(labels, mode="deconfounded", rare_share=0.01)
    )
    item = pairs.item(0, np.random.default_rng(5))
    assert item["image"].shape == (2, 3, 64, 64)
    assert item["counts"].shape == (4,)
    assert item["counts"][0] == 2
    again = pairs.item(0, np.random.default_rng(5))
    assert all(torch.equal(item[name], again[name]) for name in item)


def test_sizes_keep_the_aspect_and_the_longest_side() -> None:
    assert short_side_size(480, 640, 320, 2560) == (320, 427)
    assert short_side_size(100, 1000, 640, 2560) == (256, 2560)
