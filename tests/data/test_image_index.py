"""The memory-mapped index of image-labelled files and its class-balanced draws (larvseg.md 5.4)."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from anyshot.data import image_index
from anyshot.data.image_draws import BalancedDraws
from anyshot.data.image_index import ImageIndex, IndexWriter, index_csv, index_folder
from anyshot.errors import ArtifactError, ConfigError, DataError

CLASSES = {"n00000003": 2, "n00000001": 3, "n00000002": 1}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three wnids with 3, 1 and 2 empty files that are named like images, and some that are not."""
    root = tmp_path / "images"
    for wnid, count in CLASSES.items():
        (root / wnid).mkdir(parents=True)
        for number in range(count):
            (root / wnid / f"{wnid}_{9 - number}.JPEG").touch()
        (root / wnid / "notes.txt").touch()
        (root / wnid / ".hidden.jpg").touch()
        (root / wnid / "folder.jpg").mkdir()
    (root / ".cache").mkdir()
    (root / "readme.md").touch()
    return root


def csv_file(folder: Path, *rows: str) -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join(("class,path", *rows)) + "\n")
    return path


def test_folder(root: Path, tmp_path: Path) -> None:
    index = index_folder(root, tmp_path / "index")
    assert len(index) == 6
    assert index.classes == ("n00000001", "n00000002", "n00000003")
    assert index.counts.tolist() == [3, 1, 2]
    assert index.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert index.by_class.tolist() == list(range(6))
    assert index.path(0) == root / "n00000001" / "n00000001_7.JPEG"
    assert [index.relative_path(image) for image in index.images_of(2)] == [
        "n00000003/n00000003_8.JPEG",
        "n00000003/n00000003_9.JPEG",
    ]
    assert all(index.path(image).is_file() for image in range(6))
    with pytest.raises(IndexError, match="image 6 of 6"):
        index.path(6)
    with pytest.raises(IndexError, match="image -1 of 6"):
        index.path(-1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "index"]


def test_names_of_any_bytes(tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "n00000001").mkdir(parents=True)
    names = ["a b, c.jpg", "grün.JPG", 'quote".png']
    for name in names:
        (root / "n00000001" / name).touch()
    index = index_folder(root, tmp_path / "index")
    assert [index.path(image).name for image in range(3)] == sorted(names)


def test_folder_that_is_no_wnid(root: Path, tmp_path: Path) -> None:
    (root / "n123").mkdir()
    (root / "cats").mkdir()
    with pytest.raises(DataError, match=r"cats, n123 are no class folder: the name must match n\\d\{8\}"):
        index_folder(root, tmp_path / "index")
    assert not (tmp_path / "index").exists()
    index = index_folder(root, tmp_path / "index", on_stranger="skip")
    assert len(index) == 6
    index = index_folder(root, tmp_path / "index", key_pattern=r"n\d+|cats", on_empty="keep")
    assert index.classes[0] == "cats"
    assert index.empty_classes == ["cats", "n123"]


def test_folder_of_another_class(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"n00000002 is no class folder.*be in the list"):
        index_folder(root, tmp_path / "index", classes=["n00000003", "n00000001"])
    index = index_folder(root, tmp_path / "index", classes=["n00000003", "n00000001"], on_stranger="skip")
    assert index.classes == ("n00000003", "n00000001")
    assert index.labels.tolist() == [0, 0, 1, 1, 1]


def test_class_without_an_image(root: Path, tmp_path: Path) -> None:
    """As an empty folder and as a missing one; they are named, or kept and never drawn."""
    (root / "n00000009").mkdir()
    wanted = [*sorted(CLASSES), "n00000009", "n00000010"]
    with pytest.raises(DataError, match="no image of n00000009, n00000010; add some"):
        index_folder(root, tmp_path / "index", classes=wanted)
    assert not (tmp_path / "index").exists()
    index = index_folder(root, tmp_path / "index", classes=wanted, on_empty="keep")
    assert index.empty_classes == ["n00000009", "n00000010"]
    assert index.counts.tolist() == [3, 1, 2, 0, 0]
    assert len(index.images_of(3)) == 0
    classes, _ = BalancedDraws(index.counts, power=0, seed=0).draw(epoch=0, position=0, count=500)
    assert set(classes.tolist()) == {0, 1, 2}
    with pytest.raises(ConfigError, match="no class that may be drawn"):
        BalancedDraws(index.counts, power=0, seed=0, classes=[3, 4])


