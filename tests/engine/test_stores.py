import multiprocessing
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from anyshot.engine.stores import ScoreMap, Store, StoreWriter, store_fingerprint
from anyshot.errors import ArtifactError

RNG = np.random.default_rng(0)


def write(path: Path, ids: list[str], *, size: int = 8, fingerprint: str = "f") -> dict[str, np.ndarray]:
    """A store of random scores, two classes per image."""
    maps = {}
    with StoreWriter(path, attributes={"stage": "test", "fingerprint": fingerprint}) as writer:
        for id in ids:
            maps[id] = RNG.random((2, size, size), dtype=np.float32)
            writer.add(id, [3, 65535], maps[id], height=size, width=size)
    return maps


def test_round_trip_keeps_values_types_and_order(tmp_path: Path) -> None:
    scores = RNG.random((3, 40, 50)).astype(np.float16)
    with StoreWriter(tmp_path / "a.h5", attributes={"stage": "retab.cam"}) as writer:
        writer.add("z/frankfurt.1", [0, 7, 300], scores, height=317, width=400, stride=8)
        writer.add("a", [], np.zeros((0, 5, 5)), height=40, width=40, extra={"cls": np.arange(3)})
    store = Store(tmp_path / "a.h5")
    assert store.ids == ["z/frankfurt.1", "a"]
    assert len(store) == 2
    assert "a" in store
    assert "b" not in store
    found = store["z/frankfurt.1"]
    assert isinstance(found, ScoreMap)
    assert found.classes.dtype == np.uint16
    assert found.classes.tolist() == [0, 7, 300]
    assert found.scores.dtype == np.float16
    np.testing.assert_array_equal(found.scores, scores)
    assert (found.height, found.width, found.stride) == (317, 400, 8)
    assert store["a"].scores.shape == (0, 5, 5)
    assert store.extra("a", "cls").tolist() == [0, 1, 2]
    assert store.attributes["stage"] == "retab.cam"


def test_window_reads_the_cells_asked_for(tmp_path: Path) -> None:
    maps = write(tmp_path / "a.h5", ["i"], size=60)
    window = Store([tmp_path / "a.h5"]).read("i", window=(10, 20, 5, 60))
    np.testing.assert_array_equal(window.scores, maps["i"][:, 10:20, 5:60])
    assert (window.height, window.width) == (60, 60)


def test_dtype_and_overflow(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "a.h5", attributes={}) as writer:
        writer.add("half", [1], np.ones((1, 4, 4), np.float32), height=4, width=4, dtype=np.float16)
        writer.add("double", [1], np.ones((1, 4, 4), np.float64), height=4, width=4)
        with pytest.raises(ValueError, match="infinite values as float16"):
            writer.add("big", [1], np.full((1, 4, 4), 1e6), height=4, width=4, dtype="float16")
    store = Store(tmp_path / "a.h5")
    assert store["half"].scores.dtype == np.float16
    assert store["double"].scores.dtype == np.float32


def test_shards_read_as_one(tmp_path: Path) -> None:
    first = write(tmp_path / "1of2.h5", ["a", "c"])
    second = write(tmp_path / "2of2.h5", ["b"])
    store = Store([tmp_path / "1of2.h5", tmp_path / "2of2.h5"])
    assert store.ids == ["a", "c", "b"]
    for id, scores in {**first, **second}.items():
        np.testing.assert_array_equal(store[id].scores, scores)
    with pytest.raises(ArtifactError, match="'x' is not among the 3 images"):
        store["x"]


def test_id_in_two_shards(tmp_path: Path) -> None:
    write(tmp_path / "1.h5", ["a"])
    write(tmp_path / "2.h5", ["a"])
    with pytest.raises(ArtifactError, match="do not belong together"):
        len(Store([tmp_path / "1.h5", tmp_path / "2.h5"]))


def test_id_added_twice(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="added twice"):
        write(tmp_path / "a.h5", ["a", "a"])
    assert list(tmp_path.iterdir()) == []


