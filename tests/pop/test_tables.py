"""The class maps of a fold: golden cases G11 and G13 of pop.md, every mask value, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.data.classes import ClassTable, voc_colour
from anyshot.data.images import read_mask
from anyshot.data.readers.camvid import camvid_table
from anyshot.data.readers.voc import voc_table
from anyshot.data.splits import JOINT, SCHEMES, novel_class_names, split_names
from anyshot.errors import ArtifactError, ConfigError, DataError
from anyshot.pop.tables import IGNORE, FoldTables


def coco_table() -> ClassTable:
    """The 80 classes, put back in order from the four folds."""
    folds = [novel_class_names("coco_20i", fold) for fold in split_names("coco_20i")]
    return ClassTable.of(("background", *(name for names in zip(*folds, strict=True) for name in names)))


def fold_of(scheme: str, split: str) -> FoldTables:
    table = voc_table() if scheme == "pascal_5i" else coco_table()
    return FoldTables.make(table, novel=novel_class_names(scheme, split))


@pytest.mark.parametrize(
    ("scheme", "split", "expected"),
    [
        ("pascal_5i", "fold1", {5: 5, 11: 6, 20: 15, 6: 16, 10: 20}),
        ("coco_20i", "fold0", {2: 1, 3: 2, 4: 3, 6: 4, 80: 60, 1: 61, 5: 62, 77: 80}),
        ("coco_20i", "fold3", {1: 1, 5: 4, 79: 60, 4: 61, 80: 80}),
    ],
)
def test_g11_index_maps(scheme: str, split: str, expected: dict[int, int]) -> None:
    fold = fold_of(scheme, split)
    assert {number: fold.id_to_index[number] for number in expected} == expected
    values = np.array(list(expected), dtype=np.uint8)
    assert fold.labels(values, novel=True).tolist() == list(expected.values())
    known = [index if index <= fold.base_count else 0 for index in expected.values()]
    assert fold.labels(values, novel=False).tolist() == known
    assert fold.index_to_id[list(expected.values())].tolist() == list(expected)


@pytest.mark.parametrize("scheme", ["pascal_5i", "coco_20i"])
@pytest.mark.parametrize("split", ["fold0", "fold1", "fold2", "fold3", JOINT])
def test_every_value_of_every_fold(scheme: str, split: str) -> None:
    fold = fold_of(scheme, split)
    assert scheme in SCHEMES
    count = len(fold.table)
    mask = np.array([[*range(count), 255]], dtype=np.uint8)
    full, known = fold.labels(mask, novel=True), fold.labels(mask, novel=False)
    assert full.dtype == known.dtype == np.uint8
    assert full.shape == mask.shape
    assert sorted(full[0, :-1].tolist()) == list(range(count))
    assert full[0, -1] == known[0, -1] == IGNORE
    # Base classes keep their index; novel ones are background while they are unknown.
    assert (known == np.where((full > fold.base_count) & (full != IGNORE), 0, full)).all()
    assert known.max(initial=0, where=known != IGNORE) == fold.base_count
    assert (fold.index_to_id[full[0, :-1]] == mask[0, :-1]).all()
    assert [fold.table.name_of(int(number)) for number in fold.index_to_id] == list(fold.names)
    assert fold.names[0] == "background"
    assert fold.roles.count("base") == fold.base_count == len(fold.base_ids)
    assert fold.roles.count("novel") == fold.novel_count == count - 1 - fold.base_count
    assert (fold.novel_count == 0) == (split == JOINT)


def test_order_of_the_names_does_not_matter() -> None:
    fold = FoldTables.make(voc_table(), novel=["cow", "bus", "car", "chair", "cat"])
    assert fold == fold_of("pascal_5i", "fold1")
    assert fold.novel_ids == (6, 7, 8, 9, 10)
    assert fold.names[16:] == ("bus", "car", "cat", "chair", "cow")
    with pytest.raises(ValueError, match="read-only"):
        fold.train_lut[0] = 1


def test_ids_need_not_be_contiguous_nor_sorted() -> None:
    table = ClassTable.of(("tree", "background", "car", "road"), ids=(40, 0, 7, 12))
    fold = FoldTables.make(table, novel=["car"])
    assert fold.names == ("background", "road", "tree", "car")
    assert fold.index_to_id.tolist() == [0, 12, 40, 7]
    assert fold.labels(np.array([0, 7, 12, 40, 255], dtype=np.int64), novel=True).tolist() == [
        0,
        3,
        1,
        2,
        255,
    ]


def test_sixteen_bit_masks() -> None:
    table = ClassTable.of(("background", "car", "tree"), ids=(0, 300, 255))
    fold = FoldTables.make(table, novel=["car"])
    assert fold.train_lut.shape == (65536,)
    mask = np.array([0, 300, 255, 65535], dtype=np.uint16)
    assert fold.labels(mask, novel=True).tolist() == [0, 2, 1, IGNORE]
    assert fold.labels(mask, novel=False).tolist() == [0, 0, 1, IGNORE]
    with pytest.raises(DataError, match=r"301 \(1 px\)"):
        fold.labels(np.array([301], dtype=np.uint16), novel=True)


@pytest.mark.parametrize("novel", [True, False])
@pytest.mark.parametrize(
    ("values", "kind", "shown"),
    [
        (
            [0, 21, 21, 1],
            np.uint8,
            r"outside the class table: 21 \(2 px\); allowed are 21 ids, 0..20, and 255",
        ),
        ([254], np.uint8, r"254 \(1 px\)"),
        ([300, 65535], np.uint16, r"300 \(1 px\), 65535 \(1 px\)"),
        ([-1, 3], np.int64, r"-1 \(1 px\)"),
    ],
)
def test_values_beyond_the_table_are_refused(
    novel: bool, values: list[int], kind: type[np.integer], shown: str
) -> None:
    with pytest.raises(DataError, match=shown):
        fold_of("pascal_5i", "fold0").labels(np.array(values, dtype=kind), novel=novel)


def test_g13_palette_masks_are_read_as_indices(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [15, 255]], dtype=np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette([part for value in range(256) for part in voc_colour(value)])
    image.save(tmp_path / "palette.png")
    mask = read_mask(tmp_path / "palette.png")
    assert mask.tolist() == indices.tolist()
    fold = fold_of("pascal_5i", "fold0")
    assert fold.labels(mask, novel=True).tolist() == [[0, 16], [10, 255]]
    assert fold.labels(mask, novel=False).tolist() == [[0, 0], [10, 255]]
    # What a grayscale decode makes of the colours is refused, not taken for class ids.
    gray = np.asarray(Image.open(tmp_path / "palette.png").convert("L"))
    assert gray.tolist() == [[0, 38], [147, 220]]
    with pytest.raises(DataError, match=r"outside the class table: 38 .* Save class ids, not colours"):
        fold.labels(gray, novel=True)


def test_bad_folds_are_named() -> None:
    table = voc_table()
    with pytest.raises(ConfigError, match=r"'aeroplan' \(did you mean aeroplane\?\)"):
        FoldTables.make(table, novel=["aeroplan"])
    with pytest.raises(ConfigError, match="cow: listed more than once"):
        FoldTables.make(table, novel=["cow", "cow"])
    with pytest.raises(ConfigError, match="'background' is the background"):
        FoldTables.make(table, novel=["background"])
    with pytest.raises(ConfigError, match="all 20 classes beside the background novel"):
        FoldTables.make(table, novel=table.names[1:])
    with pytest.raises(DataError, match="21 is not in the class table"):
        FoldTables(table, (21,))
    with pytest.raises(DataError, match="kind background with the id 0, the class table has none"):
        FoldTables.make(camvid_table(), novel=["car"])
    with pytest.raises(DataError, match="the class table has 3 as background"):
        FoldTables.make(ClassTable.of(("a", "b", "background"), ids=(0, 1, 3)), novel=["a"])
    with pytest.raises(ConfigError, match="256 classes, at most 255"):
        FoldTables.make(ClassTable.of(("background", *(f"c{n}" for n in range(255)))), novel=["c1"])


def test_json_and_digest() -> None:
    fold = fold_of("coco_20i", "fold2")
    text = json.dumps(fold.to_json())
    again = FoldTables.from_json(json.loads(text))
    assert again == fold
    assert again.digest() == fold.digest()
    digests = {fold_of("coco_20i", split).digest() for split in (*split_names("coco_20i"), JOINT)}
    assert len(digests) == 5
    table = fold.table
    pale = ClassTable(table.ids, table.names, table.kinds, ((1, 2, 3),) * len(table))
    assert FoldTables(pale, fold.novel_ids).digest() == fold.digest()
    for key, value in (("novel_ids", [1]), ("names", []), ("classes", None), ("index_to_id", [0])):
        with pytest.raises(ArtifactError, match="the saved fold is damaged"):
            FoldTables.from_json({**fold.to_json(), key: value})
    with pytest.raises(ArtifactError, match="damaged"):
        FoldTables.from_json({})


def test_another_fold_is_named() -> None:
    mine = fold_of("pascal_5i", "fold1")
    mine.check(FoldTables.from_json(mine.to_json()))
    with pytest.raises(
        ArtifactError, match=r"its class 1 is 6 'bus' \(base\), the configuration's is 1 'aero"
    ):
        mine.check(fold_of("pascal_5i", "fold0"))
    names = ("background", "cat", "dog")
    short = FoldTables.make(ClassTable.of(names), novel=[])
    longer = FoldTables.make(ClassTable.of((*names, "cow")), novel=[])
    with pytest.raises(ArtifactError, match=r"its class 3 is 3 'cow' \(base\).* is none \(4 and 3 in all\)"):
        short.check(longer)
