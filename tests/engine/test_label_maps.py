import contextlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.data.classes import ClassTable
from anyshot.engine.label_maps import LabelMaps, LabelMapWriter
from anyshot.errors import ArtifactError

TABLE = ClassTable.of(["background", "cat", "dog"])


def write(path: Path, ids: list[str]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(ids))
    masks = {id: rng.choice([0, 1, 2, 255], size=(5, 7)).astype(np.uint8) for id in ids}
    with LabelMapWriter(path, TABLE) as writer:
        for id, mask in masks.items():
            writer.add(id, mask)
    return masks


def test_round_trip_over_two_lists(tmp_path: Path) -> None:
    masks = write(tmp_path / "1of2/labels.csv", ["a", "city/b.c"])
    masks |= write(tmp_path / "2of2/labels.csv", ["d"])
    maps = LabelMaps([tmp_path / "1of2/labels.csv", tmp_path / "2of2/labels.csv"])
    assert maps.ids == ["a", "city/b.c", "d"]
    assert len(maps) == 3
    assert "d" in maps
    for id in maps:
        np.testing.assert_array_equal(maps[id], masks[id])
    with Image.open(maps.path("a")) as image:
        assert image.mode == "P"


def test_list_content_stands_for_the_maps(tmp_path: Path) -> None:
    write(tmp_path / "a/labels.csv", ["x"])
    write(tmp_path / "b/labels.csv", ["x"])
    assert (tmp_path / "a/labels.csv").read_text() == (tmp_path / "b/labels.csv").read_text()
    with LabelMapWriter(tmp_path / "b/labels.csv", TABLE) as writer:
        writer.add("x", np.zeros((5, 7), np.uint8))
    assert (tmp_path / "a/labels.csv").read_text() != (tmp_path / "b/labels.csv").read_text()


def test_interrupted_writer_leaves_no_list(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write(path, ["a"])
    with contextlib.suppress(KeyError), LabelMapWriter(path, TABLE) as writer:
        writer.add("a", np.zeros((2, 2), np.uint8))
        raise KeyError
    assert not path.exists()
    with pytest.raises(ArtifactError, match="do not exist"):
        LabelMaps(path)


def test_errors(tmp_path: Path) -> None:
    path = tmp_path / "a/labels.csv"
    write(path, ["a", "b", "c"])
    with pytest.raises(ArtifactError, match="do not belong together"):
        LabelMaps([path, path])
    maps = LabelMaps(path)
    with pytest.raises(ArtifactError, match="not among the 3 label maps"):
        maps["z"]
    content = maps.path("a").read_bytes()
    maps.path("a").write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="cannot be read"):
        maps["a"]
    maps.path("b").unlink()
    with pytest.raises(ArtifactError, match="no such mask"):
        maps["b"]
    Image.new("L", (3, 3)).save(maps.path("c"))
    with pytest.raises(ArtifactError, match="exchanged"):
        maps["c"]
    path.write_text("id,path\na,b\n")
    with pytest.raises(ArtifactError, match="no list of label maps"):
        LabelMaps(path)


def test_ids_stay_inside_the_folder_and_unique(tmp_path: Path) -> None:
    mask = np.zeros((2, 2), np.uint8)
    with LabelMapWriter(tmp_path / "labels.csv", TABLE) as writer:
        writer.add("a", mask)
        with pytest.raises(ArtifactError, match="added twice"):
            writer.add("a", mask)
        for id in ("../x", "/x"):
            with pytest.raises(ArtifactError, match="outside"):
                writer.add(id, mask)
