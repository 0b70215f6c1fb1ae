"""Splits: golden class lists, and the rules for base and novel samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyshot.data.manifest import Sample
from anyshot.data.options import ScenesData, VocData
from anyshot.data.prepare import prepare
from anyshot.data.readers.voc import voc_table
from anyshot.data.scenes import objects_table
from anyshot.data.splits import (
    JOINT,
    SCHEMES,
    base_novel_split,
    checked_splits,
    novel_class_names,
    split_names,
)
from anyshot.errors import ConfigError, DataError

from .layouts import options

FOLDS = ["fold0", "fold1", "fold2", "fold3"]
# COCO's categories in the order of its instances JSON.
COCO = [
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "table"), [("pascal_5i", voc_table()), ("scenes_5i", objects_table())])
def test_fold_i_holds_the_ids_5i_plus_1_to_5i_plus_5(scheme: str, table) -> None:  # type: ignore[no-untyped-def]
    assert split_names(scheme) == FOLDS
    for i, fold in enumerate(FOLDS):
        assert table.ids_of(novel_class_names(scheme, fold)) == list(range(5 * i + 1, 5 * i + 6))


def test_pascal_5i_by_name() -> None:
    assert novel_class_names("pascal_5i", "fold0") == ["aeroplane", "bicycle", "bird", "boat", "bottle"]
    assert novel_class_names("pascal_5i", "fold3") == ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]


def test_coco_20i_takes_every_fourth_category() -> None:
    assert split_names("coco_20i") == FOLDS
    assert len(COCO) == 80
    for f, fold in enumerate(FOLDS):
        assert novel_class_names("coco_20i", fold) == COCO[f::4]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_joint_has_no_novel_class_and_is_no_fold(scheme: str) -> None:
    assert novel_class_names(scheme, JOINT) == []
    assert JOINT not in split_names(scheme)
    novel_class_names(scheme, JOINT).append("x")
    assert novel_class_names(scheme, "joint") == []


def test_unknown_scheme_and_split_are_named() -> None:
    with pytest.raises(ConfigError, match="pascal_5i, scenes_5i, coco_20i"):
        novel_class_names("pascal5i", "fold0")
    with pytest.raises(ConfigError, match="fold0, fold1, fold2, fold3, joint"):
        novel_class_names("pascal_5i", "fold4")


def test_a_damaged_split_file_is_noticed() -> None:
    asserted = {"splits": 2, "novel_classes_per_split": 2, "distinct_novel_classes": 4}
    content = {"asserted": asserted, "splits": {"a": ["x", "y"], "b": ["y", "z"]}}
    with pytest.raises(DataError, match="damaged"):
        checked_splits(content, "test")


def test_rules_differ_where_annotations_name_more_than_masks(voc: Path, tmp_path: Path) -> None:
    samples = prepare(options(VocData(root=str(voc))), folder=tmp_path)[0].samples(["train", "train_sbd"])
    person = [15]  # a1: in the annotation only; b1: in both
    assert base_novel_split(samples, person) == (["a0", "a1", "b0"], ["b1"])
    assert base_novel_split(samples, person, rule="labels") == (["a0", "b0"], ["a1", "b1"])
    assert base_novel_split(samples, [1, 2]) == (["b1"], ["a0", "a1", "b0"])


def test_one_pixel_makes_an_image_novel(tmp_path: Path) -> None:
    mask = np.zeros((50, 50), dtype=np.uint8)
    mask[49, 49] = 3
    sample = Sample("a", tmp_path / "a.jpg", tmp_path / "a.png", "train", (3,))
    assert base_novel_split([sample], [3], "mask", lambda path: mask) == ([], ["a"])
    assert base_novel_split([sample], [4], "mask", lambda path: mask) == (["a"], [])


def test_rule_mask_needs_masks_and_unknown_rules_are_refused(tmp_path: Path) -> None:
    sample = Sample("a", tmp_path / "a.jpg", None, "train", (3,))
    with pytest.raises(DataError, match="1 of 1 samples have no mask"):
        base_novel_split([sample], [3])
    with pytest.raises(ConfigError, match="mask, labels"):
        base_novel_split([sample], [3], "boxes")  # type: ignore[arg-type]


def test_base_and_novel_cover_the_scenes_exactly(tmp_path: Path) -> None:
    samples = prepare(options(ScenesData(size=64, train=40, val=1)), folder=tmp_path)[0].samples(["train"])
    for fold in FOLDS:
        novel_ids = objects_table().ids_of(novel_class_names("scenes_5i", fold))
        base, novel = base_novel_split(samples, novel_ids)
        assert sorted(base + novel) == sorted(sample.id for sample in samples)
        assert (base, novel) == base_novel_split(samples, novel_ids, rule="labels")
        assert base
        assert novel
