"""Readers of large vocabularies: ADE20K with 847 classes, PASCAL-Context with 59 and 459; 16-bit masks."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.data.class_lists import shipped_list
from anyshot.data.images import read_mask, write_image
from anyshot.data.options import Ade20kFullData, DataOptions, PascalContextData, Prepare
from anyshot.data.prepare import prepare
from anyshot.data.readers import read
from anyshot.errors import DataError

from .layouts import mask_of, options, picture
from .test_readers import ReaderBattery

VOID = 65535
FOLDERS = {"train": "training", "val": "validation"}

Content = dict[str, dict[str, tuple[int, ...]]]  # ids by stem by subset


def write_wide(path: Path, *ids: int, bits: int = 16) -> None:
    """A mask of vertical stripes as TIFF; with 8 bits, ids wrap modulo 256 as in larvseg.md 6, item 15."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = np.array(ids, dtype=np.uint16)[mask_of(*range(len(ids)))]
    Image.fromarray(stripes.astype(np.uint16 if bits == 16 else np.uint8)).save(path)


def write_pairs(root: Path, images: str, masks: str, content: Content) -> None:
    for subset, masks_of_subset in content.items():
        for number, (stem, ids) in enumerate(masks_of_subset.items()):
            write_image(root / images / FOLDERS[subset] / f"{stem}.jpg", picture(seed=number))
            write_wide(root / masks / FOLDERS[subset] / f"{stem}.tif", *ids)


@pytest.fixture
def ade847(tmp_path: Path) -> Path:
    """What MaskFormer's conversion makes."""
    root = tmp_path / "data" / "ADE20K_2021_17_01"
    content: Content = {
        "train": {"ADE_train_00000002": (0, 300), "ADE_train_00000001": (255, VOID, 846)},
        "val": {"ADE_val_00000001": (65, VOID)},
    }
    write_pairs(root, "images_detectron2", "annotations_detectron2", content)
    return root


