"""Splits: golden class lists, and the rules for base and novel samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyshot.data.ade20k_labels import ade20k_table
from anyshot.data.classes import ClassTable
from anyshot.data.coco_stuff_labels import THINGS, coco_stuff_table
from anyshot.data.manifest import Sample
from anyshot.data.options import ScenesData, VocData
from anyshot.data.prepare import prepare
from anyshot.data.readers.voc import voc_table
from anyshot.data.scenes import objects_table, stuff_things_table
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
    assert tuple(COCO) == THINGS
    for f, fold in enumerate(FOLDS):
        assert novel_class_names("coco_20i", fold) == COCO[f::4]


# simformer.md 1.3: ids by split; COCO's splits 4 to 9 are the first of one permutation.
COCO_STUFF_IDS = {
    "split1": "3 6 10 11 18 19 26 27 31 34 37 38 40 41 50 53 55 59 61 68 76 82 85 90 92 94 103 106 108 112"
    " 113 117 120 127 129 131 141 146 155 156 159 166 169",
    "split2": "1 3 6 7 9 10 13 27 31 35 38 40 43 44 53 62 68 74 77 80 82 84 86 99 101 108 110 111 116 118 121"
    " 122 125 131 137 141 148 153 155 156 160 161 166",
    "split3": "0 5 10 13 15 16 20 23 25 27 28 31 33 34 35 36 40 43 47 50 51 58 62 69 80 81 83 84 87 90 101"
    " 105 119 121 124 126 137 138 150 154 157 158 164",
}
COCO_STUFF_ORDER = (
    "170 112 3 26 121 69 50 87 14 13 58 106 17 134 164 161 100 151 24 114 25 92 12 61 102 113 89 110 76 128"
    " 149 57 144 137 46 27 83 133 162 37 109 33 40 82 47 0 31 111 66 91 120 136 39 157 163 45 28 131 9 49 19"
    " 155 150 1 4 68 130 42 132 75 71 48 7 85 116 96 93 159 139 115 95 105 78 156 54"
)
ADE20K_IDS = {
    "split1": "1 3 6 8 10 13 17 22 23 29 33 38 41 50 51 56 67 70 71 74 77 81 92 93 98 101 102 103 110 113 119"
    " 121 126 127 130 136 147 149",
    "split2": "0 10 21 27 28 29 34 40 42 43 51 57 58 65 66 68 69 73 76 78 85 88 90 100 105 110 111 112 113"
    " 114 117 123 124 132 134 139 142 146",
    "split3": "0 5 9 15 16 21 24 25 27 32 34 35 38 39 55 70 76 85 95 96 98 100 106 109 111 118 119 124 128"
    " 132 134 135 136 138 140 141 143 144",
    "split4": "5 11 13 16 21 24 26 32 35 42 53 56 60 61 63 64 68 70 75 82 91 93 94 99 100 105 111 115 118 121"
    " 122 130 132 135 137 138 141 143",
}
COCO_STUFF_SIZES = [43, 43, 43, 43, 51, 59, 68, 76, 85]


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def ids_by_split(scheme: str, table: ClassTable) -> dict[str, list[int]]:
    return {split: table.ids_of(novel_class_names(scheme, split)) for split in split_names(scheme)}


def test_coco_stuff_weak_has_the_published_ids() -> None:
    order = numbers(COCO_STUFF_ORDER)
    assert len(order) == len(set(order)) == 85
    expected = {split: numbers(text) for split, text in COCO_STUFF_IDS.items()}
    for split, size in enumerate(COCO_STUFF_SIZES[3:], start=4):
        expected[f"split{split}"] = sorted(order[:size])
    found = ids_by_split("coco_stuff_weak", coco_stuff_table())
    assert found == expected
    assert list(found) == [f"split{number}" for number in range(1, 10)]
    assert [len(ids) for ids in found.values()] == COCO_STUFF_SIZES
    main = [found[f"split{number}"] for number in range(1, 5)]
    assert [sum(number < 80 for number in ids) for ids in main] == [21, 19, 24, 19]
    assert len({number for ids in main for number in ids}) == 116


def test_ade20k_weak_has_the_published_ids() -> None:
    found = ids_by_split("ade20k_weak", ade20k_table(first=0))
    assert found == {split: numbers(text) for split, text in ADE20K_IDS.items()}
    assert [len(ids) for ids in found.values()] == [38, 38, 38, 38]
    assert len({number for ids in found.values() for number in ids}) == 108
    # Published masks count from 1; the names are the same.
    raw = ids_by_split("ade20k_weak", ade20k_table(first=1))
    assert raw == {split: [number + 1 for number in ids] for split, ids in found.items()}


def test_scenes_weak_has_a_quarter_of_the_classes_in_each_split() -> None:
    found = ids_by_split("scenes_weak", stuff_things_table())
    assert list(found) == ["split1", "split2"]
    for ids in found.values():
        assert len(ids) == round(26 / 4) == 6
        assert ids == sorted(ids)
        assert sum(number < 20 for number in ids) == 5
    assert set(found["split1"]).isdisjoint(found["split2"])


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


def test_splits_may_differ_in_size_where_the_file_says_so() -> None:
    asserted = {"splits": 2, "novel_classes_per_split": [2, 1], "distinct_novel_classes": 2}
    splits = {"a": ["x", "y"], "b": ["y"]}
    assert checked_splits({"asserted": asserted, "splits": splits}, "test") == splits
    for wrong in ([1, 2], [2], [2, 1, 1], 2, 1):
        content = {"asserted": {**asserted, "novel_classes_per_split": wrong}, "splits": splits}
        with pytest.raises(DataError, match="damaged"):
            checked_splits(content, "test")
    with pytest.raises(DataError, match="damaged"):
        checked_splits({"asserted": asserted, "splits": {"a": ["x", "x"], "b": ["y"]}}, "test")


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
