"""Cityscapes: the label table, the reader, and mask values that are void."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.data.cityscapes_labels import TRAIN_IDS, VOID_LABELS, cityscapes_table, to_train_ids
from anyshot.data.images import write_image
from anyshot.data.options import CityscapesData, FolderData, Prepare
from anyshot.data.prepare import prepare
from anyshot.data.readers import read
from anyshot.errors import DataError

from .layouts import mask_of, options, picture
from .test_readers import ReaderBattery

# raml.md section 1.2
TRAIN_ID_OF = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
    27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
# By subset and city: the frame, and the label ids in its mask.
FRAMES = {
    ("train", "ulm"): {"ulm_000047_000019": (7, 23, 0)},
    ("train", "bremen"): {"bremen_000158_000019": (7, 26), "bremen_000011_000019": (1, 28, 33, 255)},
    ("val", "lindau"): {"lindau_000000_000019": (7, 8, 9, 10)},
    ("test", "berlin"): {"berlin_000000_000019": (0,)},
}


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """The official layout with five frames: three to train, one for validation, one for the unread test."""
    root = tmp_path / "cityscapes"
    for (subset, city), frames in FRAMES.items():
        masks = root / "gtFine" / subset / city
        masks.mkdir(parents=True)
        for number, (stem, labels) in enumerate(frames.items()):
            write_image(
                root / "leftImg8bit" / subset / city / f"{stem}_leftImg8bit.png", picture(seed=number)
            )
            Image.fromarray(mask_of(*labels)).save(masks / f"{stem}_gtFine_labelIds.png")
            Image.fromarray(mask_of(0)).save(masks / f"{stem}_gtFine_instanceIds.png")
    return root


class TestCityscapes(ReaderBattery):
    @pytest.fixture
    def source(self, cityscapes: Path) -> CityscapesData:
        return CityscapesData(root=str(cityscapes))

    def test_every_file_is_there_and_fits(self, prepared) -> None:  # type: ignore[no-untyped-def]
        for sample in prepared[0].samples():
            assert sample.image.is_file()
            values = np.unique(np.asarray(Image.open(sample.mask))).tolist()
            assert set(values) <= {*prepared[1].ids, *VOID_LABELS, prepared[1].ignore}

    def test_cities_and_frames_are_sorted_and_test_is_not_read(self, source: CityscapesData) -> None:
        data = read("cityscapes", source)
        assert [(sample.subset, sample.id) for sample in data.samples] == [
            ("train", "bremen_000011_000019"),
            ("train", "bremen_000158_000019"),
            ("train", "ulm_000047_000019"),
            ("val", "lindau_000000_000019"),
        ]

    def test_void_labels_are_no_problem_and_no_label(self, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, table, card = prepared
        assert manifest.by_id("ulm_000047_000019").labels == (7, 23)
        assert manifest.by_id("lindau_000000_000019").labels == (7, 8)
        assert card["problems"]["count"] == 0
        assert card["subsets"]["train"]["images_with_void"] == 2
        assert card["subsets"]["val"]["void_share"] == pytest.approx(1 / 2)
        void_px = {9: 0, 10: 0, 7: 8 * 24, 8: 8 * 24}
        for row in card["subsets"]["val"]["classes"]:
            assert row["pixels"] == void_px.get(row["id"], 0)
        assert json.loads(json.dumps(card)) == card
        assert table == cityscapes_table()

    def test_values_that_are_no_label_are_still_a_problem(self, cityscapes: Path, tmp_path: Path) -> None:
        path = cityscapes / "gtFine" / "val" / "lindau" / "lindau_000000_000019_gtFine_labelIds.png"
        Image.fromarray(mask_of(7, 34)).save(path)
        with pytest.raises(DataError, match=r"34 \(384 px\); allowed are 19 ids, 7..33, and 0, 1, .*30, 255"):
            prepare(options(CityscapesData(root=str(cityscapes))), folder=tmp_path)

    def test_a_missing_mask_is_named(self, cityscapes: Path, tmp_path: Path) -> None:
        path = cityscapes / "gtFine" / "train" / "ulm" / "ulm_000047_000019_gtFine_labelIds.png"
        path.unlink()
        with pytest.raises(DataError, match=r"missing mask: 1.*\n.*ulm_000047_000019_gtFine_labelIds.png"):
            prepare(options(CityscapesData(root=str(cityscapes))), folder=tmp_path)

    def test_one_subset_alone_is_enough(self, cityscapes: Path) -> None:
        (cityscapes / "leftImg8bit" / "train").rename(cityscapes / "train")
        assert [s.subset for s in read("cityscapes", CityscapesData(root=str(cityscapes))).samples] == ["val"]
        (cityscapes / "leftImg8bit" / "val").rename(cityscapes / "val")
        with pytest.raises(DataError, match="neither of the folders train, val"):
            read("cityscapes", CityscapesData(root=str(cityscapes)))

    def test_an_empty_subset_and_a_missing_half_are_named(self, cityscapes: Path) -> None:
        next((cityscapes / "leftImg8bit" / "val" / "lindau").iterdir()).unlink()
        with pytest.raises(DataError, match=r"val: no images <city>/<stem>_leftImg8bit.png"):
            read("cityscapes", CityscapesData(root=str(cityscapes)))
        (cityscapes / "gtFine").rename(cityscapes / "gtCoarse")
        with pytest.raises(DataError, match="no folder gtFine here"):
            read("cityscapes", CityscapesData(root=str(cityscapes)))


def test_the_35_rows_are_the_published_ones() -> None:
    assert len(TRAIN_IDS) == 35
    assert TRAIN_IDS[-1] == 255
    assert {label: n for label, n in enumerate(TRAIN_IDS[:-1]) if n != 255} == TRAIN_ID_OF
    assert {0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30} == VOID_LABELS


def test_a_train_id_is_a_position_in_the_table() -> None:
    table = cityscapes_table()
    assert table.index_of == TRAIN_ID_OF
    assert table.ids_of(["road", "traffic light", "car", "bicycle"]) == [7, 19, 26, 33]
    assert table.kinds.count("thing") == 8
    assert table.colours[table.index_of[26]] == (0, 0, 142)
    values = np.arange(256)
    assert (table.lookup()[values] == to_train_ids(np.where(values < 34, values, 255))).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_label_ids_become_train_ids(dtype: type) -> None:
    mask = np.array([[7, 8, 0], [33, 34 - 1, 255]], dtype=dtype)
    found = to_train_ids(mask)
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 1, 255], [18, 18, 255]]


def test_the_licence_plate_is_ignored_and_other_values_are_refused() -> None:
    assert to_train_ids(np.array([-1, 26])).tolist() == [255, 13]
    for value in (34, 254, -2):
        with pytest.raises(DataError, match=f"value {value} is no label id"):
            to_train_ids(np.array([7, value]))


def test_other_readers_have_no_void_values(folder: Path) -> None:
    assert read("folder", FolderData(root=str(folder))).void == frozenset()
    source = {"reader": "cityscapes", "root": "x"}
    assert Prepare.model_validate({"name": "x", "source": source}).source == CityscapesData(root="x")
