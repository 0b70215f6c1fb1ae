"""Image sets: made from fabricated folders, drawn from, with what is wrong in real ones (larvseg.md 5.4)."""

from __future__ import annotations

import csv
import json
import logging
import pickle
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyshot.data import image_pack
from anyshot.data.classes import ClassTable
from anyshot.data.image_pack import shard_path
from anyshot.data.images import read_image, write_image
from anyshot.engine.sampling import Sampling, part_batches
from anyshot.errors import ArtifactError, ConfigError, DataError
from anyshot.job import Job
from anyshot.larvseg import image_sets
from anyshot.larvseg.image_set_options import Images, ImageSet
from anyshot.larvseg.image_sets import ImageSetSource
from anyshot.larvseg.options import ClassNames
from anyshot.larvseg.tables import data_classes

WNIDS = {"n02084071": 5, "n02121808": 2, "n04335435": 1}  # dog, domestic cat, streetcar


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight JPEGs of three wnids, with names of two of them."""
    root = tmp_path / "images"
    for wnid, count in WNIDS.items():
        for number in range(count):
            seed = int(wnid[1:]) + number
            pixels = np.random.default_rng(seed).integers(0, 256, (20 + number, 24, 3)).astype(np.uint8)
            write_image(root / wnid / f"{wnid}_{number}.JPEG", pixels)
    (root / "names.csv").write_text('wnid,name\nn02084071,dog\nn04335435,"streetcar, tram"\n')
    return root


def made(root: Path, folder: Path, repository: Path, **options: Any) -> Path:
    """The folder of an image set that the stage made."""
    script = runpy.run_path(str(repository / "workflow/scripts/larvseg/images.py"), run_name="stage")
    job: Job[Images] = Job.for_tests(
        "larvseg.images",
        Images(name="test", image_set=ImageSet(root=str(root), **options)),
        outputs={"classes": folder / "classes.csv", "images": folder / "images.json"},
    )
    script["main"](job)
    return folder


def corrupt(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.write_bytes(path.read_bytes()[:300])


def facts(folder: Path) -> Any:
    return json.loads((folder / "images.json").read_text())


def test_folder_and_pack_are_equal(root: Path, tmp_path: Path, repository: Path) -> None:
    plain = ImageSetSource(made(root, tmp_path / "plain", repository), power=0.5, seed=3)
    packed_folder = made(root, tmp_path / "packed", repository, pack=True, per_shard=3)
    packed = ImageSetSource(packed_folder, power=0.5, seed=3)
    assert len(list((packed_folder / "pack").glob("shard-*.h5"))) == 3
    assert not (tmp_path / "plain" / "pack").exists()
    assert len(plain) == len(packed) == 8
    for number, label in enumerate([0, 0, 0, 0, 0, 1, 1, 2]):
        assert plain.labels(number) == packed.labels(number) == (label,)
        expected = read_image(plain.index.path(number))
        np.testing.assert_array_equal(plain.image(number), expected)
        np.testing.assert_array_equal(packed.image(number), expected)
    for position in range(40):
        assert plain.draw(1, position) == packed.draw(1, position)
    for folder in (plain.folder, packed.folder):
        found = facts(folder)
        assert found["counts"] == WNIDS
        assert (found["images"], found["classes"], found["empty"], found["skipped"]) == (8, 3, [], [])


def test_packed_images_are_reduced(root: Path, tmp_path: Path, repository: Path) -> None:
    source = ImageSetSource(made(root, tmp_path / "set", repository, pack=True, short_side=16))
    assert source.image(7).shape == (16, 19, 3)  # of 20 x 24 px


def test_class_table_is_what_tables_read_ids_from(root: Path, tmp_path: Path, repository: Path) -> None:
    folder = made(root, tmp_path / "set", repository)
    table = ClassTable.read(folder / "classes.csv")
    assert table.ids == (0, 1, 2)
    assert table.names == ("dog (n02084071)", "n02121808", "streetcar, tram (n04335435)")
    found = data_classes(table, ClassNames(data="set", names="imagenet"), title="set")
    assert found.ids == (0, 1, 2)
    assert found.classes.names == ("dog", "n02121808", "streetcar, tram")
    assert found.classes.ids == tuple(WNIDS)


def test_names_of_timm(root: Path, tmp_path: Path, repository: Path) -> None:
    folder = made(root, tmp_path / "set", repository, names="timm")
    names = ClassTable.read(folder / "classes.csv").names
    assert names == ("dog (n02084071)", "domestic cat (n02121808)", "streetcar (n04335435)")


def test_names_that_do_not_fit(root: Path, tmp_path: Path, repository: Path) -> None:
    with pytest.raises(DataError, match=r"none.csv: the names cannot be read"):
        made(root, tmp_path / "set", repository, names=str(tmp_path / "none.csv"))
    other = tmp_path / "other.csv"
    with other.open("w", newline="") as file:
        csv.writer(file).writerows([["n00000001", "nothing"], ["n00000002", "something"]])
    with pytest.raises(DataError, match="2 names, but of none of the 3 wnids such as n02084071"):
        made(root, tmp_path / "set", repository, names=str(other))
    assert not (tmp_path / "set" / "images.json").exists()


def test_draws_follow_the_balance(root: Path, tmp_path: Path, repository: Path) -> None:
    """Shares of the classes 5, 2 and 1 of 8 by images, a third each by classes; 5 standard deviations."""
    folder = made(root, tmp_path / "set", repository)
    for power, shares in ((1.0, [5 / 8, 2 / 8, 1 / 8]), (0.0, [1 / 3, 1 / 3, 1 / 3])):
        source = ImageSetSource(folder, power=power, seed=1)
        labels = [source.labels(source.draw(0, position))[0] for position in range(2000)]
        found = np.bincount(labels, minlength=3) / 2000
        assert np.abs(found - shares).max() < 5 * np.sqrt(0.25 / 2000)
    images = {source.draw(0, position) for position in range(2000)}
    assert images == set(range(8))


def test_draws_are_functions_of_seed_epoch_and_position(root: Path, tmp_path: Path, repository: Path) -> None:
    folder = made(root, tmp_path / "set", repository)
    one, again = ImageSetSource(folder, seed=1), ImageSetSource(folder, seed=1)
    first = [one.draw(0, position) for position in range(60)]
    assert [again.draw(0, position) for position in reversed(range(60))] == first[::-1]
    for other in (
        [one.draw(1, position) for position in range(60)],
        [one.draw(0, position, attempt=1) for position in range(60)],
        [ImageSetSource(folder, seed=2).draw(0, position) for position in range(60)],
    ):
        assert other != first


def test_some_classes_only(root: Path, tmp_path: Path, repository: Path) -> None:
    folder = made(root, tmp_path / "set", repository)
    source = ImageSetSource(folder, classes=[1, 2])
    assert len(source) == 3
    assert {source.draw(0, position) for position in range(200)} == {5, 6, 7}
    assert source.counts.tolist() == [5, 2, 1]


def test_corrupt_image_in_a_folder_stops(root: Path, tmp_path: Path, repository: Path) -> None:
    corrupt(root, "n02121808/n02121808_0.JPEG")
    source = ImageSetSource(made(root, tmp_path / "set", repository), classes=[1], seed=1)
    positions = range(50)
    bad = next(position for position in positions if source.draw(0, position) == 5)
    good = next(position for position in positions if source.draw(0, position) == 6)
    assert source.read(0, good).number == 6
    with pytest.raises(DataError, match=r"n02121808_0.JPEG: the image cannot be read.*on_corrupt: skip"):
        source.read(0, bad)


def test_corrupt_image_in_a_folder_is_skipped(
    root: Path, tmp_path: Path, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other image is drawn instead, as often as needed; the same one by whoever asks."""
    corrupt(root, "n02121808/n02121808_0.JPEG")
    folder = made(root, tmp_path / "set", repository, on_corrupt="skip")
    source, again = (ImageSetSource(folder, classes=[1], seed=1) for _ in range(2))
    caplog.set_level(logging.WARNING, logger="anyshot")
    found = [source.read(0, position) for position in range(50)]
    assert {drawn.number for drawn in found} == {6}
    assert all(drawn.labels == (1,) for drawn in found)
    for position, drawn in enumerate(found):
        first = source.draw(0, position)
        assert bool(drawn.skipped) == (first == 5)
        assert set(drawn.skipped) <= {5}
        assert again.read(0, position).skipped == drawn.skipped
    assert sum(len(drawn.skipped) for drawn in found) > 10
    assert source.corrupt == {5}
    assert sum("n02121808_0.JPEG" in message for message in caplog.messages) == 2  # once for each source


