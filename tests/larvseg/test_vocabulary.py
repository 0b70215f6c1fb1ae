"""Vocabularies: digests and counts of larvseg.md 1.4 to 1.6, multiplicities, files, reports, bad input."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from anyshot.data.ade20k_labels import CLASSES as CHALLENGE_NAMES
from anyshot.data.class_lists import SHIPPED, ClassList, digest_of, read_class_list, shipped_list
from anyshot.errors import ConfigError, DataError
from anyshot.larvseg.mapping import base_novel_report, mapping_report
from anyshot.larvseg.name_rules import SHIPPED_RULES, read_rules, shipped_rules
from anyshot.larvseg.vocabulary import Vocabulary, retitled, union

A150, A847, PC59, PC459 = map(shipped_list, ("ade150", "ade847", "pascal_context59", "pascal_context459"))
C171, CITY19, I124 = map(shipped_list, ("coco_stuff171", "cityscapes19", "in124"))
C171P = shipped_rules("coco_stuff").apply(C171)
C171_OLDER = shipped_rules("coco_stuff_older").apply(C171)


def split_counts(target: ClassList, pixel: ClassList) -> tuple[int, int, int]:
    """Rows of the union, base classes, novel classes."""
    vocabulary = union([target, pixel])
    split = vocabulary.base_novel(target.title, pixel=[pixel.title])
    return len(vocabulary), len(split.base), len(split.novel)


# --- Published lists ---


@pytest.mark.parametrize(
    ("names", "classes", "digest"),
    [(A150, 150, "eea01f7342553db7"), (A847, 847, "03c77c68b483b80e"), (C171, 171, "4fc0bfcb501f543a")],
)
def test_input_lists_have_the_published_digests(names: ClassList, classes: int, digest: str) -> None:
    assert (len(names), len(set(names.names)), names.digest) == (classes, classes, digest)


def test_processed_names_of_coco_stuff() -> None:
    changed = [n for n, (old, new) in enumerate(zip(C171.names, C171P.names, strict=True)) if old != new]
    renamed = [40, 62, 99, 168, 169]
    suffixes = [84, 90, 91, 98, 100, *range(102, 107), 109, 111, 114, 121, 130, 145, 148, 152, 155]
    assert changed == sorted([*renamed, *suffixes, *range(159, 167)])
    assert len(changed) == 32
    assert [C171P.names[n] for n in renamed] == [
        "glass", "television receiver", "dirt track", "blind", "windowpane"
    ]  # fmt: skip
    assert C171P.names[166] == "water"
    assert (len(set(C171P.names)), C171P.digest) == (160, "ff2d573e465a7655")
    assert C171P.originals == C171.names
    assert shipped_rules("original").apply(C171) == C171


def test_multiplicities_are_2_for_ceiling_5_for_floor_7_for_wall() -> None:
    vocabulary = union([C171P])
    member = vocabulary.member("coco_stuff171")
    shared = {
        vocabulary.names[r]: k for r, k in zip(member.active, member.multiplicity, strict=True) if k > 1
    }
    assert shared == {"ceiling": 2, "floor": 5, "wall": 7}
    assert (len(member.active), sum(member.multiplicity), len(member.rows) - len(member.active)) == (
        160,
        171,
        11,
    )
    wall, floor, ceiling = vocabulary.rows_of(["wall", "floor", "ceiling"])
    assert [n for n, row in enumerate(member.rows) if row == wall] == list(range(159, 166))
    assert [n for n, row in enumerate(member.rows) if row == floor] == list(range(102, 107))
    assert [n for n, row in enumerate(member.rows) if row == ceiling] == [90, 91]
    assert all(member.active[p] == row for p, row in zip(member.positions, member.rows, strict=True))


@pytest.mark.parametrize(
    ("target", "rows", "base", "novel", "union_digest", "base_digest", "novel_digest"),
    [
        (A150, 247, 63, 87, "a5f02fc69fc7edf0", "a84e6f580016b1c5", "3f5373bfa2133b25"),
        (A847, 913, 94, 753, "a15af779cc10b1ad", "d97e35bf3c35f0cd", None),
        (PC59, 174, 45, 14, "67acbf238ff139f1", None, None),
    ],
)
def test_unions_with_processed_coco_stuff(
    target: ClassList,
    rows: int,
    base: int,
    novel: int,
    union_digest: str,
    base_digest: str | None,
    novel_digest: str | None,
) -> None:
    vocabulary = union([target, C171P])
    split = vocabulary.base_novel(target.title, pixel=["coco_stuff171"])
    assert (len(vocabulary), vocabulary.digest) == (rows, union_digest)
    assert (len(split.base), len(split.novel)) == (base, novel)
    report = base_novel_report(vocabulary, target, split)
    for part, digest in (("base", base_digest), ("novel", novel_digest)):
        assert digest in (None, report[part]["digest"])
        assert report[part]["classes"] == len(report[part]["names"])


def test_other_counts_of_the_specification() -> None:
    assert split_counts(C171, A150) == (274, 47, 124)
    assert split_counts(A150, CITY19) == (156, 13, 137)
    assert split_counts(A847, CITY19) == (853, 13, 834)
    assert len(union([PC459, A150])) == 531
    assert split_counts(I124, C171P)[1:] == (60, 64)
    # Notebooks until November 2022: ade124ucoco.json has 228 rows; splits 58/92, 92/755 and 55/69 (4.1).
    assert split_counts(I124, C171_OLDER) == (228, 55, 69)
    assert split_counts(A150, C171_OLDER)[1:] == (58, 92)
    assert split_counts(A847, C171_OLDER)[1:] == (92, 755)
    outside = [n for n, name in enumerate(C171P.names) if name not in set(A150.names)]
    assert len(outside) == 97, "the exclusion list c171-a150.json, in original names"


def test_novel_classes_of_pascal_context_are_those_named() -> None:
    split = union([PC59, C171P]).base_novel("pascal_context59", pixel=["coco_stuff171"])
    named = (
        "aeroplane bag bedclothes computer motorbike plate pottedplant shelves sidewalk sign sofa track"
        " tvmonitor window"
    )
    assert [PC59.names[index] for index in split.novel] == named.split()


def test_image_labelled_synsets_cover_64_of_87_novel_names() -> None:
    vocabulary = union([A150, C171P, I124])
    split = vocabulary.base_novel("ade150", pixel=["coco_stuff171"], image=["in124"])
    assert (len(split.novel), len(split.covered), len(split.uncovered)) == (87, 64, 23)
    assert sorted({*split.covered, *split.uncovered}) == list(split.novel)
    assert (len(vocabulary), vocabulary.names_digest) == (247, "a5f02fc69fc7edf0")
    assert vocabulary.ids[vocabulary.rows_of(["airplane"])[0]] == "n02691156"
    assert vocabulary.rows_of(["n04587648"]) == vocabulary.rows_of(["windowpane"])
    assert A150.with_ids(I124.ids_by_name()).ids[A150.names.index("wall")] == "n04547592"


def test_ade150_has_the_order_of_the_reader() -> None:
    assert len(A150) == len(CHALLENGE_NAMES)
    others = {n: (a, b) for n, (a, b) in enumerate(zip(A150.names, CHALLENGE_NAMES, strict=True)) if a != b}
    assert sorted(others.values()) == [
        ("airplane", "plane"), ("apparel", "clothes"), ("ashcan", "trash can"), ("bathtub", "tub"),
        ("railing", "rail"), ("streetlight", "street lamp"), ("swimming pool", "pool"),
        ("television receiver", "tv"), ("waterfall", "falls"), ("windowpane", "window"),
    ]  # fmt: skip


def test_one_spelling_unifies_what_the_published_names_keep_apart() -> None:
    rules = shipped_rules("spelling")
    spelled = [rules.apply(names) for names in (PC59, A847, A150, C171P)]
    vocabulary = union(spelled)
    left = vocabulary.base_novel("pascal_context59", pixel=["coco_stuff171"]).novel
    assert [PC59.names[n] for n in left] == ["bag", "bedclothes", "computer", "plate", "sign", "track"]
    for first, second in [("traffic light", "traffic-light"), ("couch", "sofa"), ("pavement", "sidewalk")]:
        assert vocabulary.rows_of([first]) == vocabulary.rows_of([second]), "one is a synonym of the other"
    assert mapping_report(vocabulary, spelled)["near"] == []
    near = mapping_report(union([A847, C171P]), [A847, C171P])["near"]
    assert {tuple(pair) for pair in near} == {
        (name.replace(" ", "-"), name)
        for name in ("television receiver", "traffic light", "dirt track", "parking meter")
    }


# --- Properties ---


@pytest.mark.parametrize("name", SHIPPED)
def test_a_union_with_itself_is_the_list(name: str) -> None:
    names = shipped_list(name)
    once, twice = union([names]), union([names, retitled(names, "again")])
    assert (once.ids, once.names) == (twice.ids, twice.names)
    assert once.members[0].rows == twice.members[1].rows == tuple(range(len(names)))
    assert twice.base_novel(name, pixel=["again"]).novel == ()


def test_what_is_one_does_not_depend_on_the_order() -> None:
    lists = [A150, C171P, I124, PC59]
    first = union(lists)
    for order in itertools.permutations(lists):
        other = union(order)
        assert (other.digest, other.names_digest, len(other)) == (
            first.digest,
            first.names_digest,
            len(first),
        )
        for names in lists:
            assert [other.ids[row] for row in other.member(names.title).rows] == [
                first.ids[row] for row in first.member(names.title).rows
            ]
    shuffled = list(A847.names)
    random.Random(0).shuffle(shuffled)
    assert digest_of(shuffled) == A847.digest != digest_of(shuffled[1:])


def test_ids_tell_equal_names_apart() -> None:
    plates = ClassList.of("synsets", ["plate", "plate", "cup"], ids=["n1", "n2", "n3"])
    vocabulary = union([plates, ClassList.of("names", ["cup", "fork"])])
    assert (vocabulary.ids, vocabulary.names) == (
        ("n1", "n2", "n3", "fork"),
        ("plate", "plate", "cup", "fork"),
    )
    assert vocabulary.member("names").rows == (2, 3)
    with pytest.raises(ConfigError, match=r"several rows .* 'plate' \(one of n1, n2\); give the id"):
        vocabulary.rows_of(["plate"])
    with pytest.raises(ConfigError, match=r"'names': 'plate' has no id, and 2 ids have this name \(n1, n2\)"):
        union([plates, ClassList.of("names", ["plate"])])
    known = ClassList.of("names", ["plate"]).with_ids({"plate": "n2"})
    assert union([plates, known]).member("names").rows == (1,)


def test_other_lists_find_their_rows() -> None:
    vocabulary = union([A150, C171P])
    assert vocabulary.place(C171).rows == vocabulary.member("coco_stuff171").rows, "synonyms lead to the rows"
    assert vocabulary.place(I124).rows == tuple(vocabulary.rows_of(I124.names))
    with pytest.raises(
        ConfigError, match=r"class list 'cityscapes19': the vocabulary has .* not 'traffic sign' "
    ):
        vocabulary.place(CITY19)


# --- Files ---


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_files_hold_everything(tmp_path: Path, suffix: str) -> None:
    vocabulary = union([A150, C171P, I124])
    path = tmp_path / f"vocabulary{suffix}"
    vocabulary.write(path)
    assert Vocabulary.read(path, rows=247, digest=vocabulary.digest) == vocabulary


def test_the_official_form_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ade150ucoco.json"
    path.write_text(json.dumps(sorted({*A150.names, *C171P.names}, reverse=True)))
    vocabulary = Vocabulary.read(path, rows=247, digest="a5f02fc69fc7edf0")
    assert vocabulary.rows_of(["zebra", "airplane"]) == [0, 246]


def test_broken_vocabulary_files_are_named(tmp_path: Path) -> None:
    vocabulary = union([ClassList.of("a", ["cat", "dog"])])
    path = tmp_path / "v.json"
    with pytest.raises(DataError, match=r"v.json: no such vocabulary file"):
        Vocabulary.read(path)
    vocabulary.write(path)
    with pytest.raises(DataError, match=r"v.json: the vocabulary has 2 rows, expected 247"):
        Vocabulary.read(path, rows=247)
    with pytest.raises(DataError, match=r"digest is .*, expected a5f02fc69fc7edf0: it has other classes"):
        Vocabulary.read(path, digest="a5f02fc69fc7edf0")
    content = vocabulary.to_json()
    for broken, message in [
        ("{", "not a vocabulary file"),
        ("{}", "not a vocabulary file"),
        ('["cat", "cat"]', "the id 'cat' occurs more than once"),
        (json.dumps(content | {"digest": "0"}), "damaged or edited"),
        (json.dumps(content | {"members": [{"title": "a", "rows": [2]}]}), "has row 2, the rows are 0..1"),
    ]:
        path.write_text(broken)
        with pytest.raises(DataError, match=message):
            Vocabulary.read(path)
    table = tmp_path / "v.csv"
    for broken, message in [
        ("id,name\n", "first columns are not row,id,name,synonyms"),
        ("row,id,name,synonyms\n1,cat,cat,\n", "does not count 0, 1"),
        ("row,id,name,synonyms,a\n0,cat,cat,,1\n", "class indices of 'a' are not 0, 1"),
    ]:
        table.write_text(broken)
        with pytest.raises(DataError, match=message):
            Vocabulary.read(table)
    with pytest.raises(DataError, match=r"v.txt: vocabularies are written as .json or .csv"):
        vocabulary.write(tmp_path / "v.txt")
    with pytest.raises(DataError, match=r"called like one of the columns"):
        union([ClassList.of("row", ["cat"])]).write(table)


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("a.txt", "cat\n\nice cream\n", (None, None)),
        ("a.json", '["cat", "ice cream"]', (None, None)),
        ("a.json", '{"cat": "n1", "ice cream": "n2"}', ("n1", "n2")),
        ("a.yaml", "names: [cat, ice cream]", (None, None)),
        ("a.yaml", "synsets: {cat: n1, ice cream: n2}", ("n1", "n2")),
        ("a.csv", "id,name,kind\n0,cat,thing\n1,ice cream,thing\n", (None, None)),
        ("a.csv", "wnid,name\nn1,cat\n,ice cream\n", ("n1", None)),
    ],
)
def test_own_class_lists(tmp_path: Path, name: str, text: str, ids: tuple[str | None, ...]) -> None:
    (tmp_path / name).write_text(text)
    found = read_class_list(tmp_path / name)
    assert (found.title, found.names, found.ids) == ("a", ("cat", "ice cream"), ids)
    with pytest.raises(DataError, match=r"found 2 classes, expected 3"):
        read_class_list(tmp_path / name, classes=3)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "cat\ncat\n", r"the name 'cat' occurs more than once"),
        ("a.txt", "\n", "it has no classes"),
        ("a.yaml", "names: [cat, no]", "quote names such as yes, no and 42"),
        ("a.yaml", "names: [", "cannot be read"),
        ("a.yaml", "asserted: {classes: 3, digest: x}\nnames: [cat]", "take `asserted` out of the copy"),
        ("a.csv", "wnid,name\nn1,cat\nn1,dog\n", "the id 'n1' occurs more than once"),
        ("a.csv", "wnid\nn1\n", "expected a column `name`"),
        ("a.xls", "", "class lists are read from"),
    ],
)
def test_bad_class_lists_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_class_list(tmp_path / name)


def test_unknown_names_come_with_close_ones() -> None:
    vocabulary = union([A150, C171P])
    with pytest.raises(
        ConfigError, match=r"the vocabulary has 2\d\d names, but not 'zebar' .did you mean zebra"
    ):
        vocabulary.rows_of(["wall", "zebar"])
    with pytest.raises(ConfigError, match=r"'ade150' has 150 names, but not 'wal' .did you mean wall"):
        A150.indices_of(["wal"])
    with pytest.raises(ConfigError, match=r"did you mean ade150"):
        vocabulary.base_novel("ade15", pixel=[])
    with pytest.raises(ConfigError, match="shipped are ade150, ade847"):
        shipped_list("ade")
    with pytest.raises(DataError, match="needs a class list"):
        union([])
    with pytest.raises(DataError, match="the class list 'ade150' occurs more than once"):
        union([A150, A150])


# --- Name processing and reports ---


def test_own_tables_of_synonyms(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("unify_separators: true\nrenames: {sofa: sitting-room couch}\n")
    rules = read_rules(path)
    found = [rules.name(name) for name in ("sofa", "wall-wood", "Indian_pipe")]
    assert found == ["sitting room couch", "wall wood", "Indian pipe"]
    for text, message in [
        ("drop_after_hyphens: true", "found the key 'drop_after_hyphens'"),
        ("drop_after_hyphen: 1", "`drop_after_hyphen` is 1; write true or false"),
        ("renames: [a]", "`renames` is not"),
        ("renames: {no: yes}", "quote yes, no and 42"),
        ("renames: {", "cannot be read"),
        ("just text", "found the key ''"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_rules(path)
    with pytest.raises(DataError, match="no such table of synonyms"):
        read_rules(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="coco_stuff, coco_stuff_older, original, spelling"):
        shipped_rules("processed")
    assert [shipped_rules(name).name("wall-wood") for name in SHIPPED_RULES] == [
        "wall", "wall", "wall-wood", "wall wood"
    ]  # fmt: skip


def test_the_report_says_what_became_one() -> None:
    vocabulary = union([A150, C171P])
    report = mapping_report(vocabulary, [A150, C171P])
    assert json.loads(json.dumps(report)) == report
    assert (report["rows"], report["digest"]) == (247, "a5f02fc69fc7edf0")
    by_name = {entry["name"]: entry["from"] for entry in report["unified"]}
    assert by_name["windowpane"] == {"ade150": ["windowpane"], "coco_stuff171": ["window-other"]}
    assert by_name["ceiling"] == {"ade150": ["ceiling"], "coco_stuff171": ["ceiling-other", "ceiling-tile"]}
    assert sum(len(found) == 2 for found in by_name.values()) == 63
    assert len(report["alone"]["ade150"]) == 87
    assert len(report["alone"]["coco_stuff171"]) == 97
    assert report["lists"][1]["multiplicity"] == {"ceiling": 2, "floor": 5, "wall": 7}
    assert (report["lists"][1]["classes"], report["lists"][1]["rows"]) == (171, 160)
    with pytest.raises(DataError, match="give the same lists in the same order"):
        mapping_report(vocabulary, [C171P, A150])