def test_missing_root_and_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        index_folder(tmp_path / "images", tmp_path / "index")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        index_folder(tmp_path / "images", tmp_path / "index")


@pytest.mark.parametrize("buffer", [1, 2, 2**16])
def test_csv_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int) -> None:
    monkeypatch.setattr(image_index, "SMALL_BUFFER", buffer)
    monkeypatch.setattr(image_index, "BUFFERED", buffer)
    path = csv_file(tmp_path, "n00000007,b/1.jpg", "n00000002,2.jpg", "n00000007,3.jpg", "n00000002,4.jpg")
    index = index_csv(path, tmp_path / "index", root=tmp_path)
    assert index.classes == ("n00000007", "n00000002")
    assert index.labels.tolist() == [0, 1, 0, 1]
    assert index.by_class.tolist() == [0, 2, 1, 3]
    assert index.class_ends.tolist() == [2, 4]
    assert [index.relative_path(image) for image in range(4)] == ["b/1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    listed = index_csv(path, tmp_path / "index", root=tmp_path, classes=["n00000002", "n00000007"])
    assert listed.labels.tolist() == [1, 0, 1, 0]


def test_wrong_csv(tmp_path: Path) -> None:
    good = "n00000001,a.jpg"
    with pytest.raises(DataError, match=r"list.csv, line 3: class 'cat' must match"):
        index_csv(csv_file(tmp_path, good, "cat,b.jpg"), tmp_path / "index", root=tmp_path)
    with pytest.raises(DataError, match=r"line 3: class 'n00000002' must be one of the 1 classes"):
        index_csv(csv_file(tmp_path, good, "n00000002,b.jpg"), tmp_path / "index", root=tmp_path,
                  classes=["n00000001"])  # fmt: skip
    with pytest.raises(DataError, match=r"line 2: .* lacks a path or a class"):
        index_csv(csv_file(tmp_path, "n00000001"), tmp_path / "index", root=tmp_path)
    with pytest.raises(DataError, match="no image of n00000003"):
        index_csv(csv_file(tmp_path, good), tmp_path / "index", root=tmp_path,
                  classes=["n00000001", "n00000003"])  # fmt: skip
    with pytest.raises(DataError, match="no image of any class"):
        index_csv(csv_file(tmp_path), tmp_path / "index", root=tmp_path)
    (tmp_path / "list.csv").write_text("file,label\na,b\n")
    with pytest.raises(DataError, match="columns file,label; path and class are needed"):
        index_csv(tmp_path / "list.csv", tmp_path / "index", root=tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        index_csv(tmp_path / "none.csv", tmp_path / "index", root=tmp_path)
    assert not (tmp_path / "index").exists()
    index = index_csv(csv_file(tmp_path, good, "cat,b.jpg"), tmp_path / "index", root=tmp_path,
                      on_stranger="skip")  # fmt: skip
    assert len(index) == 1


def test_grouping_equals_a_stable_sort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_index, "BUFFERED", 37)
    labels = np.random.default_rng(0).integers(0, 12, 500)
    with IndexWriter(tmp_path / "index", root=tmp_path, classes=[f"c{i}" for i in range(13)]) as writer:
        for number, label in enumerate(labels):
            writer.add(b"%d.jpg" % number, int(label))
    index = ImageIndex(tmp_path / "index")
    np.testing.assert_array_equal(index.by_class, np.argsort(labels, kind="stable"))
    np.testing.assert_array_equal(index.counts, np.bincount(labels, minlength=13))
    assert index.relative_path(499) == "499.jpg"


def test_an_error_leaves_the_earlier_index(root: Path, tmp_path: Path) -> None:
    index_folder(root, tmp_path / "index")

    def broken() -> None:
        with IndexWriter(tmp_path / "index", root=root, classes=["a"]) as writer:
            writer.add(b"a.jpg", 0)
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert len(ImageIndex(tmp_path / "index")) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "index"]


