"""Few-shot selection: golden case G9 and the published tables of pop.md 1.5, properties, base replay."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyshot.data.manifest import Manifest
from anyshot.data.prepare import sha256_of_ids
from anyshot.data.readers.voc import voc_table
from anyshot.data.splits import novel_class_names, split_names
from anyshot.errors import ConfigError, DataError
from anyshot.pop.datasets import Pairing
from anyshot.pop.index import PixelIndex
from anyshot.pop.selection import (
    check_supports,
    draw_base,
    few_shot,
    list_digest,
    list_text,
    parse_list,
    prototype_base,
    repeats,
    scarce,
    scarce_text,
)
from anyshot.pop.tables import FoldTables

SEEDS = (123, 234, 345)
G9 = {
    1: [f"i{n:02}" for n in range(10)],
    2: [f"i{n:02}" for n in range(6, 12)],
    3: ["i20", "i21"],
}
# The 1-shot supports of the five novel classes, by fold, for each of SEEDS.
ONE_SHOT = (
    ("2008_002151 2008_008337 2008_003360 2010_004773 2010_001013",
     "2009_001595 2008_008325 2008_001770 2011_001901 2011_002318",
     "2009_000513 2007_002227 2008_005724 2009_000378 2008_006072"),
    ("2008_003266 2009_002777 2008_003213 2010_005746 2009_005229",
     "2009_003757 2009_002695 2008_002045 2011_001586 2011_000309",
     "2009_002505 2007_006900 2008_005550 2009_002374 2008_007026"),
    ("2008_001413 2009_000651 2008_003283 2009_004249 2008_005570",
     "2009_005016 2009_000600 2008_002459 2011_000034 2009_004664",
     "2009_003690 2007_007585 2008_005792 2009_004338 2008_001692"),
    ("2008_002653 2009_004164 2008_003271 2011_001889 2009_000216",
     "2009_003929 2009_003784 2008_001660 2010_002208 2011_002292",
     "2009_001975 2007_001872 2008_007021 2009_003534 2008_001920"),
)  # fmt: skip
# First 12 hex digits of the list files' sha256, by fold; columns (1, 5, 10 shots) for each of SEEDS.
DIGESTS = (
    "114524bd7ec1 b98fa15d539f 96756b0dfd12 0302944150cc be5673215ee2 0b9987397eb8 b19abb4b1faf 0ed28b9936e0"
    " af08f605f858",
    "6ca631410fd9 797c771ea04c 62d4abe6623a 0f256922cf64 cc2a671836c9 74f073b988a9 e87a805890cc 4030631f70b6"
    " 280b6e91be08",
    "8ffaef3eafad ed9827926ba6 3f47d70fec47 b888f51274df 9ead8ae2c0f2 cca5b1b1edab 5929e9f292c2 c5bda9038831"
    " d0cf14cdb5f8",
    "556a5345f2fa d0ed57302bb9 61a41c88904c 0723edd65177 05674c6432de 34bf9255d5e5 ed383fb819d9 e3592fa7b3c1"
    " 342dc59b3a6f",
)
# Images with at least 16,384 px of the classes 1..20 in trainaug.
LARGE = (386, 254, 320, 231, 155, 331, 557, 864, 473, 172, 344, 890, 325, 350, 2426, 157, 182, 398, 422, 242)
BASE_LISTS = (
    (8829, "6f94d4212c02b712a61c50806e57d22f49f86df170c9f4a6851629c0b42c1fd8"),
    (8713, "b765832fcef5c6e57142b498b42a31f0423ffb270f0b77acf59f6fb393ecd957"),
    (7679, "754a57b2724e148ea4ae95b7ae38c86abd2a92f434ee8a98a4b31ab0d0410701"),
    (9568, "b4a05dfd74c06115dfe762405a68055d28602a6113a9e38aeb8bc62db3dc1587"),
)


@pytest.mark.parametrize(
    ("seed", "shots", "expected"),
    [
        (123, 1, "i00 i08 i20"),
        (123, 3, "i00 i04 i01 i09 i08 i06 i20 i21 i20"),
        (234, 1, "i05 i08 i20"),
        (234, 3, "i05 i04 i00 i10 i09 i11 i20 i21 i21"),
    ],
)
def test_g9_few_shot_selection(seed: int, shots: int, expected: str) -> None:
    chosen = few_shot(G9, shots, seed)
    assert list(chosen) == [1, 2, 3]
    assert list_text(chosen) == expected.replace(" ", "\n") + "\n"
    assert few_shot(dict(reversed(G9.items())), shots, seed) == chosen, "classes are drawn for by id"
    assert parse_list(list_text(chosen), [3, 1, 2], shots) == chosen
    again = {3: ["i20"] if seed == 123 else ["i21"]} if shots == 3 else {}
    assert repeats(chosen) == again


@pytest.mark.parametrize("fold", range(4))
@pytest.mark.parametrize("column", range(3))
def test_published_one_shot_lists_have_the_published_digests(fold: int, column: int) -> None:
    ids = ONE_SHOT[fold][column].split()
    chosen = {5 * fold + rank + 1: [sample_id] for rank, sample_id in enumerate(ids)}
    text = list_text(chosen)
    assert text == "".join(f"{sample_id}\n" for sample_id in ids)
    digest = list_digest(chosen)
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    assert digest[:12] == DIGESTS[fold].split()[3 * column]


def test_published_ids_lie_where_the_generator_points() -> None:
    """Without VOC at hand: positions drawn in lists of the published lengths, in order of ascending ids."""
    for fold in range(4):
        classes = range(5 * fold + 1, 5 * fold + 6)
        lists = {number: [f"{number}/{n}" for n in range(LARGE[number - 1])] for number in classes}
        drawn = [few_shot(lists, 1, seed) for seed in SEEDS]
        for rank, number in enumerate(classes):
            positions = [int(chosen[number][0].split("/")[1]) for chosen in drawn]
            ids = [ONE_SHOT[fold][column].split()[rank] for column in range(3)]
            assert np.argsort(positions).tolist() == np.argsort(ids).tolist(), (fold, number)


def whole_set(variable: str, name: str, counts: dict[str, int]) -> Manifest:
    """The manifest that an environment variable names; where it is missing or other, the test is skipped."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"set {variable} to the manifest.csv of {name}")
    manifest = Manifest.read(Path(path))
    if manifest.counts() != counts:
        pytest.skip(f"{path} is not the whole of {name}, but {manifest.counts()}")
    return manifest


