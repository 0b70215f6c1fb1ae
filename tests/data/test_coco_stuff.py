"""COCO-Stuff-10K: the class table, MATLAB annotations of both versions, layouts, void images, bad input."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from anyshot.data.classes import ClassTable
from anyshot.data.coco_stuff_labels import (
    STUFF,
    THINGS,
    UNLABELED,
    coco_stuff_table,
    read_annotation,
    to_ids,
)
from anyshot.data.images import read_mask, write_image, write_mask
from anyshot.data.options import CocoStuff10kData, Prepare
from anyshot.data.prepare import prepare
from anyshot.data.readers import read
from anyshot.data.readers.coco_stuff10k import KNOWN_VOID
from anyshot.errors import DataError

from .layouts import mask_of, options, picture
from .test_readers import ReaderBattery

NAMES_1_0 = [UNLABELED, *THINGS, *STUFF]
# Version 1.1 has COCO's eleven categories without masks between the others.
UNUSED = {
    11: "street sign", 25: "hat", 28: "shoe", 29: "eyeglasses", 44: "plate", 65: "mirror-things",
    67: "window", 68: "desk-things", 70: "door-things", 82: "blender", 90: "hairbrush",
}  # fmt: skip
VOID = "COCO_train2014_000000016680"
# By subset: stem and class ids of the mask, 255 = unlabeled. The lists are not sorted.
IMAGES = {
    "train": {
        "COCO_train2014_000000000077": (0, 170),
        "COCO_train2014_000000000025": (255, 79, 80),
        VOID: (255,),
    },
    "test": {"COCO_train2014_000000000260": (12,)},
}


def names_1_1() -> list[str]:
    names = list(THINGS)
    for position, name in UNUSED.items():
        names.insert(position, name)
    return [*names, *STUFF]


def write_hdf5(path: Path, values: np.ndarray, names: list[str]) -> None:
    """A MATLAB file of version 7.3: arrays by column, cells as references, a header in front."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        file["S"] = np.ascontiguousarray(values.T)
        cells = file.create_dataset("names", (len(names), 1), dtype=h5py.ref_dtype)
        for number, name in enumerate(names):
            cell = file.create_dataset(f"#refs#/{number}", data=np.array([[ord(c)] for c in name], np.uint16))
            cells[number, 0] = cell.ref


def write_mat5(path: Path, values: np.ndarray, names: list[str]) -> None:
    """An older MATLAB file, as version 1.1 has them: the map as floating point numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"S": values.astype(float), "names": np.array(names, dtype=object)[:, None]})


def values_1_0(ids: np.ndarray) -> np.ndarray:
    """simformer.md 1.2: ids are (S - 2) mod 256, so 255 is S = 1."""
    return ((ids.astype(int) + 2) % 256).astype(np.uint8)


def values_1_1(ids: np.ndarray) -> np.ndarray:
    """COCO's own numbers: things 1..90 with gaps, stuff 92..182, 0 unlabeled."""
    gaps = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # simformer.md 1.2
    numbers = [number for number in range(1, 91) if number not in gaps] + list(range(92, 183))
    return np.array([*numbers, *[0] * (256 - len(numbers))])[ids]


def write_archive(root: Path, version: str = "1.0") -> None:
    number = 0
    for subset, images in IMAGES.items():
        for stem, ids in images.items():
            number += 1
            write_image(root / "images" / f"{stem}.jpg", picture(seed=number))
            path, mask = root / "annotations" / f"{stem}.mat", mask_of(*ids)
            if version == "1.0":
                write_hdf5(path, values_1_0(mask), NAMES_1_0)
            else:
                write_mat5(path, values_1_1(mask), names_1_1())
        (root / "imageLists").mkdir(exist_ok=True)
        (root / "imageLists" / f"{subset}.txt").write_text("\n".join(images) + "\n")


def write_converted(root: Path, suffix: str = "_detectron2") -> None:
    for subset, images in IMAGES.items():
        for number, (stem, ids) in enumerate(images.items()):
            write_image(root / f"images{suffix}" / subset / f"{stem}.jpg", picture(seed=number))
            path = root / f"annotations{suffix}" / subset / f"{stem}.png"
            write_mask(path, mask_of(*ids), coco_stuff_table())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_archive(tmp_path / "coco-stuff")
    return tmp_path / "coco-stuff"


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    write_converted(tmp_path / "data" / "coco" / "coco_stuff_10k")
    return tmp_path / "data"


