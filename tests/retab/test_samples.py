"""Class tables with the background anywhere, roles, and the list of base and novel images."""

from pathlib import Path

import numpy as np
import pytest

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Sample
from anyshot.errors import ArtifactError, DataError
from anyshot.ops.metrics import Roles
from anyshot.retab.samples import (
    Supervision,
    id_map,
    index_map,
    read_supervision,
    read_table,
    roles_of,
    supervision_csv,
)

IDS, NAMES = (7, 0, 30, 12), ("cat", "background", "car", "boat")


@pytest.fixture
def classes_csv(tmp_path: Path) -> Path:
    path = tmp_path / "classes.csv"
    ClassTable.of(NAMES, ids=IDS).write(path)
    return path


def test_background_comes_first(classes_csv: Path) -> None:
    """Index 0 is background everywhere in RETAB; the others keep their order, ids and colours."""
    table = read_table(classes_csv)
    assert table.ids == (0, 7, 30, 12)
    assert table.names == ("background", "cat", "car", "boat")
    assert table.kinds == ("background", "thing", "thing", "thing")
    assert dict(zip(table.ids, table.colours, strict=True)) == dict(
        zip(IDS, ClassTable.of(NAMES, ids=IDS).colours, strict=True)
    )


@pytest.mark.parametrize("kinds", [("thing",) * 3, None])
def test_background_must_be_marked(tmp_path: Path, kinds: tuple[str, ...] | None) -> None:
    path = tmp_path / "classes.csv"
    ClassTable.of(("cat", "car", "boat"), kinds=kinds).write(path)
    with pytest.raises(DataError, match=r"exactly one class of kind `background`.*found 0 among 3"):
        read_table(path)


def test_at_most_254_classes(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    ids = [0, *range(256, 256 + 254)]
    ClassTable.of(["background", *(f"c{k}" for k in range(254))], ids=ids).write(path)
    with pytest.raises(DataError, match="at most 254 classes, found 255"):
        read_table(path)


def test_masks_to_indices_and_back(classes_csv: Path) -> None:
    table = read_table(classes_csv)
    mask = np.array([[0, 7, 30], [12, 255, 0]], dtype=np.uint8)
    indices = index_map(mask, table)
    assert indices.dtype == np.uint8
    assert indices.tolist() == [[0, 1, 2], [3, 255, 0]]
    known = indices[indices != 255]
    assert id_map(known, table).tolist() == mask[mask != 255].tolist()
    assert id_map(known, table).dtype == np.uint8


def test_wide_ids() -> None:
    """16-bit masks: ids beyond 255, void 65535."""
    table = ClassTable.of(("background", "cat", "car"), ids=(0, 300, 847))
    mask = np.array([[0, 300, 847, 65535]], dtype=np.uint16)
    assert index_map(mask, table).tolist() == [[0, 1, 2, 255]]
    back = id_map(np.array([[0, 1, 2]]), table)
    assert back.dtype == np.uint16
    assert back.tolist() == [[0, 300, 847]]


def test_roles(classes_csv: Path) -> None:
    """Background counts as base; ids become positions."""
    table = read_table(classes_csv)
    assert roles_of(table, {"novel": [30, 7]}) == Roles(base=[0, 3], novel=[2, 1])


def test_roles_of_voc() -> None:
    """16 base classes and 5 novel ones in every fold (retab.md 1.1)."""
    table = ClassTable.of(["background", *(f"class{k}" for k in range(1, 21))])
    for fold in range(4):
        novel = list(range(5 * fold + 1, 5 * fold + 6))
        roles = roles_of(table, {"novel": novel})
        assert list(roles.novel) == novel
        assert len(roles.base) == 16
        assert sorted([*roles.base, *roles.novel]) == list(range(21))


def test_supervision_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    path.write_text(
        supervision_csv(split="fold2", base=["a", "2007_000032"], novel=["b,c", 'say "x"']), encoding="utf-8"
    )
    supervision = read_supervision(path)
    assert supervision == Supervision("fold2", frozenset({"a", "2007_000032"}), frozenset({"b,c", 'say "x"'}))
    supervision.check([sample("a"), sample("b,c")])
    with pytest.raises(ArtifactError, match="1 images are in neither list of split fold2, the first is 'z'"):
        supervision.check([sample("a"), sample("z")])


@pytest.mark.parametrize("text", ["", "id,role,split\n", "id,role,split\na,other,fold0\n", "a,b\n1,2\n"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "samples.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="run retab_split again"):
        read_supervision(path)


def sample(name: str) -> Sample:
    return Sample(name, Path(f"{name}.jpg"), None, "train", (7,))
