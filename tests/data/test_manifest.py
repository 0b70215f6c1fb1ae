"""Manifests: round trips, relative paths, subsets."""

from pathlib import Path

import pytest

from anyshot.data.manifest import Manifest, Sample
from anyshot.errors import DataError


def samples(root: Path) -> list[Sample]:
    return [
        Sample("一张图 1", root / "data" / "一张图 1.jpg", root / "masks" / "1.png", "train", (1, 3)),
        Sample('"; rm -rf ~"', Path('/elsewhere/"; rm -rf ~".jpg'), None, "val", ()),
    ]


def test_round_trip_keeps_odd_names_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    Manifest(samples(tmp_path)).write(path)
    assert Manifest.read(path).samples() == samples(tmp_path)


def test_paths_below_the_manifest_are_relative(tmp_path: Path) -> None:
    Manifest(samples(tmp_path)).write(tmp_path / "manifest.csv")
    text = (tmp_path / "manifest.csv").read_text(encoding="utf-8")
    assert "data/一张图 1.jpg,masks/1.png,train,1 3" in text
    assert str(tmp_path) not in text
    assert "/elsewhere/" in text


def test_folder_can_be_moved(tmp_path: Path) -> None:
    Manifest(samples(tmp_path / "a")[:1]).write(tmp_path / "a" / "manifest.csv")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Manifest.read(tmp_path / "b" / "manifest.csv").samples()[0]
    assert moved.image == tmp_path / "b" / "data" / "一张图 1.jpg"


def test_subsets_are_chosen_in_manifest_order(tmp_path: Path) -> None:
    manifest = Manifest(samples(tmp_path))
    assert manifest.subsets == ["train", "val"]
    assert [s.id for s in manifest.samples(["val"])] == ['"; rm -rf ~"']
    assert [s.id for s in manifest.samples(["val", "train"])] == manifest.ids
    assert manifest.by_id("一张图 1").labels == (1, 3)


@pytest.mark.parametrize("subsets", [["test"], ["train", "test"], []])
def test_missing_subsets_are_named_with_those_that_exist(tmp_path: Path, subsets: list[str]) -> None:
    with pytest.raises(DataError, match=r"train \(1\), val \(1\)"):
        Manifest(samples(tmp_path)).samples(subsets)


def test_repeated_and_unknown_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than once"):
        Manifest(samples(tmp_path) * 2)
    with pytest.raises(DataError, match="no sample 'x'"):
        Manifest(samples(tmp_path)).by_id("x")


def test_missing_file_and_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such manifest"):
        Manifest.read(tmp_path / "manifest.csv")
    (tmp_path / "manifest.csv").write_text("id,image\n")
    with pytest.raises(DataError, match="mask, subset, labels are missing"):
        Manifest.read(tmp_path / "manifest.csv")
