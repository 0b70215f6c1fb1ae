"""Every kind of broken data set stops the stage with a message that names the file and what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.data.classes import ClassTable
from anyshot.data.images import read_mask, write_image, write_mask
from anyshot.data.manifest import Manifest
from anyshot.data.options import FolderData, Prepare, ScenesData, VocData
from anyshot.data.prepare import prepare
from anyshot.errors import DataError

from .layouts import mask_of, options, picture

TABLE = ClassTable.of(("road", "car", "tree"))


def mask_file(folder: Path) -> Path:
    return folder / "masks" / "train" / "train 1.png"


def image_file(folder: Path) -> Path:
    return folder / "images" / "train" / "train 1.png"


def stop(folder: Path) -> str:
    """The message of the error that the folder causes."""
    with pytest.raises(DataError) as raised:
        prepare(options(FolderData(root=str(folder))), folder=folder)
    return str(raised.value)


@pytest.mark.parametrize("reader", ["voc", "folder", "imagenet", "coco_stuff10k", "ade20k"])
def test_missing_root_is_named(tmp_path: Path, reader: str) -> None:
    source = {"reader": reader, "root": str(tmp_path / "no such folder")}
    with pytest.raises(DataError, match=r"no such folder does not exist"):
        prepare(Prepare.model_validate({"name": "x", "source": source}), folder=tmp_path)


def test_layout_mistaken_for_another_is_named(folder: Path, voc: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is this VOC's layout"):
        prepare(options(VocData(root=str(folder))), folder=tmp_path)
    with pytest.raises(DataError, match=r"classes.csv: no such file"):
        prepare(options(FolderData(root=str(voc))), folder=tmp_path)


def test_mask_of_another_size(folder: Path) -> None:
    write_mask(mask_file(folder), mask_of(1, height=12), TABLE)
    message = stop(folder)
    assert "size mismatch: 1" in message
    assert f"{mask_file(folder)}: the mask is 32 x 12, its image is 32 x 24 px" in message


def test_missing_mask(folder: Path) -> None:
    mask_file(folder).unlink()
    assert f"{mask_file(folder)}: no such mask file" in stop(folder)


def test_missing_image(voc: Path, tmp_path: Path) -> None:
    (voc / "JPEGImages" / "b0.jpg").unlink()
    with pytest.raises(DataError, match=r"missing image: 1.*\n.*b0.jpg: no such image file"):
        prepare(options(VocData(root=str(voc))), folder=tmp_path)


def test_truncated_jpeg(voc: Path, tmp_path: Path) -> None:
    path = voc / "JPEGImages" / "a1.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"unreadable image: 1.*\n.*a1.jpg.*truncated"):
        prepare(options(VocData(root=str(voc))), folder=tmp_path)
    # Only headers are read where that is asked for, so the fault is not seen.
    manifest, _, _ = prepare(options(VocData(root=str(voc), decode=False)), folder=tmp_path)
    assert len(manifest) == 5


def test_gray_cmyk_and_sixteen_bit_images_are_fine(folder: Path) -> None:
    rgb = Image.fromarray(picture())
    rgb.convert("L").save(image_file(folder))
    rgb.convert("CMYK").save(folder / "images" / "train" / "train 2.png", format="JPEG")
    deep = np.full((24, 32), 40_000, dtype=np.uint16)
    Image.fromarray(deep).save(folder / "images" / "train" / "train 0.png")
    manifest, _, card = prepare(options(FolderData(root=str(folder))), folder=folder)
    assert len(manifest) == 5
    assert card["problems"]["count"] == 0


def test_rgb_mask(folder: Path) -> None:
    Image.open(mask_file(folder)).convert("RGB").save(mask_file(folder))
    assert "saved through colour" in stop(folder)


def test_palette_turned_to_gray_values_is_caught_by_the_class_table(folder: Path) -> None:
    # What OpenCV's grayscale reading makes of a palette mask: id 1 becomes 38.
    gray = Image.open(mask_file(folder)).convert("L")
    gray.save(mask_file(folder))
    assert 1 not in read_mask(mask_file(folder))
    assert "ids outside the table: 1" in stop(folder)


def test_ids_outside_the_table_are_listed_with_their_pixels(folder: Path) -> None:
    write_mask(mask_file(folder), mask_of(1, 7), TABLE)
    assert "7 (384 px); allowed are 3 ids, 0..2, and 255" in stop(folder)


def test_image_without_labels(folder: Path) -> None:
    write_mask(mask_file(folder), mask_of(255), TABLE)
    assert "no labels: 1" in stop(folder)


def test_background_alone_is_allowed_and_counted(folder: Path) -> None:
    (folder / "classes.csv").write_text("id,name\n0,background\n1,car\n2,tree\n")
    manifest, _, card = prepare(options(FolderData(root=str(folder))), folder=folder)
    assert manifest.by_id("val 0").labels == ()
    assert card["subsets"]["val"]["background_only"] == 1


def test_empty_subset(folder: Path) -> None:
    (folder / "images" / "test").mkdir()
    assert "the subset is empty" in stop(folder)


def test_nothing_left_of_a_subset_stops_even_when_skipping(folder: Path) -> None:
    for path in (folder / "masks" / "val").iterdir():
        path.unlink()
    source = FolderData(root=str(folder), on_bad_sample="skip")
    with pytest.raises(DataError, match=r"no usable sample is left in the subset 'val'"):
        prepare(options(source), folder=folder)


def test_first_ten_problems_are_listed_with_counts_by_kind(folder: Path) -> None:
    for number in range(10, 22):
        write_image(folder / "images" / "train" / f"{number}.png", picture())
    mask_file(folder).write_bytes(b"")
    message = stop(folder)
    assert "13 problems in 17 images (missing mask: 12, unreadable mask: 1)" in message
    assert message.count("no such mask file") == 10
    assert "and 3 more" in message
    assert "on_bad_sample: skip" in message


def test_skipping_leaves_out_and_records(folder: Path) -> None:
    mask_file(folder).unlink()
    write_mask(folder / "masks" / "val" / "val 1.png", mask_of(9), TABLE)
    source = FolderData(root=str(folder), on_bad_sample="skip")
    manifest, _, card = prepare(options(source), folder=folder)
    assert manifest.ids == ["train 0", "train 2", "val 0"]
    assert card["problems"]["dropped_samples"] == 2
    assert card["problems"]["kinds"] == {"missing mask": 1, "ids outside the table": 1}
    assert [found["id"] for found in card["problems"]["listed"]] == ["train 1", "val 1"]


@pytest.mark.parametrize("name", ["一张 图", '"; rm -rf ~"', "a,b 'c'", "-rf"])
def test_odd_names_of_files_and_classes_survive(folder: Path, tmp_path: Path, name: str) -> None:
    table = ClassTable.of((name, "car", "tree"))
    table.write(folder / "classes.csv")
    image_file(folder).rename(image_file(folder).with_name(f"{name}.png"))
    mask_file(folder).rename(mask_file(folder).with_name(f"{name}.png"))
    manifest, found, card = prepare(options(FolderData(root=str(folder))), folder=folder)
    manifest.write(tmp_path / "manifest.csv")
    sample = Manifest.read(tmp_path / "manifest.csv").by_id(name)
    assert sample.image.exists()
    assert sample.mask is not None
    assert sample.mask.exists()
    assert found.ids_of([name]) == [0]
    assert card["subsets"]["train"]["classes"][0]["name"] == name


def test_options_name_unknown_keys_and_readers() -> None:
    with pytest.raises(ValueError, match="rooot"):
        Prepare.model_validate({"name": "x", "source": {"reader": "voc", "root": "a", "rooot": "b"}})
    with pytest.raises(ValueError, match="'voc', 'folder', 'imagenet', 'scenes'"):
        Prepare.model_validate({"name": "x", "source": {"reader": "pascal_part", "root": "a"}})
    same = Prepare(name="x", source=ScenesData(train=3))
    assert Prepare.parse(same.canonical()) == same
