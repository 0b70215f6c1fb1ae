"""Class tables: defaults, round trips, lookups, and what they refuse."""

from pathlib import Path

import numpy as np
import pytest

from anyshot.data.classes import ClassTable, voc_colour
from anyshot.data.readers.voc import voc_table
from anyshot.errors import ConfigError, DataError


def test_voc_colours_are_the_published_ones() -> None:
    assert [voc_colour(n) for n in (0, 1, 2, 15, 20)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (0, 64, 128)
    ]  # fmt: skip
    assert voc_colour(255) == (224, 224, 192)


def test_voc_table_has_21_classes_with_the_background_first() -> None:
    table = voc_table()
    assert len(table) == 21
    assert table.background_id == 0
    assert table.foreground_ids == tuple(range(1, 21))
    assert table.name_of(15) == "person"
    assert table.palette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert len(table.palette()) == 768


def test_short_csv_gets_kinds_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_text("id,name\n0,Background\n7,car\n")
    table = ClassTable.read(path)
    assert table.kinds == ("background", "thing")
    assert table.colours == (voc_colour(0), voc_colour(7))
    assert table.index_of == {0: 0, 7: 1}


@pytest.mark.parametrize("name", ["建筑物", '"; rm -rf ~"', "a,b", " café ", "$(reboot)", "x\ty"])
def test_any_name_survives_a_round_trip(tmp_path: Path, name: str) -> None:
    table = ClassTable.of(("background", name.strip()), ids=(3, 9), colours=((1, 2, 3), (4, 5, 6)))
    table.write(tmp_path / "classes.csv")
    assert ClassTable.read(tmp_path / "classes.csv") == table


def test_csv_of_a_spreadsheet_with_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_bytes("\ufeffid,name,kind\r\n0,天空,stuff\r\n".encode())
    assert ClassTable.read(tmp_path / "classes.csv").names == ("天空",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\n0,a\n0,b\n", "id 0 occurs more than once"),
        ("id,name\n0,a\n1,a\n", "name a occurs more than once"),
        ("id,name\nx,a\n", "line 2, column id"),
        ("id,name\n0,\n", "no name"),
        ("id,name\n-1,a\n", "outside 0..65534"),
        ("id,name\n0,a\n255,b\n", "255 means ignore"),
        ("id,name,kind\n0,a,object\n", "kind 'object'"),
        ("id,name,red\n0,a,3\n", "give red, green and blue"),
        ("id,name,red,green,blue\n0,a,3,4,500\n", "outside 0..255"),
        ("name,id\n", "no classes"),
    ],
)
def test_wrong_tables_are_refused_with_the_file_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        ClassTable.read(path)
    assert str(path) in str(raised.value)


def test_table_in_another_encoding_says_so(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_bytes("id,name\n0,天空\n".encode("gbk"))
    with pytest.raises(DataError, match="UTF-8"):
        ClassTable.read(tmp_path / "classes.csv")


def test_unknown_names_come_with_close_matches() -> None:
    assert voc_table().ids_of(["person", "cat"]) == [15, 8]
    with pytest.raises(ConfigError, match=r"'persn' \(did you mean person\?\).*21 classes"):
        voc_table().ids_of(["persn", "cat"])


def test_lookup_maps_ids_to_positions_and_all_else_to_ignore() -> None:
    table = ClassTable.of(("a", "b"), ids=(5, 300))
    lookup = table.lookup(ignore_index=-1)
    assert lookup.shape == (65536,)
    assert (lookup[5], lookup[300], lookup[0], lookup[65535]) == (0, 1, -1, -1)
    assert np.count_nonzero(lookup >= 0) == 2
    assert table.ignore == 65535
    assert voc_table().ignore == 255


def test_digest_depends_on_names_not_on_colours() -> None:
    table = ClassTable.of(("a", "b"))
    assert table.digest() == ClassTable.of(("a", "b"), colours=((9, 9, 9), (8, 8, 8))).digest()
    assert table.digest() != ClassTable.of(("b", "a")).digest()