class TestArchive(ReaderBattery):
    subsets = ("train", "test")

    @pytest.fixture
    def source(self, archive: Path) -> CocoStuff10kData:
        return CocoStuff10kData(root=str(archive))

    def test_lists_give_the_order_and_masks_hold_ids(self, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, table, card = prepared
        assert [(s.subset, s.id, s.labels) for s in manifest.samples()] == [
            ("train", "COCO_train2014_000000000077", (0, 170)),
            ("train", "COCO_train2014_000000000025", (79, 80)),
            ("test", "COCO_train2014_000000000260", (12,)),
        ]
        for sample in manifest.samples():
            expected = mask_of(*IMAGES[sample.subset][sample.id])
            assert np.array_equal(read_mask(sample.mask), expected)
        assert table == coco_stuff_table()
        assert card["void_only"] == [VOID]
        assert card["problems"]["count"] == card["problems"]["dropped_samples"] == 0


class TestConverted(ReaderBattery):
    subsets = ("train", "test")

    @pytest.fixture
    def source(self, converted: Path) -> CocoStuff10kData:
        return CocoStuff10kData(root=str(converted))

    def test_masks_are_used_as_they_are(self, converted: Path, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, _, card = prepared
        assert [(s.id, s.labels) for s in manifest.samples()] == [
            ("COCO_train2014_000000000025", (79, 80)),
            ("COCO_train2014_000000000077", (0, 170)),
            ("COCO_train2014_000000000260", (12,)),
        ]
        assert all(sample.mask.is_relative_to(converted) for sample in manifest.samples())
        assert card["void_only"] == [VOID]


def test_class_order_is_the_specified_one() -> None:
    table = coco_stuff_table()
    assert len(table) == 171
    assert table.ids == tuple(range(171))
    assert table.kinds.count("thing") == 80
    assert table.kinds.count("stuff") == 91
    assert list(STUFF) == sorted(STUFF)
    ids = table.ids_of(["person", "stop sign", "bench", "toothbrush", "banner", "wall-brick", "wood"])
    assert ids == [0, 11, 13, 79, 80, 159, 170]
    assert len(KNOWN_VOID) == 7
    assert {f"COCO_train2014_{number:012d}" for number in (16680, 3518)} <= KNOWN_VOID


def test_version_1_0_is_the_value_less_two() -> None:
    values = np.arange(1, 173).reshape(4, 43)
    assert np.array_equal(to_ids(values, NAMES_1_0), (values - 2).astype(np.uint8))
    assert to_ids(np.array([[1, 2, 81, 82, 172]]), NAMES_1_0).tolist() == [[255, 0, 79, 80, 170]]


def test_version_1_1_is_remapped_by_name(tmp_path: Path) -> None:
    names = names_1_1()
    assert (len(names), names[11], names[90], names[91]) == (182, "street sign", "hairbrush", "banner")
    ids = np.array([[*range(171), 255]], dtype=np.uint8)
    assert np.array_equal(to_ids(values_1_1(ids), names), ids)
    write_archive(tmp_path / "old", "1.0")
    write_archive(tmp_path / "new", "1.1")
    for stem in (stem for images in IMAGES.values() for stem in images):
        one, other = (read_annotation(tmp_path / v / "annotations" / f"{stem}.mat") for v in ("old", "new"))
        assert one.dtype == other.dtype == np.uint8
        assert np.array_equal(one, other)


def test_maps_of_version_7_3_are_transposed(tmp_path: Path) -> None:
    values = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
    write_hdf5(tmp_path / "a.mat", values, NAMES_1_0)
    assert read_annotation(tmp_path / "a.mat").tolist() == [[255, 0, 1], [2, 3, 4]]
    write_mat5(tmp_path / "b.mat", values, NAMES_1_0)
    assert read_annotation(tmp_path / "b.mat").tolist() == [[255, 0, 1], [2, 3, 4]]


def test_other_classes_are_refused() -> None:
    names = [*NAMES_1_0[:-1], "plywood"]
    with pytest.raises(
        DataError, match=r"1 of COCO-Stuff's 171 .* e.g. 'wood'; it has 1 others, e.g. 'plywood'"
    ):
        to_ids(np.array([[2]]), names)
    with pytest.raises(DataError, match="`names` has 0 classes, 171 of"):
        to_ids(np.array([[2]]), [])


def test_values_without_a_class_are_refused() -> None:
    with pytest.raises(DataError, match=r"values 2..173, `names` only 1..172"):
        to_ids(np.array([[2, 173]]), NAMES_1_0)
    with pytest.raises(DataError, match=r"values -1..2"):
        to_ids(np.array([[2, -1]]), NAMES_1_0)
    with pytest.raises(DataError, match=r"2 px of `S` have the value 12, 'street sign'"):
        to_ids(np.array([[12, 12, 1]]), names_1_1())
    for wrong in (np.array([2.5])[None], np.zeros((2, 2, 2)), np.array([["a"]]), np.array([[np.nan]])):
        with pytest.raises(DataError, match="no map of whole numbers"):
            to_ids(wrong, NAMES_1_0)


def test_broken_annotations_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    with pytest.raises(DataError, match=r"a.mat: no such annotation"):
        read_annotation(path)
    path.write_bytes(b"no MATLAB file")
    with pytest.raises(DataError, match=r"a.mat: the annotation cannot be read"):
        read_annotation(path)
    write_hdf5(path, np.array([[1]]), NAMES_1_0)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"a.mat: the annotation cannot be read"):
        read_annotation(path)
    with h5py.File(path, "w") as file:
        file["S"] = np.array([[2]])
    with pytest.raises(DataError, match=r"a.mat: no annotation of COCO-Stuff-10K, it lacks .*names"):
        read_annotation(path)
    scipy.io.savemat(path, {"names": np.array(NAMES_1_0, dtype=object)[:, None]})
    with pytest.raises(DataError, match=r"it lacks 'S'"):
        read_annotation(path)


def test_problems_of_single_annotations_stop_or_are_skipped(archive: Path, tmp_path: Path) -> None:
    (archive / "annotations" / "COCO_train2014_000000000077.mat").unlink()
    path = archive / "annotations" / "COCO_train2014_000000000025.mat"
    write_hdf5(path, mask_of(2), [*NAMES_1_0[:-1], "plywood"])
    write_image(archive / "images" / "COCO_train2014_000000000581.jpg", picture())
    write_hdf5(archive / "annotations" / "COCO_train2014_000000000581.mat", mask_of(2), NAMES_1_0)
    with (archive / "imageLists" / "train.txt").open("a") as file:
        file.write("COCO_train2014_000000000581\n")
    with pytest.raises(DataError) as raised:
        prepare(options(CocoStuff10kData(root=str(archive))), folder=tmp_path / "out")
    for part in (
        "missing mask: 1",
        "unreadable mask: 1",
        "000077.mat: no such",
        "000025.mat: `names` has 172",
    ):
        assert part in str(raised.value)
    source = CocoStuff10kData(root=str(archive), on_bad_sample="skip")
    manifest, _, card = prepare(options(source), folder=tmp_path / "out")
    assert manifest.ids == ["COCO_train2014_000000000581", "COCO_train2014_000000000260"]
    assert card["problems"]["kinds"] == {"missing mask": 1, "unreadable mask": 1}
    assert card["void_only"] == [VOID]


def test_an_archive_of_other_classes_says_why_nothing_is_left(archive: Path, tmp_path: Path) -> None:
    for path in (archive / "annotations").iterdir():
        write_hdf5(path, mask_of(2), ["a", "b", "c"])
    with pytest.raises(DataError, match=r"has no images\n.*unreadable mask: 4.*\n.*`names` has 3 classes"):
        prepare(options(CocoStuff10kData(root=str(archive))), folder=tmp_path / "out")


def test_masks_are_converted_once_and_again_when_annotations_change(archive: Path, tmp_path: Path) -> None:
    source = options(CocoStuff10kData(root=str(archive)))
    first = prepare(source, folder=tmp_path / "out")[0].samples(["test"])[0].mask
    assert first is not None
    before = first.stat().st_mtime_ns
    assert prepare(source, folder=tmp_path / "out")[0].samples(["test"])[0].mask == first
    assert first.stat().st_mtime_ns == before
    write_hdf5(archive / "annotations" / f"{first.stem}.mat", values_1_0(mask_of(3, 4)), NAMES_1_0)
    again = prepare(source, folder=tmp_path / "out")[0].samples(["test"])[0]
    assert again.labels == (3, 4)
    assert again.mask != first


def test_void_images_are_named_and_unknown_ones_warned_of(
    converted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = options(CocoStuff10kData(root=str(converted)))
    with caplog.at_level(logging.INFO, logger="anyshot"):
        prepare(source, folder=tmp_path / "out")
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert VOID in caplog.text
    caplog.clear()
    masks = converted / "coco" / "coco_stuff_10k" / "annotations_detectron2" / "train"
    write_mask(masks / f"{VOID}.png", mask_of(1), coco_stuff_table())
    other = "COCO_train2014_000000000077"
    write_mask(masks / f"{other}.png", mask_of(255), coco_stuff_table())
    with caplog.at_level(logging.WARNING, logger="anyshot"):
        manifest, _, card = prepare(source, folder=tmp_path / "out")
    assert caplog.messages == [
        f"images without any class are not those known of this data set: unknown {other}; with classes {VOID}"
    ]
    assert card["void_only"] == [other]
    assert VOID in manifest.ids


def test_a_subset_of_void_images_only_is_an_error(converted: Path, tmp_path: Path) -> None:
    mask = next((converted / "coco" / "coco_stuff_10k" / "annotations_detectron2" / "test").iterdir())
    write_mask(mask, mask_of(255), coco_stuff_table())
    with pytest.raises(DataError, match=r"no usable sample is left in the subset 'test'\n.*no labels: 2"):
        prepare(options(CocoStuff10kData(root=str(converted))), folder=tmp_path / "out")


def test_images_and_masks_without_partner(converted: Path, tmp_path: Path) -> None:
    folder = converted / "coco" / "coco_stuff_10k"
    (folder / "annotations_detectron2" / "train" / "COCO_train2014_000000000077.png").unlink()
    (folder / "images_detectron2" / "train" / f"{VOID}.jpg").unlink()
    with pytest.raises(DataError, match=r"missing mask: 1, missing image: 1.*\n.*077.jpg: no mask, expected"):
        prepare(options(CocoStuff10kData(root=str(converted))), folder=tmp_path / "out")
    source = CocoStuff10kData(root=str(converted), on_bad_sample="skip")
    manifest, _, card = prepare(options(source), folder=tmp_path / "out")
    assert manifest.ids == ["COCO_train2014_000000000025", "COCO_train2014_000000000260"]
    assert card["problems"]["count"] == 2


def test_layouts_and_roots(archive: Path, converted: Path, tmp_path: Path) -> None:
    inner = converted / "coco" / "coco_stuff_10k"
    for root in (converted, converted / "coco", inner):
        assert len(read("coco_stuff10k", CocoStuff10kData(root=str(root))).samples) == 4
    write_converted(tmp_path / "plain", suffix="")
    assert len(read("coco_stuff10k", CocoStuff10kData(root=str(tmp_path / "plain"))).samples) == 4
    write_converted(archive)
    masks = [
        s.mask
        for s in prepare(options(CocoStuff10kData(root=str(archive))), folder=tmp_path / "out")[0].samples()
    ]
    assert all(mask is not None and mask.is_relative_to(tmp_path / "out") for mask in masks)
    for path in (archive / "annotations").iterdir():
        path.unlink()
    assert read("coco_stuff10k", CocoStuff10kData(root=str(archive))).samples[0].mask == (
        archive / "annotations_detectron2" / "train" / "COCO_train2014_000000000025.png"
    )


def test_wrong_roots_are_named(archive: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        read("coco_stuff10k", CocoStuff10kData(root=str(tmp_path / "nowhere")))
    with pytest.raises(
        DataError, match=r"own data: found neither imageLists/train.txt and annotations/\*.mat"
    ):
        prepare(options(CocoStuff10kData(root=str(folder))), folder=tmp_path / "out")
    with pytest.raises(DataError, match="needs their folder"):
        read("coco_stuff10k", CocoStuff10kData(root=str(archive)))
    with pytest.raises(DataError, match="has not been converted; run the prepare stage"):
        read("coco_stuff10k", CocoStuff10kData(root=str(archive)), folder=tmp_path / "out")


def test_masks_with_other_values_and_empty_subsets(converted: Path, tmp_path: Path) -> None:
    folder = converted / "coco" / "coco_stuff_10k"
    path = folder / "annotations_detectron2" / "test" / "COCO_train2014_000000000260.png"
    write_mask(path, mask_of(0, 171), ClassTable.of([str(number) for number in range(172)]))
    with pytest.raises(DataError, match=r"171 \(384 px\); allowed are 171 ids, 0..170, and 255 for ignored"):
        prepare(options(CocoStuff10kData(root=str(converted))), folder=tmp_path / "out")
    for image in (folder / "images_detectron2" / "test").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"test: the subset is empty"):
        read("coco_stuff10k", CocoStuff10kData(root=str(converted)))


def test_options_are_found_by_the_reader_name() -> None:
    made = Prepare.model_validate({"name": "x", "source": {"reader": "coco_stuff10k", "root": "x"}})
    assert made.source == CocoStuff10kData(root="x")