@pytest.fixture
def context459(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "pascal_ctx_d2"
    content: Content = {"train": {"2008_000002": (458, 1)}, "val": {"2008_000009": (255, 256, VOID)}}
    write_pairs(root, "images", "annotations_ctx459", content)
    return root


@pytest.fixture
def context59(tmp_path: Path) -> Path:
    """8-bit masks of the same layout."""
    root = tmp_path / "data" / "pascal_ctx_d2"
    for subset, ids in {"train": (0, 58, 255), "val": (12, 255)}.items():
        write_image(root / "images" / FOLDERS[subset] / f"{subset}.jpg", picture())
        folder = root / "annotations_ctx59" / FOLDERS[subset]
        folder.mkdir(parents=True)
        Image.fromarray(mask_of(*ids)).save(folder / f"{subset}.png")
    return root


@pytest.fixture
def voc2010(tmp_path: Path) -> Path:
    """mmsegmentation's layout: 0 is none of the 59."""
    root = tmp_path / "data" / "VOCdevkit" / "VOC2010"
    content: Content = {"train": {"b": (0, 59), "a": (1,)}, "val": {"c": (13, 0)}}
    lists = root / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    (root / "SegmentationClassContext").mkdir()
    for subset, masks in content.items():
        (lists / f"{subset}.txt").write_text("".join(f"{stem}\n" for stem in masks))
        for stem, ids in masks.items():
            write_image(root / "JPEGImages" / f"{stem}.jpg", picture())
            Image.fromarray(mask_of(*ids)).save(root / "SegmentationClassContext" / f"{stem}.png")
    return root


class TestAde20kFull(ReaderBattery):
    @pytest.fixture
    def source(self, ade847: Path) -> Ade20kFullData:
        return Ade20kFullData(root=str(ade847.parent))

    def test_ids_beyond_eight_bits_survive(self, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, table, card = prepared
        assert [(s.id, s.labels) for s in manifest.samples()] == [
            ("ADE_train_00000001", (255, 846)),
            ("ADE_train_00000002", (0, 300)),
            ("ADE_val_00000001", (65,)),
        ]
        assert (len(table), table.ignore, table.name_of(65)) == (847, VOID, "coffee-table")
        assert read_mask(manifest.by_id("ADE_train_00000001").mask).dtype == np.uint16
        assert card["subsets"]["train"]["images_with_void"] == 1

    def test_other_names_come_from_a_file_in_the_root(self, ade847: Path) -> None:
        (ade847 / "names.txt").write_text("".join(f"class {n}\n" for n in range(847)))
        data = read("ade20k_full", Ade20kFullData(root=str(ade847), classes="names.txt"))
        assert data.table.names[846] == "class 846"
        (ade847 / "names.txt").write_text("".join(f"class {n}\n" for n in range(846)))
        with pytest.raises(DataError, match=r"names.txt: found 846 classes, expected 847"):
            read("ade20k_full", Ade20kFullData(root=str(ade847), classes="names.txt"))
        with pytest.raises(DataError, match=r"nothing.txt: no such file"):
            read("ade20k_full", Ade20kFullData(root=str(ade847), classes="nothing.txt"))


class TestPascalContext459(ReaderBattery):
    @pytest.fixture
    def source(self, context459: Path) -> PascalContextData:
        return PascalContextData(root=str(context459.parent), classes=459)

    def test_labels(self, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, table, _ = prepared
        assert [s.labels for s in manifest.samples()] == [(1, 458), (255, 256)]
        assert (table.names[0], table.names[458], table.ignore) == ("accordion", "wool", VOID)


class TestPascalContext59(ReaderBattery):
    @pytest.fixture
    def source(self, context59: Path) -> PascalContextData:
        return PascalContextData(root=str(context59))

    def test_labels(self, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, table, _ = prepared
        assert [s.labels for s in manifest.samples()] == [(0, 58), (12,)]
        assert (table.name_of(0), table.name_of(58), table.ignore) == ("aeroplane", "wood", 255)


class TestVoc2010(ReaderBattery):
    @pytest.fixture
    def source(self, voc2010: Path) -> PascalContextData:
        return PascalContextData(root=str(voc2010.parent.parent))

    def test_every_file_is_there_and_fits(self, prepared) -> None:  # type: ignore[no-untyped-def]
        for sample in prepared[0].samples():
            values = set(np.unique(read_mask(sample.mask)).tolist())
            assert sample.image.is_file()
            assert values <= {0, *prepared[1].ids}

    def test_labels_and_order_of_the_lists(self, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, table, card = prepared
        assert [(s.id, s.labels) for s in manifest.samples()] == [("b", (59,)), ("a", (1,)), ("c", (13,))]
        assert table.name_of(59) == "wood"
        assert table.names == shipped_list("pascal_context59").names
        assert card["subsets"]["val"]["void_share"] == 0.5

    def test_a_missing_mask_is_named(self, voc2010: Path, tmp_path: Path) -> None:
        (voc2010 / "SegmentationClassContext" / "b.png").unlink()
        with pytest.raises(DataError, match=r"missing mask: 1"):
            prepare(options(PascalContextData(root=str(voc2010))), folder=tmp_path / "out")


@pytest.mark.parametrize("name", ["ade20k_full", "pascal_context"])
def test_labels_cut_to_eight_bits_are_refused(
    name: str, ade847: Path, context459: Path, tmp_path: Path
) -> None:
    source: DataOptions
    if name == "ade20k_full":
        source = Ade20kFullData(root=str(ade847))
        path = ade847 / "annotations_detectron2" / "validation" / "ADE_val_00000001.tif"
    else:
        source = PascalContextData(root=str(context459), classes=459)
        path = context459 / "annotations_ctx459" / "validation" / "2008_000009.tif"
    write_wide(path, 300, VOID, bits=8)
    assert set(np.unique(read_mask(path)).tolist()) == {44, 255}, "300 has become a class that exists"
    with pytest.raises(DataError, match=r"8-bit mask: 1.*\n.*only 16 bits hold.*65535 = ignored"):
        prepare(options(source), folder=tmp_path / "out")


def test_masks_of_the_other_vocabulary_are_refused(context59: Path, tmp_path: Path) -> None:
    write_wide(context59 / "annotations_ctx459" / "training" / "train.tif", 459)
    Image.fromarray(mask_of(58, 59)).save(context59 / "annotations_ctx59" / "validation" / "val.png")
    with pytest.raises(DataError, match=r"59 \(384 px\); allowed are 59 ids, 0..58, and 255 for"):
        prepare(options(PascalContextData(root=str(context59))), folder=tmp_path / "out")
    with pytest.raises(DataError, match=r"outside the class table: 459 \(768 px\); allowed are 459 ids"):
        prepare(options(PascalContextData(root=str(context59), classes=459)), folder=tmp_path / "out")


def test_void_images_are_left_out_with_a_warning(
    ade847: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_wide(ade847 / "annotations_detectron2" / "training" / "ADE_train_00000002.tif", VOID)
    with caplog.at_level(logging.WARNING):
        _, _, card = prepare(options(Ade20kFullData(root=str(ade847))), folder=tmp_path / "out")
    assert card["void_only"] == ["ADE_train_00000002"]
    assert "unknown ADE_train_00000002" in caplog.text


def test_files_without_partner_are_named_with_their_suffix(ade847: Path, tmp_path: Path) -> None:
    (ade847 / "annotations_detectron2" / "validation" / "ADE_val_00000001.tif").unlink()
    with pytest.raises(DataError, match=r"expected .*ADE_val_00000001\.tif; add it"):
        prepare(options(Ade20kFullData(root=str(ade847))), folder=tmp_path / "out")


def test_wrong_roots_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        read("ade20k_full", Ade20kFullData(root=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"own data: found no subset training/ or validation/ in images_"):
        read("ade20k_full", Ade20kFullData(root=str(folder)))
    with pytest.raises(DataError, match=r"annotations_ctx59/ alike, nor SegmentationClassContext/"):
        read("pascal_context", PascalContextData(root=str(folder)))
    with pytest.raises(DataError, match=r"annotations_ctx459/ alike; `root`"):
        read("pascal_context", PascalContextData(root=str(folder), classes=459))


def test_options_are_found_by_the_reader_name() -> None:
    made = Prepare.model_validate(
        {"name": "x", "source": {"reader": "pascal_context", "root": "x", "classes": 459}}
    )
    assert made.source == PascalContextData(root="x", classes=459)
    made = Prepare.model_validate({"name": "x", "source": {"reader": "ade20k_full", "root": "x"}})
    assert made.source == Ade20kFullData(root="x")
