"""Open-world splits and their maps: the specification's tables (golden check G1), properties, refusals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyshot.data.cityscapes_labels import cityscapes_table
from anyshot.data.classes import ClassTable
from anyshot.data.open_splits import OPEN_SCHEMES, OpenSplit, checked_open_splits, open_split, open_splits
from anyshot.data.readers.camvid import camvid_table
from anyshot.data.readers.voc import voc_table
from anyshot.data.scenes import objects_table, stuff_things_table
from anyshot.data.split_tables import SplitTables
from anyshot.errors import ArtifactError, ConfigError, DataError

V = 255
# By train id 0..18. The rows 16_3, 14_5, 12_7 and 10_9 are printed in raml.md section 1.4; the others follow
# from its rules.
CLOSED = {
    "16_3": [*range(13), V, V, V, 13, 14, 15],
    "16_1": [*range(13), V, V, V, 13, 14, 15],
    "14_5": [*range(10), V, 10, 11, V, V, V, V, 12, 13],
    "12_7": [*range(10), V, 10, 11, V, V, V, V, V, V],
    "10_9": [*range(10), V, V, V, V, V, V, V, V, V],
    "18_1": [*range(13), V, 13, 14, 15, 16, 17],
    "all_17": [*range(14), V, V, 14, 15, 16],
    "all_19": list(range(19)),
}
EVAL = {
    "16_3": [*range(13), 16, 17, 18, 13, 14, 15],
    "16_1": [*range(13), 16, V, V, 13, 14, 15],
    "14_5": [*range(10), 14, 10, 11, 15, 16, 17, 18, 12, 13],
    "12_7": [*range(10), 12, 10, 11, 13, 14, 15, 16, 17, 18],
    "10_9": list(range(19)),
    "18_1": [*range(13), 18, 13, 14, 15, 16, 17],
    "all_17": [*range(14), V, V, 14, 15, 16],
    "all_19": list(range(19)),
}
KNOWN = {"16_3": 16, "16_1": 16, "14_5": 14, "12_7": 12, "10_9": 10, "18_1": 18, "all_17": 17, "all_19": 19}


def tables_of(split: str) -> SplitTables:
    """The tables of a split of Cityscapes."""
    found = open_split("cityscapes_open", split)
    return SplitTables.make(cityscapes_table(), novel=found.novel, ignored=found.ignored)


def train_id_view(lut: np.ndarray) -> list[int]:
    """A map of label ids as the specification prints it: by train id 0..18."""
    return lut[list(cityscapes_table().ids)].tolist()


@pytest.mark.parametrize("split", KNOWN)
def test_g1_maps_of_cityscapes(split: str) -> None:
    tables = tables_of(split)
    assert train_id_view(tables.closed_lut) == CLOSED[split]
    assert train_id_view(tables.eval_lut) == EVAL[split]
    assert (tables.known, tables.meta) == (KNOWN[split], 20 - KNOWN[split])
    for lut in (tables.closed_lut, tables.eval_lut):
        assert lut.shape == (256,)
        assert lut.dtype == np.uint8
        others = np.setdiff1d(np.arange(256), cityscapes_table().ids)
        assert (lut[others] == V).all()


def test_g1_examples() -> None:
    closed, evaluation = (
        train_id_view(lut) for lut in (tables_of("12_7").closed_lut, tables_of("12_7").eval_lut)
    )
    assert [closed[n] for n in (9, 10, 11, 12, 13, 18)] == [9, 255, 10, 11, 255, 255]
    assert [evaluation[n] for n in (10, 11, 12, 13)] == [12, 10, 11, 13]
    closed = train_id_view(tables_of("16_3").closed_lut)
    assert [closed[n] for n in (12, 13, 15, 16, 18)] == [12, 255, 255, 13, 15]


def test_the_shipped_splits() -> None:
    assert list(open_splits("cityscapes_open")) == list(KNOWN)
    assert open_split("cityscapes_open", "16_1") == OpenSplit("16_1", ("car",), ("truck", "bus"))
    assert open_split("cityscapes_open", "all_17") == OpenSplit("all_17", (), ("truck", "bus"))
    assert open_split("cityscapes_open", "all_19") == OpenSplit("all_19", (), ())
    assert open_split("camvid_open", "road_users").novel == ("car", "pedestrian", "bicyclist")
    assert list(open_splits("scenes_open")) == ["small", "all_known"]
    assert len(open_split("scenes_open", "small").novel) == 3


@pytest.mark.parametrize(
    ("scheme", "table", "classes"),
    [
        ("cityscapes_open", cityscapes_table(), 19),
        ("camvid_open", camvid_table(), 11),
        ("scenes_open", objects_table(), 21),
        ("scenes_open", stuff_things_table(), 26),
    ],
)
def test_every_split_fits_its_class_table(scheme: str, table: ClassTable, classes: int) -> None:
    for name, split in open_splits(scheme).items():
        tables = SplitTables.make(table, novel=split.novel, ignored=split.ignored)
        assert name == split.name
        assert tables.known == classes - len(split.novel) - len(split.ignored)
        assert tables.meta == classes - tables.known + 1


def test_unknown_schemes_and_splits_are_named() -> None:
    with pytest.raises(ConfigError, match=", ".join(OPEN_SCHEMES)):
        open_splits("pascal_5i")
    with pytest.raises(ConfigError, match="'163'; it has 16_3, 16_1"):
        open_split("cityscapes_open", "163")


def test_what_a_caller_does_to_the_splits_stays_with_it() -> None:
    open_splits("camvid_open").clear()
    assert len(open_splits("camvid_open")) == 2


def content(row: dict[str, Any], ignored: int = 1) -> dict[str, Any]:
    asserted = {"splits": 1, "distinct_novel_classes": 2, "novel": {"a": 2}, "ignore_at_eval": {"a": ignored}}
    return {"asserted": asserted, "splits": {"a": row}}


def test_damaged_files_are_noticed() -> None:
    row = {"novel": ["x", "y"], "eval_novel": ["x"], "ignore_at_eval": ["y"]}
    assert checked_open_splits(content(row), "test") == {"a": OpenSplit("a", ("x",), ("y",))}
    for damaged in ({**row, "novel": ["x"]}, {**row, "ignore_at_eval": []}):
        with pytest.raises(DataError, match="itself asserts"):
            checked_open_splits(content(damaged), "test")
    for damaged in (
        {**row, "eval_novel": ["x", "y"]},
        {**row, "eval_novel": []},
        {**row, "eval_novel": ["z"]},
    ):
        with pytest.raises(DataError, match="is not eval_novel"):
            checked_open_splits(content(damaged), "test")


def test_ids_names_and_colours_by_evaluation_index() -> None:
    tables = tables_of("16_3")
    assert tables.known_ids == (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 31, 32, 33)
    assert (tables.novel_ids, tables.ignored_ids) == ((26, 27, 28), ())
    # The column order of the paper's table 2.
    assert tables.eval_names[-6:] == ("train", "motorcycle", "bicycle", "car", "truck", "bus")
    assert tables.eval_to_id.tolist() == [*tables.known_ids, 26, 27, 28]
    assert tables.closed_to_id.tolist() == list(tables.known_ids)
    assert tables.closed_to_id.dtype == tables.eval_to_id.dtype == np.uint8
    palette = np.array(tables.eval_palette).reshape(256, 3)
    own = cityscapes_table()
    for index, name in enumerate(tables.eval_names):
        assert tuple(palette[index]) == own.colours[own.names.index(name)]
    with pytest.raises(ValueError, match="read-only"):
        tables.closed_lut[0] = 1


def test_novel_classes_keep_the_order_they_are_listed_in() -> None:
    tables = SplitTables.make(camvid_table(), novel=["bicyclist", "car"])
    assert tables.novel_ids == (10, 8)
    assert tables.eval_lut[[10, 8, 9, 11, 255]].tolist() == [9, 10, 8, V, V]


def test_a_background_is_known() -> None:
    tables = SplitTables.make(voc_table(), novel=voc_table().names[1:])
    assert (tables.known_ids, tables.known, tables.meta) == ((0,), 1, 21)
    with pytest.raises(ConfigError, match="'background' is the background, which is always known"):
        SplitTables.make(voc_table(), novel=["background"])


def test_wide_masks_have_wide_maps() -> None:
    table = ClassTable.of([f"c{n}" for n in range(5)], ids=[3, 300, 7, 65534, 255])
    tables = SplitTables.make(table, novel=["c1"])
    assert tables.known_ids == (3, 7, 255, 65534)
    assert tables.closed_lut.shape == (65536,)
    assert tables.closed_to_id.dtype == np.uint16
    assert tables.eval_lut[[3, 7, 255, 65534, 300, 65535]].tolist() == [0, 1, 2, 3, 4, V]
    many = ClassTable.of([f"c{n}" for n in range(300)])
    with pytest.raises(ConfigError, match="300 classes are evaluated, at most 255"):
        SplitTables.make(many, novel=["c1"])
    few = SplitTables.make(many, novel=["c1"], ignored=many.names[2:100])
    assert few.eval_lut[[1, 0, 100, 299]].tolist() == [201, 0, 1, 200]


def test_impossible_splits_are_refused() -> None:
    table = camvid_table()
    for novel, ignored in ((["car", "car"], []), (["car"], ["car"]), ([], ["car", "car"])):
        with pytest.raises(ConfigError, match="car: listed more than once"):
            SplitTables.make(table, novel=novel, ignored=ignored)
    with pytest.raises(ConfigError, match=r"'cars' \(did you mean car"):
        SplitTables.make(table, novel=["cars"])
    with pytest.raises(ConfigError, match=r"'bicycle' \(did you mean bicyclist"):
        SplitTables.make(table, novel=["car"], ignored=["bicycle"])
    with pytest.raises(ConfigError, match="all 11 classes novel or ignored"):
        SplitTables.make(table, novel=table.names[:5], ignored=table.names[5:])


@st.composite
def splits(draw: st.DrawFn) -> SplitTables:
    """Any class table of 8 or 16 bits, and any split of it."""
    most = draw(st.sampled_from([254, 65534]))
    ids = draw(
        st.lists(st.integers(0, most).filter(lambda n: n != 255), min_size=1, max_size=12, unique=True)
    )
    table = ClassTable.of([f"class {n}" for n in ids], ids=ids)
    names = draw(st.permutations(table.names))
    unseen = draw(st.integers(0, len(names) - 1))
    novel = draw(st.integers(0, unseen))
    return SplitTables.make(table, novel=names[:novel], ignored=names[novel:unseen])


@settings(deadline=None, max_examples=60)
@given(splits())
def test_evaluation_after_inverse_training_is_the_identity_on_known_classes(tables: SplitTables) -> None:
    known = np.arange(tables.known)
    assert (tables.eval_lut[tables.closed_to_id] == known).all()
    assert (tables.closed_lut[tables.closed_to_id] == known).all()
    assert (tables.eval_lut[tables.eval_to_id] == np.arange(len(tables.eval_names))).all()
    unseen = [*tables.novel_ids, *tables.ignored_ids]
    assert (tables.closed_lut[unseen] == V).all()
    assert (tables.eval_lut[list(tables.ignored_ids)] == V).all()
    assert (tables.closed_lut != V).sum() == tables.known
    assert tables.known + len(unseen) == len(tables.table)


@settings(deadline=None, max_examples=60)
@given(splits())
def test_a_saved_split_is_the_same_when_loaded(tables: SplitTables) -> None:
    again = SplitTables.from_json(json.loads(json.dumps(tables.to_json())))
    assert again == tables
    assert again.digest() == tables.digest()
    tables.check(again)


def test_digests_differ_where_splits_do() -> None:
    digests = {tables_of(split).digest() for split in KNOWN}
    assert len(digests) == len(KNOWN)
    reordered = SplitTables.make(cityscapes_table(), novel=["truck", "car", "bus"])
    assert reordered.digest() not in digests


def test_the_first_difference_is_named() -> None:
    tables = tables_of("16_3")
    with pytest.raises(ArtifactError, match=r"its novel class 2 is none, the\n? ?configuration's is 'truck'"):
        tables.check(tables_of("16_1"))
    with pytest.raises(ArtifactError, match="its novel class 1 is 'sky', the configuration's is 'car'"):
        tables.check(tables_of("14_5"))
    with pytest.raises(ArtifactError, match="its ignored class 1 is 'truck', the configuration's is none"):
        tables_of("18_1").check(tables_of("16_1"))
    with pytest.raises(ArtifactError, match=r"its class 1 is 0 'sky' .*, the configuration's is 7 'road'"):
        tables.check(SplitTables.make(camvid_table(), novel=["car"]))
    own = cityscapes_table()
    other = ClassTable(own.ids, own.names, ("thing", *own.kinds[1:]), own.colours)
    with pytest.raises(ArtifactError, match=r"its class 1 is 7 'road' \(thing, .*is 7 'road' \(stuff, "):
        tables.check(SplitTables.make(other, novel=["car", "truck", "bus"]))


@pytest.mark.parametrize(
    "damage",
    [
        {"closed": None}, {"known": 15}, {"meta": 5}, {"eval": [0] * 19}, {"novel_ids": [26, 26]},
        {"novel_ids": [999]}, {"classes": 5}, {"classes": []},
        {"classes": [{"id": 26}]}, {"classes": [{"id": 26, "name": "a", "kind": "thing", "colour": [1, 2]}]},
    ],
)  # fmt: skip
def test_damaged_saved_splits_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="the saved split is damaged"):
        SplitTables.from_json({**tables_of("16_3").to_json(), **damage})
    with pytest.raises(ArtifactError, match="'classes'"):
        SplitTables.from_json({"known": 16})