def test_nothing_but_corrupt_images(root: Path, tmp_path: Path, repository: Path) -> None:
    folder = made(root, tmp_path / "set", repository, on_corrupt="skip")
    source = ImageSetSource(folder, classes=[2])
    corrupt(root, "n04335435/n04335435_0.JPEG")
    with pytest.raises(DataError, match="20 images drawn in a row cannot be read"):
        source.read(0, 0)


def test_corrupt_image_stops_the_packing_and_it_goes_on(root: Path, tmp_path: Path, repository: Path) -> None:
    """Finished shards are kept when corrupt images are allowed afterwards."""
    corrupt(root, "n02084071/n02084071_4.JPEG", "n02121808/n02121808_0.JPEG")
    folder, options = tmp_path / "set", {"pack": True, "per_shard": 3}
    with pytest.raises(DataError, match=r"n02084071_4.JPEG, n02121808/n02121808_0.JPEG cannot be read"):
        made(root, folder, repository, **options)
    assert [path.name for path in (folder / "pack").iterdir()] == ["shard-00000.h5"]
    with pytest.raises(ArtifactError, match=r"images.json: no image set"):
        ImageSetSource(folder)
    written = shard_path(folder / "pack", 0).stat().st_mtime_ns
    made(root, folder, repository, **options, on_corrupt="skip")
    assert shard_path(folder / "pack", 0).stat().st_mtime_ns == written
    found = facts(folder)
    assert found["skipped"] == ["n02084071/n02084071_4.JPEG", "n02121808/n02121808_0.JPEG"]
    assert (found["images"], found["counts"]["n02084071"], found["counts"]["n02121808"]) == (6, 4, 1)
    source = ImageSetSource(folder)
    assert len(source) == 6
    assert [source.labels(number)[0] for number in range(6)] == [0, 0, 0, 0, 1, 2]
    assert all(source.read(0, position).skipped == () for position in range(20))