def test_coco_id_lists() -> None:
    """Ids and order are those of the release, if the data set was read with its lists."""
    counts = {"train": 82081, "val": 40137}
    manifest = whole_set("ANYSHOT_COCO_MANIFEST", "COCO 2014, read with the release's lists", counts)
    digests = {name: sha256_of_ids(one.id for one in manifest.samples([name])) for name in counts}
    assert digests == {
        "train": "92e8e0d83330716976569b544cbcb85c4639ae091c86c489b702e9040f54115b",
        "val": "91a3d9bca792399d57f6968d6cbfd3f14abc042e03242e902b0d4feae72ae758",
    }, "other ids, or not in the order of the release's lists: set data.<name>.lists to them"


@pytest.fixture(scope="module")
def trainaug() -> PixelIndex:
    """The index of a full VOC with SBD's masks, ids ascending as in the published list."""
    counts = {"train": 1464, "train_sbd": 9118, "val": 1449}
    manifest = whole_set("ANYSHOT_VOC_MANIFEST", "PASCAL VOC 2012 with SBD's masks", counts)
    val = [sample.id for sample in manifest.samples(["val"])]
    assert sha256_of_ids(val) == "cdc1326d12f69ce5153aa5da04a4d8783e146868d42d19f82f44e74b97ac907d"
    samples = sorted(manifest.samples(["train", "train_sbd"]), key=lambda sample: sample.id)
    digest = sha256_of_ids(sample.id for sample in samples)
    assert digest == "d1326bd532648d73bc4b1bd275434eba81930982dc7401a65a8cecb26c028e24"
    return PixelIndex.build(samples, voc_table(), threads=os.cpu_count() or 1)


