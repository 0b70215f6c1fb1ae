"""ADE20K: the class table, published and converted masks in every layout, void images, bad input."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.data.ade20k_labels import CLASSES, STUFF, ade20k_table
from anyshot.data.images import write_image
from anyshot.data.options import Ade20kData, Prepare
from anyshot.data.prepare import prepare
from anyshot.data.readers import read
from anyshot.data.readers.ade20k import KNOWN_VOID
from anyshot.errors import DataError

from .layouts import mask_of, options, picture
from .test_readers import ReaderBattery

VOID = "ADE_train_00005149"
# By subset: stem and training indices of the mask, 255 = void.
IMAGES = {
    "train": {"ADE_train_00000002": (0, 149), "ADE_train_00000001": (255, 12), VOID: (255,)},
    "val": {"ADE_val_00000001": (3,)},
}
PUBLISHED = {"train": "training", "val": "validation"}
RELEASE = {"train": "train", "val": "test"}


def write_masks(folder: Path, names: dict[str, str], *, published: bool) -> None:
    """Masks of IMAGES. simformer.md 1.2: the index is (value - 1) mod 256 of a published mask."""
    for subset, images in IMAGES.items():
        (folder / names[subset]).mkdir(parents=True, exist_ok=True)
        for stem, indices in images.items():
            mask = mask_of(*indices)
            values = ((mask.astype(int) + 1) % 256).astype(np.uint8) if published else mask
            Image.fromarray(values).save(folder / names[subset] / f"{stem}.png")


def write_images(folder: Path, names: dict[str, str]) -> None:
    for subset, images in IMAGES.items():
        for number, stem in enumerate(images):
            write_image(folder / names[subset] / f"{stem}.jpg", picture(seed=number))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """As the challenge's archive unpacks, with its own folder."""
    root = tmp_path / "data" / "ADEChallengeData2016"
    write_images(root / "images", PUBLISHED)
    write_masks(root / "annotations", PUBLISHED, published=True)
    return root


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """As the method's release expects it."""
    root = tmp_path / "converted"
    write_images(root / "images_detectron2", RELEASE)
    write_masks(root / "annotations_detectron2", RELEASE, published=False)
    return root


