"""The index of pixels per class: one pass, its file, and the lists that follow from it (pop.md 1.4)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyshot.data.classes import ClassTable
from anyshot.data.images import write_mask
from anyshot.data.manifest import Sample
from anyshot.errors import ArtifactError, DataError
from anyshot.pop.index import MIN_PIXELS, PixelIndex
from anyshot.pop.tables import FoldTables

TABLE = ClassTable.of(("background", "cat", "dog", "cow", "car"))
FOLD = FoldTables.make(TABLE, novel=["dog", "car"])  # base: cat 1, cow 3
# Mask values and their pixels, by image; in this order.
IMAGES = {
    "m": {0: 10, 1: 20, 2: 70},
    "b": {0: 99, 3: 1},
    "z": {2: 40, 255: 60},
    "a": {0: 100},
    "c, d": {1: 30, 3: 50, 4: 20},
    "void": {255: 100},
    "e": {1: 100},
}


def sample_of(folder: Path, name: str, pixels: dict[int, int]) -> Sample:
    """A sample with a 10 x 10 mask of these pixels by value."""
    path = folder / f"{name}.png"
    values = np.repeat(list(pixels), list(pixels.values()))
    write_mask(path, np.random.default_rng(0).permutation(values).reshape(10, 10), TABLE)
    return Sample(name, folder / f"{name}.jpg", path, "train", ())


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return [sample_of(tmp_path, name, pixels) for name, pixels in IMAGES.items()]


@pytest.fixture
def index(samples: list[Sample]) -> PixelIndex:
    return PixelIndex.build(samples, TABLE)


def entries(index: PixelIndex) -> dict[str, dict[int, int]]:
    """Pixels by image and class, for comparison."""
    found: dict[str, dict[int, int]] = {name: {} for name in index.ids}
    for position, number, pixels in zip(index.sample, index.class_id, index.pixels, strict=True):
        found[index.ids[position]][int(number)] = int(pixels)
    return found


def test_every_image_and_every_foreground_class_is_counted(index: PixelIndex) -> None:
    assert list(index.ids) == list(IMAGES)
    assert entries(index) == {
        name: {number: count for number, count in pixels.items() if number not in (0, 255)}
        for name, pixels in IMAGES.items()
    }
    assert index.pixels_of("c, d", 3) == 50
    assert index.pixels_of("c, d", 2) == index.pixels_of("a", 0) == index.pixels_of("void", 1) == 0
    with pytest.raises(DataError, match="'x' is not among the 7 images"):
        index.pixels_of("x", 1)


def test_the_file(index: PixelIndex, tmp_path: Path) -> None:
    index.write(tmp_path / "index.csv")
    assert (tmp_path / "index.csv").read_text() == (
        "id,class,pixels\n"
        "m,1,20\nm,2,70\nb,3,1\nz,2,40\na,,0\n"
        '"c, d",1,30\n"c, d",3,50\n"c, d",4,20\nvoid,,0\ne,1,100\n'
    )
    again = PixelIndex.read(tmp_path / "index.csv")
    assert again.ids == index.ids
    assert entries(again) == entries(index)
    for text in ("id,class\n", "", "id,class,pixels\na,one,2\n", "id,class,pixels\na\n"):
        (tmp_path / "index.csv").write_text(text)
        with pytest.raises(ArtifactError, match=r"index.csv: the index is damaged"):
            PixelIndex.read(tmp_path / "index.csv")
    with pytest.raises(ArtifactError, match="no such index"):
        PixelIndex.read(tmp_path / "none.csv")


def test_base_lists_take_any_size(index: PixelIndex) -> None:
    assert index.base_list(FOLD) == ["m", "b", "c, d", "e"]
    assert index.base_list(FOLD, filter_novel=True) == ["b", "e"]
    joint = FoldTables.make(TABLE, novel=[])
    assert index.base_list(joint) == ["m", "b", "z", "c, d", "e"] == index.base_list(joint, filter_novel=True)


def test_class_lists_take_large_objects(index: PixelIndex) -> None:
    assert MIN_PIXELS == 16_384
    assert index.class_list(1) == []
    assert index.class_list(1, min_pixels=20) == ["m", "c, d", "e"]
    assert index.class_list(1, min_pixels=21) == ["c, d", "e"]
    # Filtering is for base classes only.
    assert index.class_list(1, min_pixels=20, fold=FOLD, filter_novel=True) == ["e"]
    assert index.class_list(2, min_pixels=1, fold=FOLD, filter_novel=True) == ["m", "z"]
    assert index.class_lists((3, 1), min_pixels=30) == {3: ["c, d"], 1: ["c, d", "e"]}
    with pytest.raises(ValueError, match="needs the fold"):
        index.class_list(1, filter_novel=True)


def test_another_order_and_fewer_images(index: PixelIndex) -> None:
    chosen = index.select(["e", "z", "void", "m"])
    assert list(entries(chosen).items()) == [(name, entries(index)[name]) for name in ("e", "z", "void", "m")]
    assert chosen.class_list(1, min_pixels=1) == ["e", "m"]
    assert (np.diff(chosen.sample) >= 0).all()
    with pytest.raises(DataError, match="'x' is not in the index"):
        index.select(["e", "x"])
    with pytest.raises(DataError, match="an id occurs more than once"):
        index.select(["e", "e"])


def test_bad_masks_are_named(samples: list[Sample], tmp_path: Path) -> None:
    strange = sample_of(tmp_path, "strange", {0: 60, 5: 40})
    with pytest.raises(
        DataError, match=r"strange.png: the mask has values outside the class table: 5 \(40 px"
    ):
        PixelIndex.build([*samples, strange], TABLE)
    without = Sample("n", tmp_path / "n.jpg", None, "train", (1,))
    with pytest.raises(DataError, match="1 of 8 images have no mask"):
        PixelIndex.build([*samples, without], TABLE)
    (tmp_path / "m.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"m.png"):
        PixelIndex.build(samples, TABLE)


def test_processes_count_the_same(samples: list[Sample]) -> None:
    many = [Sample(f"{n}", s.image, s.mask, "train", ()) for n in range(60) for s in samples[:7]]
    many = [Sample(f"s{n}", s.image, s.mask, "train", ()) for n, s in enumerate(many)]  # 420: two processes
    one, two = PixelIndex.build(many, TABLE, threads=1), PixelIndex.build(many, TABLE, threads=2)
    assert one.ids == two.ids
    assert entries(one) == entries(two)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.dictionaries(st.integers(1, 4), st.integers(1, 50)), max_size=12),
    st.sets(st.integers(1, 4), max_size=3),
    st.integers(1, 50),
    st.booleans(),
)
def test_lists_follow_their_definition(
    images: list[dict[int, int]], novel: set[int], least: int, filtered: bool
) -> None:
    rows = [(position, *entry) for position, image in enumerate(images) for entry in image.items()]
    index = PixelIndex._of([f"i{n}" for n in range(len(images))], rows)
    fold = FoldTables(TABLE, tuple(novel))
    base = set(fold.base_ids)
    keeps = [not filtered or not (set(image) & novel) for image in images]
    expected = [f"i{n}" for n, image in enumerate(images) if set(image) & base and keeps[n]]
    assert index.base_list(fold, filter_novel=filtered) == expected
    for number in range(1, 5):
        expected = [
            f"i{n}"
            for n, image in enumerate(images)
            if image.get(number, 0) >= least and (number in novel or keeps[n])
        ]
        assert index.class_list(number, min_pixels=least, fold=fold, filter_novel=filtered) == expected


def test_cocos_size_is_quick(tmp_path: Path) -> None:
    """82,081 images with three classes each: all lists of a fold follow quickly."""
    rng = np.random.default_rng(0)
    count = 82_081
    ids = [f"COCO_train2014_{number:012d}" for number in rng.permutation(count)]
    index = PixelIndex(
        tuple(ids),
        np.repeat(np.arange(count, dtype=np.int32), 3),
        np.sort(rng.integers(1, 27, (count, 3)) + 27 * np.arange(3), axis=1).ravel().astype(np.int32),
        rng.integers(1, 60_000, 3 * count),
    )
    index.write(tmp_path / "index.csv")
    assert (tmp_path / "index.csv").stat().st_size < 12e6
    begin = time.process_time()
    again = PixelIndex.read(tmp_path / "index.csv")
    read = time.process_time()
    table = ClassTable.of(("background", *(f"c{n}" for n in range(1, 81))))
    fold = FoldTables(table, tuple(range(1, 80, 4)))
    assert len(again.base_list(fold)) > 0.9 * count
    lists = again.class_lists(range(1, 81), fold=fold, filter_novel=True)
    end = time.process_time()
    assert sum(map(len, lists.values())) > count
    assert again.ids == index.ids
    # Processor time, with room for slow machines.
    assert read - begin < 5
    assert end - read < 2