@pytest.mark.slow
def test_voc_class_lists(trainaug: PixelIndex) -> None:
    lists = trainaug.class_lists(range(1, 21))
    assert tuple(len(ids) for ids in lists.values()) == LARGE
    lines = "".join(f"{number} {sample_id}\n" for number, ids in lists.items() for sample_id in ids)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert digest == "68dbc8ba6b1207e640108b67e3f0dede2fccc6de09e6f9457e39ec61612fca1a"


@pytest.mark.slow
@pytest.mark.parametrize("fold", range(4))
def test_voc_base_lists_and_supports(trainaug: PixelIndex, fold: int) -> None:
    name = split_names("pascal_5i")[fold]
    tables = FoldTables.make(voc_table(), novel=novel_class_names("pascal_5i", name))
    ids = trainaug.base_list(tables)
    assert (len(ids), sha256_of_ids(ids)) == BASE_LISTS[fold]
    lists = trainaug.class_lists(tables.novel_ids)
    digests = [list_digest(few_shot(lists, shots, seed))[:12] for seed in SEEDS for shots in (1, 5, 10)]
    assert digests == DIGESTS[fold].split()
    for column, seed in enumerate(SEEDS):
        assert list_text(few_shot(lists, 1, seed)).split() == ONE_SHOT[fold][column].split()


Lists = st.dictionaries(
    st.integers(1, 9),
    st.lists(st.integers(0, 30).map("i{:02}".format), min_size=1, max_size=12, unique=True),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=200)
@given(Lists, st.integers(1, 8), st.integers(0, 1000))
def test_supports_are_images_of_their_class_and_no_more_alike_than_need_be(
    lists: dict[int, list[str]], shots: int, seed: int
) -> None:
    chosen = few_shot(lists, shots, seed)
    assert chosen == few_shot({number: tuple(lists[number]) for number in reversed(lists)}, shots, seed)
    assert list(chosen) == sorted(lists)
    used: set[str] = set()
    for number, ids in chosen.items():
        found = lists[number]
        assert len(ids) == shots
        assert set(ids) <= set(found)
        left = [sample_id for sample_id in found if sample_id not in used]
        if len(found) < shots:
            assert ids[: len(found)] == found
            continue
        if len(left) < shots:
            assert ids[: len(left)] == left
            used.update(left)
        else:
            assert len(set(ids)) == shots
            assert used.isdisjoint(ids)
            used.update(ids)
    again = repeats(chosen)
    alone = Counter(sample_id for ids in chosen.values() for sample_id in ids)
    assert bool(again) == (max(alone.values()) > 1)
    for number, found in lists.items():
        if len(found) < shots:
            assert number in again


def test_classes_before_may_leave_too_few() -> None:
    # The official code would draw for ever here.
    lists = {1: ["a", "b"], 2: ["a", "b", "c"], 3: ["a", "b"]}
    chosen = few_shot(lists, 2, 0)
    assert sorted(chosen[1]) == ["a", "b"]
    assert chosen[2][0] == "c"
    assert set(chosen[3]) <= {"a", "b"}
    assert list(repeats(chosen)) == [2, 3]


def test_no_image_and_no_shot_are_named() -> None:
    with pytest.raises(DataError, match="no image shows enough of the class 'sofa', 2 are needed"):
        few_shot({1: ["a"], 18: []}, 2, 0, names={18: "sofa"})
    with pytest.raises(DataError, match="the class 18"):
        few_shot({18: []}, 2, 0)
    with pytest.raises(ConfigError, match="shots is 0"):
        few_shot(G9, 0, 0)


