"""Small data sets in every layout, written to a temporary folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from anyshot.data.classes import ClassTable
from anyshot.data.images import write_image, write_mask
from anyshot.data.readers.voc import voc_table

from .layouts import annotation, mask_of, picture


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOC layout: train a0, a1; trainaug adds b0, b1; val c0. a1's annotation names more than its mask."""
    root = tmp_path / "VOC2012"
    masks = {"a0": (0, 1, 255), "a1": (0, 2), "b0": (0, 3, 1), "b1": (0, 15), "c0": (0, 20, 255)}
    lists = {"train": ("a0", "a1"), "train_aug": ("a0", "b0", "a1", "b1"), "val": ("c0",)}
    boxes = {
        "a0": ("aeroplane",),
        "a1": ("bicycle", "person"),
        "b0": ("bird", "aeroplane"),
        "b1": ("person",),
    }
    for number, (name, ids) in enumerate(masks.items()):
        write_image(root / "JPEGImages" / f"{name}.jpg", picture(seed=number))
        write_mask(root / "SegmentationClassAug" / f"{name}.png", mask_of(*ids), voc_table())
        text = annotation(*boxes.get(name, ("tvmonitor",)))
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(text)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, ids_of_list in lists.items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids_of_list) + "\n")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder layout: three training images, two for validation, classes 0 road, 1 car, 2 tree."""
    root = tmp_path / "own data"
    table = ClassTable.of(("road", "car", "tree"))
    for subset, masks in {"train": [(0, 1), (1, 255), (2,)], "val": [(0,), (1, 2)]}.items():
        for number, ids in enumerate(masks):
            write_image(root / "images" / subset / f"{subset} {number}.png", picture(seed=number))
            write_mask(root / "masks" / subset / f"{subset} {number}.png", mask_of(*ids), table)
    (root / "classes.csv").write_text("id,name\n0,road\n1,car\n2,tree\n")
    return root


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Three wnids with two images each; two classes are called the same, one has no name."""
    root = tmp_path / "imagenet"
    for number, wnid in enumerate(("n02", "n01", "n03")):
        for image in range(2):
            write_image(root / wnid / f"{wnid}_{image}.png", picture(seed=number))
            (root / wnid / f"{wnid}_{image}.png").rename(root / wnid / f"{wnid}_{image}.JPEG")
    (root / "names.csv").write_text("n01,crane\nn02,crane\n")
    return root