class TestPublished(ReaderBattery):
    first = 1

    @pytest.fixture
    def source(self, published: Path) -> Ade20kData:
        return Ade20kData(root=str(published))

    def test_every_file_is_there_and_fits(self, prepared) -> None:  # type: ignore[no-untyped-def]
        for sample in prepared[0].samples():
            assert sample.image.is_file()
            values = np.unique(np.asarray(Image.open(sample.mask))).tolist()
            assert set(values) <= {*prepared[1].ids, 0 if self.first else prepared[1].ignore}

    def test_labels_are_training_indices_of_the_table(self, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, table, card = prepared
        assert [(s.subset, s.id) for s in manifest.samples()] == [
            ("train", "ADE_train_00000001"),
            ("train", "ADE_train_00000002"),
            ("val", "ADE_val_00000001"),
        ]
        labels = [[table.index_of[label] for label in sample.labels] for sample in manifest.samples()]
        assert labels == [[12], [0, 149], [3]]
        assert [table.names[index] for row in labels for index in row] == ["person", "wall", "flag", "floor"]
        assert table == ade20k_table(first=self.first)
        assert card["void_only"] == [VOID]
        assert card["problems"]["count"] == 0
        assert card["subsets"]["train"]["void_share"] == pytest.approx(1 / 4)

    def test_lookup_gives_training_indices_and_void(self, prepared) -> None:  # type: ignore[no-untyped-def]
        manifest, table, _ = prepared
        for sample in manifest.samples():
            expected = mask_of(*IMAGES[sample.subset][sample.id])
            assert np.array_equal(table.lookup()[np.asarray(Image.open(sample.mask))], expected)


class TestConverted(TestPublished):
    first = 0

    @pytest.fixture
    def source(self, converted: Path) -> Ade20kData:
        return Ade20kData(root=str(converted))


class TestConvertedBesideImages(TestConverted):
    """MaskFormer's own preparation: images stay where they were."""

    @pytest.fixture
    def source(self, published: Path) -> Ade20kData:
        (published / "annotations").rename(published / "elsewhere")
        write_masks(published / "annotations_detectron2", PUBLISHED, published=False)
        return Ade20kData(root=str(published.parent))


def test_class_order_is_the_specified_one() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 150
    assert [CLASSES[i] for i in (0, 1, 8, 44, 89, 123, 138, 149)] == [
        "wall", "building", "window", "chest of drawers", "tv", "trade name", "trash can", "flag",
    ]  # fmt: skip
    assert len(STUFF) == 50
    assert set(CLASSES) > STUFF
    one, zero = ade20k_table(first=1), ade20k_table(first=0)
    assert (one.ids, zero.ids) == (tuple(range(1, 151)), tuple(range(150)))
    assert (one.names, one.kinds) == (zero.names, zero.kinds)
    assert one.kinds.count("thing") == 100
    assert len(KNOWN_VOID) == 16
    assert {"ADE_train_00005149", "ADE_train_00019873"} <= KNOWN_VOID


def test_published_masks_come_before_converted_ones(published: Path) -> None:
    write_masks(published / "annotations_detectron2", PUBLISHED, published=False)
    data = read("ade20k", Ade20kData(root=str(published)))
    assert data.table.ids[0] == 1
    assert data.void == {0}
    assert {sample.mask.parent.parent.name for sample in data.samples if sample.mask} == {"annotations"}


def test_void_images_are_named_and_unknown_ones_warned_of(
    published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = options(Ade20kData(root=str(published)))
    with caplog.at_level(logging.INFO, logger="anyshot"):
        prepare(source, folder=tmp_path)
    assert caplog.messages == [f"left out, not one class of the table is in them: {VOID}"]
    caplog.clear()
    Image.fromarray(mask_of(0)).save(published / "annotations" / "training" / "ADE_train_00000001.png")
    with caplog.at_level(logging.WARNING, logger="anyshot"):
        _, _, card = prepare(source, folder=tmp_path)
    assert card["void_only"] == ["ADE_train_00000001", VOID]
    assert "unknown ADE_train_00000001; with classes none" in caplog.text


def test_a_void_image_that_is_broken_besides_is_a_problem(published: Path, tmp_path: Path) -> None:
    (published / "images" / "training" / f"{VOID}.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"unreadable image: 1"):
        prepare(options(Ade20kData(root=str(published))), folder=tmp_path)


def test_values_beyond_the_table_are_refused(published: Path, converted: Path, tmp_path: Path) -> None:
    Image.fromarray(mask_of(1, 151)).save(published / "annotations" / "validation" / "ADE_val_00000001.png")
    with pytest.raises(DataError, match=r"151 \(384 px\); allowed are 150 ids, 1..150, and 0, 255 for"):
        prepare(options(Ade20kData(root=str(published))), folder=tmp_path)
    # Published values under the name of converted ones.
    Image.fromarray(mask_of(1, 150)).save(converted / "annotations_detectron2/test/ADE_val_00000001.png")
    with pytest.raises(DataError, match=r"150 \(384 px\); allowed are 150 ids, 0..149, and 255 for"):
        prepare(options(Ade20kData(root=str(converted))), folder=tmp_path)


def test_files_without_partner_and_two_of_one_name(published: Path, tmp_path: Path) -> None:
    (published / "annotations" / "training" / "ADE_train_00000002.png").unlink()
    (published / "images" / "training" / f"{VOID}.jpg").unlink()
    write_image(published / "images" / "validation" / "ADE_val_00000001.png", picture())
    with pytest.raises(DataError) as raised:
        prepare(options(Ade20kData(root=str(published))), folder=tmp_path)
    for part in ("missing mask: 1", "missing image: 1", "two images: 1", "00000002.jpg: no mask, expected"):
        assert part in str(raised.value)
    (published / "images" / "validation" / "ADE_val_00000001.png").unlink()
    source = Ade20kData(root=str(published), on_bad_sample="skip")
    manifest, _, card = prepare(options(source), folder=tmp_path)
    assert manifest.ids == ["ADE_train_00000001", "ADE_val_00000001"]
    assert card["problems"]["count"] == 2


def test_subfolders_are_part_of_the_id_and_hidden_files_are_not_read(published: Path) -> None:
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        folder = published / kind / "training"
        (folder / "b").mkdir()
        (folder / f"ADE_train_00000002.{suffix}").rename(folder / "b" / f"x.{suffix}")
        (folder / f"._ADE_train_00000001.{suffix}").write_bytes(b"")
    ids = [sample.id for sample in read("ade20k", Ade20kData(root=str(published))).samples]
    assert ids == ["ADE_train_00000001", VOID, "b/x", "ADE_val_00000001"]


def test_one_subset_alone_is_enough_and_empty_ones_are_named(published: Path) -> None:
    (published / "images" / "training").rename(published / "training")
    assert [s.subset for s in read("ade20k", Ade20kData(root=str(published))).samples] == ["val"]
    (published / "images" / "validation" / "ADE_val_00000001.jpg").unlink()
    with pytest.raises(DataError, match=r"validation: the subset is empty"):
        read("ade20k", Ade20kData(root=str(published)))


def test_wrong_roots_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        read("ade20k", Ade20kData(root=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match=r"own data: found no subset training/ or validation/ in images/"):
        read("ade20k", Ade20kData(root=str(folder)))


def test_options_are_found_by_the_reader_name() -> None:
    made = Prepare.model_validate({"name": "x", "source": {"reader": "ade20k", "root": "x"}})
    assert made.source == Ade20kData(root="x")