def test_given_lists() -> None:
    assert parse_list("a\nb\r\nc\nd\n", (6, 2), 2) == {2: ["a", "b"], 6: ["c", "d"]}
    with pytest.raises(DataError, match="has 2 ids for each of 2 novel classes, expected 5"):
        parse_list("a\nb\nc\nd\n", (6, 2), 5)
    for text in ("a\nb\nc\n", ""):
        with pytest.raises(DataError, match="for 2 novel classes; expected the same number"):
            parse_list(text, (6, 2), 1)


def test_a_support_without_its_class_is_named() -> None:
    index = PixelIndex._of(["a", "b"], [(0, 2, 5), (1, 6, 1)])
    check_supports({2: ["a"], 6: ["b"]}, index)
    with pytest.raises(DataError, match="the support image 'b' shows no pixel of its class 'cat'"):
        check_supports({2: ["b"]}, index, names={2: "cat"})
    with pytest.raises(DataError, match="'x' is not among the 2 images"):
        check_supports({2: ["a", "x"]}, index)


@settings(deadline=None, max_examples=200)
@given(Lists, st.integers(1, 8), st.integers(0, 99), st.sets(st.integers(0, 30).map("i{:02}".format)))
def test_voc_replay(lists: dict[int, list[str]], shots: int, seed: int, supports: set[str]) -> None:
    if any(supports.issuperset(ids) for ids in lists.values()):
        with pytest.raises(DataError, match="images is a support image"):
            draw_base(lists, shots, np.random.default_rng(seed), supports)
        return
    drawn = draw_base(lists, shots, np.random.default_rng(seed), supports)
    assert drawn == draw_base(lists, shots, np.random.default_rng(seed), sorted(supports), "voc")
    short = scarce(lists, shots, supports)
    taken = set(supports)
    for number in sorted(lists):
        left = set(lists[number]) - taken or set(lists[number]) - supports
        assert len(drawn[number]) == shots
        assert set(drawn[number]) <= left
        assert len(set(drawn[number])) == min(shots, len(left))
        if number not in short:
            assert len(set(drawn[number]) - taken) == shots, "all its own, and no warning"
        taken.update(drawn[number])


@settings(deadline=None, max_examples=100)
@given(Lists, st.integers(1, 8), st.integers(0, 99))
def test_coco_replay(lists: dict[int, list[str]], shots: int, seed: int) -> None:
    drawn = draw_base(lists, shots, np.random.default_rng(seed), lists[min(lists)], "coco")
    assert list(drawn) == sorted(lists)
    for number, ids in drawn.items():
        assert len(ids) == shots
        assert set(ids) <= set(lists[number])
        if len(lists[number]) < shots:
            assert ids[: len(lists[number])] == lists[number]


def test_replay_is_even_and_goes_on_from_epoch_to_epoch() -> None:
    rng = np.random.default_rng(3)
    lists = {1: [f"a{n}" for n in range(10)], 2: [f"b{n}" for n in range(20)]}
    for policy in ("voc", "coco"):
        epochs = [draw_base(lists, 2, rng, ["a0"], policy) for _ in range(500)]  # type: ignore[arg-type]
        counts = Counter(sample_id for epoch in epochs for sample_id in epoch[1])
        if policy == "voc":
            assert counts.pop("a0", 0) == 0
            assert all(len(set(epoch[1])) == 2 for epoch in epochs)
        # 1000 draws among 9 or 10: 100 or 111 each, standard deviation 10.
        assert len(counts) == 9 + (policy == "coco")
        assert min(counts.values()) > 60
        assert max(counts.values()) < 160
    # Golden draws keep published numbers the same on every machine.
    assert draw_base(lists, 2, np.random.default_rng(0), ["a0"]) == {1: ["a7", "a6"], 2: ["b6", "b5"]}
    assert draw_base(lists, 2, np.random.default_rng(0), [], "coco") == {1: ["a8", "a6"], 2: ["b10", "b5"]}