def test_one_corrupt_jpeg_among_many(tmp_path: Path, repository: Path) -> None:
    """Several processes, several shards; it costs itself alone."""
    root = tmp_path / "images"
    write_image(root / "n00000001" / "0000.jpg", np.full((24, 24, 3), 99, dtype=np.uint8))
    content = (root / "n00000001" / "0000.jpg").read_bytes()
    for number in range(1, 400):
        (root / "n00000001" / f"{number:04}.jpg").write_bytes(content if number != 233 else content[:-200])
    options = ImageSet(root=str(root), pack=True, per_shard=100, on_corrupt="skip")
    seen: list[int] = []

    def progress(shards: Any, total: int) -> Any:
        assert total == 4
        for shard in shards:
            seen.append(shard)
            yield shard

    _, report = image_sets.build_image_set(options, tmp_path / "set", processes=2, progress=progress)
    assert sorted(seen) == [0, 1, 2, 3]
    assert (report["images"], report["skipped"]) == (399, ["n00000001/0233.jpg"])
    with pytest.raises(DataError, match=r"n00000001/0233.jpg cannot be read"):
        image_sets.build_image_set(
            options.model_copy(update={"on_corrupt": "stop"}), tmp_path / "set", processes=2
        )


def test_folder_that_is_no_wnid(
    root: Path, tmp_path: Path, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(root / "cats" / "0.jpg", np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="cats is no class folder"):
        made(root, tmp_path / "set", repository)
    assert not (tmp_path / "set" / "images.json").exists()
    caplog.set_level(logging.WARNING, logger="anyshot")
    folder = made(root, tmp_path / "set", repository, not_a_wnid="skip")
    assert facts(folder)["no_wnids"] == ["cats"]
    assert len(ImageSetSource(folder)) == 8
    assert "1 folders that are no wnid, left out: cats" in caplog.messages


def test_class_without_an_image(
    root: Path, tmp_path: Path, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "n03000000").mkdir()
    caplog.set_level(logging.WARNING, logger="anyshot")
    folder = made(root, tmp_path / "set", repository)
    assert facts(folder)["empty"] == ["n03000000"]
    assert "1 classes without an image, never drawn: n03000000" in caplog.messages
    assert ClassTable.read(folder / "classes.csv").names[2] == "n03000000"
    source = ImageSetSource(folder, power=0.0)
    assert source.counts.tolist() == [5, 2, 0, 1]
    assert {source.labels(source.draw(0, position))[0] for position in range(100)} == {0, 1, 3}
    with pytest.raises(ConfigError, match="no class that may be drawn has an image"):
        ImageSetSource(folder, classes=[2])


def test_no_image_at_all(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "images" / "n00000001").mkdir(parents=True)
    with pytest.raises(DataError, match="no image that can be read in 1 folders"):
        made(tmp_path / "images", tmp_path / "set", repository)


def test_shards_of_other_options(root: Path, tmp_path: Path, repository: Path) -> None:
    folder = made(root, tmp_path / "set", repository, pack=True)
    with pytest.raises(ArtifactError, match="short_side is 448, now 32"):
        made(root, folder, repository, pack=True, short_side=32)


def test_what_a_killed_run_left_is_removed(root: Path, tmp_path: Path, repository: Path) -> None:
    left = tmp_path / "set" / "pack" / ".shard-00000.h5.1.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    made(root, tmp_path / "set", repository, pack=True)
    assert not left.exists()


def test_index_of_another_run(root: Path, tmp_path: Path, repository: Path) -> None:
    folder = made(root, tmp_path / "set", repository)
    content = facts(folder)
    (folder / "images.json").write_text(json.dumps({**content, "images": 9}))
    with pytest.raises(ArtifactError, match=r"8 images in the index, 9 in images.json"):
        ImageSetSource(folder)
    (folder / "images.json").write_text(json.dumps({**content, "format": "other"}))
    with pytest.raises(ArtifactError, match="format 'other'"):
        ImageSetSource(folder)


class Items:
    """A training set of the draws of an epoch."""

    def __init__(self, source: ImageSetSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def item_of(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, Any]:
        drawn = self.source.read(epoch, index)
        return {
            "number": drawn.number,
            "label": drawn.labels[0],
            "sum": int(drawn.pixels.sum()),
            "skipped": len(drawn.skipped),
        }


@pytest.mark.parametrize("pack", [False, True])
def test_pickled_and_in_workers(
    root: Path, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, pack: bool
) -> None:
    """Files are open in the parent when it forks; there are more shards than may be open at a time."""
    monkeypatch.setattr(image_pack, "OPEN_SHARDS", 2)
    corrupt(root, "n02084071/n02084071_3.JPEG")
    folder = made(root, tmp_path / "set", repository, pack=pack, per_shard=2, on_corrupt="skip")
    source = ImageSetSource(folder, power=0.5, seed=7)
    sampling = Sampling(seed=0, length=len(source), batch_size=2)

    def numbers(source: ImageSetSource, workers: int) -> list[dict[str, list[int]]]:
        batches = part_batches(Items(source), sampling, first=0, total=12, workers=workers)
        return [{name: values.tolist() for name, values in batch.items()} for batch in batches]

    expected = numbers(source, 0)
    skipped = sum(sum(batch["skipped"]) for batch in expected)
    assert (skipped > 0) is not pack
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 1000
    assert numbers(source, 2) == numbers(copy, 0) == numbers(copy, 2) == expected
