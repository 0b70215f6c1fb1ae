"""One battery for all readers, and what is special about each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anyshot.data.classes import ClassTable
from anyshot.data.images import read_image, read_mask, write_image
from anyshot.data.manifest import Manifest
from anyshot.data.options import DataOptions, FolderData, ImagenetData, ScenesData, VocData
from anyshot.data.prepare import prepare
from anyshot.data.readers import DataSet, read
from anyshot.data.readers.voc import labels_of_annotation, read_id_list, voc_table
from anyshot.errors import ConfigError, DataError

from .layouts import annotation, options, picture


class ReaderBattery:
    """Inherited by one class per reader, which has the fixture `source`."""

    subsets: tuple[str, ...] = ("train", "val")
    masks = True

    def read(self, source: DataOptions, folder: Path) -> DataSet:
        return read(source.reader, source, folder=folder)

    @pytest.fixture
    def prepared(self, source: DataOptions, tmp_path: Path) -> tuple[Manifest, ClassTable, dict]:
        return prepare(options(source), folder=tmp_path / "generated")

    def test_every_file_is_there_and_fits(self, prepared: tuple[Manifest, ClassTable, dict]) -> None:
        manifest, table, _ = prepared
        for sample in manifest.samples():
            image = read_image(sample.image)
            assert (sample.mask is not None) == self.masks
            if sample.mask is not None:
                mask = read_mask(sample.mask)
                assert mask.shape == image.shape[:2]
                assert set(np.unique(mask).tolist()) <= {*table.ids, table.ignore}

    def test_labels_are_foreground_ids_in_order(self, prepared: tuple[Manifest, ClassTable, dict]) -> None:
        manifest, table, _ = prepared
        for sample in manifest.samples():
            assert sample.labels == tuple(sorted(set(sample.labels)))
            assert set(sample.labels) <= set(table.foreground_ids)
            assert sample.labels

    def test_subsets_are_disjoint_and_named(self, prepared: tuple[Manifest, ClassTable, dict]) -> None:
        manifest, _, card = prepared
        assert tuple(manifest.subsets) == self.subsets
        assert sum(manifest.counts().values()) == len(set(manifest.ids)) == card["images"]

    def test_reading_twice_gives_the_same(
        self, source: DataOptions, tmp_path: Path, prepared: tuple[Manifest, ClassTable, dict]
    ) -> None:
        again, table, card = prepare(options(source), folder=tmp_path / "generated")
        assert again.samples() == prepared[0].samples()
        assert (table, card) == prepared[1:]

    def test_manifest_and_table_survive_files(
        self, tmp_path: Path, prepared: tuple[Manifest, ClassTable, dict]
    ) -> None:
        manifest, table, _ = prepared
        manifest.write(tmp_path / "generated" / "manifest.csv")
        table.write(tmp_path / "generated" / "classes.csv")
        assert Manifest.read(tmp_path / "generated" / "manifest.csv").samples() == manifest.samples()
        assert ClassTable.read(tmp_path / "generated" / "classes.csv") == table


class TestVoc(ReaderBattery):
    subsets = ("train", "train_sbd", "val")

    @pytest.fixture
    def source(self, voc: Path) -> VocData:
        return VocData(root=str(voc))

    def test_lists_and_labels(self, voc: Path, tmp_path: Path) -> None:
        manifest, table, card = prepare(options(VocData(root=str(voc.parent))), folder=tmp_path)
        assert manifest.ids == ["a0", "a1", "b0", "b1", "c0"]
        assert [s.id for s in manifest.samples(["train_sbd"])] == ["b0", "b1"]
        assert manifest.by_id("a1").labels == (2, 15), "annotations name a person that the mask does not have"
        assert table == voc_table()
        assert [card["subsets"][s]["images_with_void"] for s in self.subsets] == [1, 0, 1]

    def test_labels_from_masks(self, voc: Path, tmp_path: Path) -> None:
        manifest, _, _ = prepare(options(VocData(root=str(voc), labels="mask")), folder=tmp_path)
        assert manifest.by_id("a1").labels == (2,)
        assert manifest.by_id("b0").labels == (1, 3)

    def test_root_above_the_kit_is_found(self, voc: Path, tmp_path: Path) -> None:
        (tmp_path / "kit" / "VOCdevkit").mkdir(parents=True)
        voc.rename(tmp_path / "kit" / "VOCdevkit" / "VOC2012")
        assert len(read("voc", VocData(root=str(tmp_path / "kit"))).samples) == 5

    def test_sbd_can_be_left_out_or_demanded(self, voc: Path) -> None:
        assert len(read("voc", VocData(root=str(voc), sbd=False)).samples) == 3
        (voc / "ImageSets" / "Segmentation" / "train_aug.txt").unlink()
        assert len(read("voc", VocData(root=str(voc))).samples) == 3
        with pytest.raises(DataError, match=r"trainaug.txt, train_aug.txt"):
            read("voc", VocData(root=str(voc), sbd=True))

    def test_training_on_val_is_refused(self, voc: Path) -> None:
        (voc / "ImageSets" / "Segmentation" / "train_aug.txt").write_text("a0\na1\nc0\n")
        with pytest.raises(DataError, match=r"1 ids are in a training list and in val.txt, e.g. c0"):
            read("voc", VocData(root=str(voc)))

    def test_lists_of_paths_are_understood(self, tmp_path: Path) -> None:
        path = tmp_path / "list.txt"
        path.write_text("/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\nmy image 2\n\n")
        assert read_id_list(path) == ["2007_000032", "my image 2"]
        path.write_text("a\na\n")
        with pytest.raises(DataError, match="'a' is listed more than once"):
            read_id_list(path)

    def test_broken_annotations_are_named(self, voc: Path, tmp_path: Path) -> None:
        path = voc / "Annotations" / "a0.xml"
        for text in (annotation("unicorn"), "<annotation>"):
            path.write_text(text)
            with pytest.raises(DataError, match=r"a0\.xml"):
                labels_of_annotation(path, voc_table())
        path.unlink()
        with pytest.raises(DataError, match=r"annotation: 1.*\n.*a0.xml: no such annotation"):
            prepare(options(VocData(root=str(voc))), folder=tmp_path)


class TestFolder(ReaderBattery):
    @pytest.fixture
    def source(self, folder: Path) -> FolderData:
        return FolderData(root=str(folder))

    def test_names_with_blanks_and_labels_from_masks(self, folder: Path, tmp_path: Path) -> None:
        manifest, _, _ = prepare(options(FolderData(root=str(folder))), folder=tmp_path)
        assert manifest.ids == ["train 0", "train 1", "train 2", "val 0", "val 1"]
        assert [s.labels for s in manifest.samples()] == [(0, 1), (1,), (2,), (0,), (1, 2)]

    def test_a_stem_in_two_subsets_gets_their_names(self, folder: Path) -> None:
        for kind in ("images", "masks"):
            (folder / kind / "val" / "val 0.png").rename(folder / kind / "val" / "train 0.png")
        ids = [s.id for s in read("folder", FolderData(root=str(folder))).samples]
        assert ids == ["train_train 0", "train 1", "train 2", "val_train 0", "val 1"]

    def test_two_images_for_one_mask_are_a_problem(self, folder: Path, tmp_path: Path) -> None:
        write_image(folder / "images" / "train" / "train 0.jpg", picture())
        with pytest.raises(DataError, match="two images: 1"):
            prepare(options(FolderData(root=str(folder))), folder=tmp_path)

    def test_image_labels_without_masks(self, folder: Path, tmp_path: Path) -> None:
        source = FolderData(root=str(folder), masks=False)
        with pytest.raises(DataError, match="stem,name"):
            prepare(options(source), folder=tmp_path)
        rows = [f"train {n},car\ntrain {n},road\n" for n in range(3)] + [f"val {n},tree\n" for n in range(2)]
        (folder / "labels.csv").write_text("stem,name\n" + "".join(rows))
        manifest, _, _ = prepare(options(source), folder=tmp_path)
        assert [s.labels for s in manifest.samples()] == [(0, 1)] * 3 + [(2,)] * 2
        assert all(s.mask is None for s in manifest.samples())

    def test_an_image_without_a_mask_takes_its_labels_from_the_list(
        self, folder: Path, tmp_path: Path
    ) -> None:
        (folder / "masks" / "train" / "train 1.png").unlink()
        with pytest.raises(DataError, match="missing mask: 1"):
            prepare(options(FolderData(root=str(folder))), folder=tmp_path)
        (folder / "labels.csv").write_text("stem,name\ntrain 1,car\n")
        manifest, table, card = prepare(options(FolderData(root=str(folder))), folder=tmp_path)
        assert [s.id for s in manifest.samples() if s.mask is None] == ["train 1"]
        assert [table.name_of(label) for label in manifest.by_id("train 1").labels] == ["car"]
        assert card["subsets"]["train"]["masks"] == 2

    def test_labels_of_the_list_join_those_of_the_mask(self, folder: Path, tmp_path: Path) -> None:
        (folder / "labels.csv").write_text("stem,name\ntrain 2,car\n")
        without, _, _ = prepare(options(FolderData(root=str(folder))), folder=tmp_path)
        assert without.by_id("train 2").labels == (1, 2)


class TestImagenet(ReaderBattery):
    subsets = ("train",)
    masks = False

    @pytest.fixture
    def source(self, imagenet: Path) -> ImagenetData:
        return ImagenetData(root=str(imagenet))

    def test_ids_follow_sorted_wnids_and_names_are_unique(self, source: ImagenetData) -> None:
        data = read("imagenet", source)
        assert data.table.names == ("crane (n01)", "crane (n02)", "n03")
        assert [(s.id, s.labels) for s in data.samples[:3]] == [
            ("n01_0", (0,)),
            ("n01_1", (0,)),
            ("n02_0", (1,)),
        ]

    def test_selection(self, imagenet: Path) -> None:
        data = read("imagenet", ImagenetData(root=str(imagenet), wnids=["n03", "n02"], per_class=1))
        assert [s.id for s in data.samples] == ["n02_0", "n03_0"]
        with pytest.raises(ConfigError, match="n09"):
            read("imagenet", ImagenetData(root=str(imagenet), wnids=["n09"]))


class TestScenes(ReaderBattery):
    @pytest.fixture
    def source(self) -> ScenesData:
        return ScenesData(size=64, train=6, val=3)


class TestStuffThings(TestScenes):
    @pytest.fixture
    def source(self) -> ScenesData:
        return ScenesData(size=64, train=6, val=3, masks="stuff_things")


def test_unknown_reader_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="voc, folder, imagenet, scenes"):
        read("cityscape", FolderData(root=str(folder)))