def test_an_exhausted_list_repeats_its_own_images() -> None:
    rng = np.random.default_rng(0)
    lists = {1: ["a", "b"], 4: ["a", "b", "c"]}
    drawn = draw_base(lists, 2, rng, [])
    assert (sorted(drawn[1]), drawn[4]) == (["a", "b"], ["c", "c"])
    drawn = draw_base(lists, 2, rng, ["c"], names={4: "boat"})
    assert sorted(drawn[1]) == sorted(drawn[4]) == ["a", "b"], (
        "the class before took both: they are shown again"
    )
    assert draw_base({1: ["a"]}, 3, rng, ["a"], "coco") == {1: ["a", "a", "a"]}


def test_what_no_draw_can_come_of() -> None:
    rng = np.random.default_rng(0)
    lists = {1: ["a", "b"], 4: ["a", "c"]}
    for call in (draw_base, prototype_base):
        with pytest.raises(DataError, match="base class 'boat': each of its 2 images is a support image"):
            call(lists, 2, rng, ["a", "c"], names={4: "boat"})
    for policy in ("voc", "coco"):
        with pytest.raises(DataError, match="no image shows enough of the class 1"):
            draw_base({1: []}, 1, rng, [], policy)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the policies are voc, coco"):
        draw_base(lists, 1, rng, [], "ade")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="shots is 0"):
        draw_base(lists, 0, rng)


def test_classes_that_may_repeat_images_are_known_before() -> None:
    lists = {2: ["a", "b", "c"], 5: ["b", "c", "d", "e"], 7: ["x", "y"], 9: ["e", "x", "y", "z"]}
    assert scarce(lists, 2, ["z"]) == {9: (3, 0)}, "5 may take e, 7 takes x and y; 2 leaves 5 two of its four"
    assert scarce(lists, 3, ["a"]) == {2: (2, 2), 5: (4, 2), 7: (2, 2), 9: (4, 1)}
    assert scarce(lists, 3, ["a"], "coco") == {7: (2, 2)}
    assert scarce({1: ["a", "b"], 2: ["c", "d"]}, 2) == {}
    text = scarce_text({9: (3, 0)}, 2, {9: "boat"})
    assert "'boat' (3 images, at least 0 of them after the classes before)" in text


def test_short_lists_that_overlap_last_for_every_epoch() -> None:
    """Each class has enough images; in some epochs the two before take all that the third one has."""
    lists = {1: ["a", "b", "c"], 2: ["a", "b", "d"], 3: ["a", "b", "s"]}
    pairing = Pairing(
        supports=["s"], base_lists=lists, shots=1, seed=5, replay="voc", names={3: "boat"}
    )  # fmt: skip
    assert pairing.scarce == {3: (2, 0)}
    epochs = [pairing.base_of(epoch) for epoch in range(200)]
    assert all(third in ("a", "b") for _, _, third in epochs)
    starved = [one for one in epochs if {"a", "b"} == set(one[:2])]
    assert starved, "otherwise this shows nothing"
    assert len({third for *_, third in starved}) == 2
    assert all(len(set(one)) == 3 for one in epochs if one not in starved)
    with pytest.raises(DataError, match="base class 'boat': each of its 3 images is a support image"):
        Pairing(
            supports=["s", "a", "b"], base_lists=lists, shots=1, seed=5, replay="voc", names={3: "boat"}
        )  # fmt: skip


def test_prototypes_of_classes_that_share_their_images() -> None:
    """No support image, whose novel pixels would enter the background; no class starves for another."""
    lists = {number: ["a", "b", "c", "d", "e"] for number in (1, 2, 3)}
    drawn = prototype_base(lists, 4, np.random.default_rng(1), ["b"])
    assert all(sorted(ids) == ["a", "c", "d", "e"] for ids in drawn.values())
    assert len(set(map(tuple, drawn.values()))) > 1
    few = prototype_base(lists, 2, np.random.default_rng(1), ["b"])
    assert few == {number: ids[:2] for number, ids in drawn.items()}