def test_damaged_index(root: Path, tmp_path: Path) -> None:
    index_folder(root, tmp_path / "index")
    with (tmp_path / "index" / "paths.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=r"paths.bin: 157 bytes, expected 156"):
        ImageIndex(tmp_path / "index")
    (tmp_path / "index" / "index.json").write_text("{}")
    with pytest.raises(ArtifactError, match="format None"):
        ImageIndex(tmp_path / "index")
    with pytest.raises(ArtifactError, match="no image index"):
        ImageIndex(tmp_path)


def _third_path(index: ImageIndex) -> str:
    return index.relative_path(3)


def test_pickle_is_small_and_works_in_another_process(root: Path, tmp_path: Path) -> None:
    index = index_folder(root, tmp_path / "index")
    before = len(pickle.dumps(index))
    assert index.relative_path(3) == "n00000002/n00000002_9.JPEG"
    assert index.labels[3] == 1
    assert len(pickle.dumps(index)) == before
    for method in ("fork", "spawn"):
        # not a Pool, which ends its processes by a SIGTERM that a fork may handle
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            assert pool.submit(_third_path, index).result() == "n00000002/n00000002_9.JPEG"


COUNTS = np.array([1, 10, 100, 0, 1000])


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_class_balance(power: float) -> None:
    """Chi-square over classes, and over the images of the second class."""
    draws = BalancedDraws(COUNTS, power=power, seed=3)
    classes, nth = draws.draw(epoch=2, position=10, count=40_000)
    weights = np.array([1, 10**power, 100**power, 0, 1000**power])
    np.testing.assert_allclose(draws.probabilities, weights / weights.sum())
    found = np.bincount(classes, minlength=5)
    assert found[3] == 0
    drawn = found[[0, 1, 2, 4]]
    assert chisquare(drawn, draws.probabilities[[0, 1, 2, 4]] * 40_000).pvalue > 0.001
    assert (nth < COUNTS[classes]).all()
    assert (nth >= 0).all()
    members = np.bincount(nth[classes == 2], minlength=100)
    assert chisquare(members).pvalue > 0.001


def test_draws_are_pure_and_resume_anywhere() -> None:
    draws = BalancedDraws(COUNTS, power=0.5, seed=1)
    classes, nth = draws.draw(epoch=0, position=0, count=50)
    later = BalancedDraws(COUNTS, power=0.5, seed=1).draw(epoch=0, position=20, count=30)
    np.testing.assert_array_equal(later, (classes[20:], nth[20:]))
    single = [draws.draw(epoch=0, position=p, count=1)[1][0] for p in range(50)]
    np.testing.assert_array_equal(single, nth)
    for other in (
        draws.draw(epoch=1, position=0, count=50),
        BalancedDraws(COUNTS, power=0.5, seed=2).draw(epoch=0, position=0, count=50),
    ):
        assert not np.array_equal(other[1], nth)


def test_drawn_images_are_of_the_drawn_class(tmp_path: Path) -> None:
    rows = [f"n0000000{number % 3},{number}.jpg" for number in range(20)]
    index = index_csv(csv_file(tmp_path, *rows), tmp_path / "index", root=tmp_path)
    draws = BalancedDraws(index.counts, power=0, seed=0, classes=[0, 2])
    images = draws.images(index, epoch=0, position=5, count=400)
    classes, nth = draws.draw(epoch=0, position=5, count=400)
    np.testing.assert_array_equal(index.labels[images], classes)
    assert set(images.tolist()) == {number for number in range(20) if number % 3 != 1}
    assert images[0] == index.images_of(int(classes[0]))[nth[0]]


def test_power_outside_its_range() -> None:
    with pytest.raises(ConfigError, match=r"power 1.5; 0 .* to 1"):
        BalancedDraws(COUNTS, power=1.5, seed=0)