def test_wrong_shapes(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="expected \\(k,\\) and \\(k, h, w\\)"),
        StoreWriter(tmp_path / "a.h5", attributes={}) as writer,
    ):
        writer.add("a", [1, 2], np.zeros((3, 4, 4)), height=4, width=4)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_cut_file_is_never_read_as_good(tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "a.h5"
    write(path, [f"i{n}" for n in range(30)], size=64)
    os.truncate(path, int(path.stat().st_size * fraction))
    with pytest.raises(ArtifactError, match="cut off or damaged"):
        [Store(path)[id] for id in Store(path).ids]
    with pytest.raises(ArtifactError, match="cut off or damaged"):
        store_fingerprint(path)


def test_changed_byte_of_scores_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    maps = write(path, ["a"], size=64)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    try:
        scores = Store(path)["a"].scores
    except ArtifactError:
        return
    np.testing.assert_array_equal(scores, maps["a"])  # the byte was unused


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    import h5py

    with pytest.raises(ArtifactError, match="does not exist"):
        Store(tmp_path / "none.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(ArtifactError, match="format"):
        len(Store(tmp_path / "other.h5"))


def test_error_in_the_block_leaves_the_earlier_store(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    maps = write(path, ["a"])

    def fail() -> None:
        with StoreWriter(path, attributes={}) as writer:
            writer.add("b", [1], np.zeros((1, 2, 2)), height=2, width=2)
            raise FileNotFoundError("an image")

    with pytest.raises(FileNotFoundError, match="an image"):
        fail()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]
    np.testing.assert_array_equal(Store(path)["a"].scores, maps["a"])


def test_leftover_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    import socket

    dead = subprocess.Popen(["true"])
    dead.wait()
    leftover = tmp_path / f".a.h5.{socket.gethostname()}-{dead.pid}.tmp"
    leftover.write_bytes(b"half")
    write(tmp_path / "a.h5", ["a"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.h5"]


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def test_full_disk(small_disk: Path) -> None:
    path = small_disk / "a.h5"
    maps = write(path, ["a"], size=64)
    with pytest.raises(ArtifactError, match=r"cannot write .*a\.h5: No space left.*MiB free"):
        write(path, [f"i{n}" for n in range(200)], size=64)
    assert [entry.name for entry in small_disk.iterdir()] == ["a.h5"]
    np.testing.assert_array_equal(Store(path)["a"].scores, maps["a"])


def test_disk_that_fills_up_at_the_end(small_disk: Path) -> None:
    """What HDF5 holds back until it closes the file must not be lost silently."""
    path = small_disk / "a.h5"

    def fill() -> None:
        with StoreWriter(path, attributes={"stage": "s"}) as writer:
            for number in range(50):
                writer.add(f"i{number}", [1], RNG.random((1, 8, 8)), height=8, width=8)
            (small_disk / "filler").write_bytes(b"x" * free_bytes(small_disk))

    with pytest.raises(ArtifactError, match="No space left"):
        fill()
    assert not path.exists()


def _sum_in_child(store: Store, ids: list[str], queue: "multiprocessing.Queue[dict[str, float]]") -> None:
    queue.put({id: float(store[id].scores.sum()) for id in ids})


def test_store_survives_fork_and_pickling(tmp_path: Path) -> None:
    ids = [f"i{n}" for n in range(40)]
    maps = write(tmp_path / "a.h5", ids, size=64)
    store = Store(tmp_path / "a.h5")
    store[ids[0]]  # open in the parent
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [
        context.Process(target=_sum_in_child, args=(store, ids[k:] + ids[:k], queue)) for k in (0, 7, 23)
    ]
    for child in children:
        child.start()
    for id in ids:  # read in the parent at the same time
        np.testing.assert_array_equal(store[id].scores, maps[id])
    for _ in children:
        assert queue.get(timeout=600) == {id: float(maps[id].sum()) for id in ids}
    for child in children:
        child.join()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store))["i3"].scores, maps["i3"])


def test_fingerprint_attribute(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", ["a"], fingerprint="abc")
    assert store_fingerprint(tmp_path / "a.h5") == "abc"


def test_many_attributes_fit(tmp_path: Path) -> None:
    """The hashes of very many shards are longer than the 64 KiB of old HDF5 attributes."""
    with StoreWriter(tmp_path / "a.h5", attributes={"input_hashes": "x" * 200_000}):
        pass
    assert len(Store(tmp_path / "a.h5").attributes["input_hashes"]) == 200_000
