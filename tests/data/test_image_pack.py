"""Packing image files into HDF5 shards and reading them back (larvseg.md 5.4)."""

from __future__ import annotations

import io
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.data import image_pack
from anyshot.data.image_index import ImageIndex, index_folder
from anyshot.data.image_pack import ImagePack, PackOptions, as_jpeg, pack_images, pack_shard, shard_path
from anyshot.data.images import read_image, write_image
from anyshot.errors import ArtifactError, ConfigError, DataError

from .layouts import picture

OPTIONS = PackOptions(short_side=32, per_shard=3)
SKIPPING = PackOptions(short_side=32, per_shard=3, on_corrupt="skip")


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG and filters keep: a ramp per channel."""
    rows, columns = np.mgrid[0:height, 0:width]
    ramps = (rows * 255 / height, columns * 255 / width, (rows + columns) * 255 / (height + width))
    return np.stack(ramps, axis=2).astype(np.uint8)


@pytest.fixture
def index(tmp_path: Path) -> ImageIndex:
    """Seven images of two wnids: JPEGs of 24 x 32 px, one large, one PNG with alpha, one turned by EXIF."""
    root = tmp_path / "images"
    for number in range(4):
        write_image(root / "n00000001" / f"{number}.jpg", picture(seed=number))
    write_image(root / "n00000002" / "large.jpg", smooth(80, 120))
    Image.fromarray(smooth(20, 30)).convert("RGBA").save(root / "n00000002" / "png.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth(20, 30)).save(root / "n00000002" / "turned.jpg", exif=exif, quality=95)
    return index_folder(root, tmp_path / "index")


def corrupt(index: ImageIndex, *images: int) -> None:
    for image in images:
        path = index.path(image)
        path.write_bytes(path.read_bytes()[:200])


def test_round_trip(index: ImageIndex, tmp_path: Path) -> None:
    packed = pack_images(index, tmp_path / "pack", OPTIONS)
    assert (packed.images, packed.skipped) == (7, [])
    assert [path.name for path in sorted((tmp_path / "pack").glob("*.h5"))] == [
        "shard-00000.h5", "shard-00001.h5", "shard-00002.h5"
    ]  # fmt: skip
    pack = ImagePack(tmp_path / "pack")
    assert len(pack) == 7
    assert pack.index.classes == index.classes
    for image in range(7):
        assert pack.label(image) == index.class_of(image)
        assert pack.index.relative_path(image) == index.relative_path(image)
    for image in range(4):  # small upright JPEGs are stored as they are
        assert pack.jpeg(image) == index.path(image).read_bytes()
        np.testing.assert_array_equal(pack.image(image), read_image(index.path(image)))
    assert pack.image(4).shape == (32, 48, 3)
    assert np.abs(pack.image(4).astype(int) - smooth(32, 48)).max() < 12
    assert np.abs(pack.image(5).astype(int) - smooth(20, 30)).max() < 12
    assert pack.image(6).shape == (30, 20, 3)
    assert np.abs(pack.image(6).astype(int) - read_image(index.path(6))).max() < 12
    assert Image.open(io.BytesIO(pack.jpeg(5))).format == "JPEG"
    with pytest.raises(IndexError, match="image 7 of 7"):
        pack.image(7)


def test_corrupt_image_is_an_error_that_names_it(index: ImageIndex, tmp_path: Path) -> None:
    corrupt(index, 4)
    with pytest.raises(DataError, match=r"large.jpg: the image cannot be read"):
        pack_images(index, tmp_path / "pack", OPTIONS)
    assert [path.name for path in (tmp_path / "pack").iterdir()] == ["shard-00000.h5"]
    with pytest.raises(ArtifactError, match="no image index"):
        ImagePack(tmp_path / "pack")


def test_corrupt_images_are_skipped_and_counted(index: ImageIndex, tmp_path: Path) -> None:
    """In the middle of a shard, a whole shard, and a missing file; the numbers close up."""
    corrupt(index, 1, 3, 4)
    index.path(5).unlink()
    packed = pack_images(index, tmp_path / "pack", SKIPPING)
    assert packed.images == 3
    assert packed.skipped == [
        "n00000001/1.jpg",
        "n00000001/3.jpg",
        "n00000002/large.jpg",
        "n00000002/png.png",
    ]
    pack = ImagePack(tmp_path / "pack")
    assert [pack.index.relative_path(image) for image in range(3)] == [
        "n00000001/0.jpg", "n00000001/2.jpg", "n00000002/turned.jpg"
    ]  # fmt: skip
    assert [pack.label(image) for image in range(3)] == [0, 0, 1]
    assert pack.jpeg(1) == index.path(2).read_bytes()
    assert pack.image(2).shape == (30, 20, 3)


def test_one_corrupt_jpeg_among_many(tmp_path: Path) -> None:
    """More images than a batch of writes; the broken one costs itself alone."""
    root = tmp_path / "images"
    write_image(root / "n00000001" / "0000.jpg", picture())
    content = (root / "n00000001" / "0000.jpg").read_bytes()
    for number in range(1, 600):
        (root / "n00000001" / f"{number:04}.jpg").write_bytes(content if number != 333 else content[:-900])
    index = index_folder(root, tmp_path / "index")
    packed = pack_images(index, tmp_path / "pack", PackOptions(on_corrupt="skip"))
    assert (packed.images, packed.skipped) == (599, ["n00000001/0333.jpg"])
    pack = ImagePack(tmp_path / "pack")
    assert all(pack.jpeg(image) == content for image in (0, 255, 256, 332, 333, 598))


def test_finished_shards_are_kept(index: ImageIndex, tmp_path: Path) -> None:
    pack_shard(index, tmp_path / "pack", 1, OPTIONS)
    written = shard_path(tmp_path / "pack", 1).stat().st_mtime_ns
    pack_images(index, tmp_path / "pack", OPTIONS)
    assert shard_path(tmp_path / "pack", 1).stat().st_mtime_ns == written
    assert len(ImagePack(tmp_path / "pack")) == 7
    with pytest.raises(ArtifactError, match="short_side is 32, now 48"):
        pack_images(index, tmp_path / "pack", PackOptions(short_side=48, per_shard=3))


def test_same_bytes_every_time(index: ImageIndex, tmp_path: Path) -> None:
    for name in ("one", "two"):
        pack_images(index, tmp_path / name, OPTIONS)
    for number in range(3):
        one, two = (shard_path(tmp_path / name, number).read_bytes() for name in ("one", "two"))
        assert one == two


def test_missing_and_damaged_shards(index: ImageIndex, tmp_path: Path) -> None:
    pack_images(index, tmp_path / "pack", OPTIONS)
    last = shard_path(tmp_path / "pack", 2)
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=r"shard-00002.h5 is missing or damaged"):
        ImagePack(tmp_path / "pack")
    last.unlink()
    with pytest.raises(ArtifactError, match="6 images in 2 shards, but 7 in its index"):
        ImagePack(tmp_path / "pack")
    with pytest.raises(ArtifactError, match=r"shard-00002.h5 is missing"):
        image_pack.finish_pack(index, tmp_path / "pack", OPTIONS)


def test_a_changed_byte_of_an_image_is_seen(index: ImageIndex, tmp_path: Path) -> None:
    pack_images(index, tmp_path / "pack", OPTIONS)
    shard = shard_path(tmp_path / "pack", 1)
    content, jpeg = bytearray(shard.read_bytes()), ImagePack(tmp_path / "pack").jpeg(4)
    content[content.index(jpeg) + len(jpeg) // 2] ^= 1
    shard.write_bytes(content)
    pack = ImagePack(tmp_path / "pack")
    with pytest.raises(ArtifactError, match=r"shard-00001.h5 is missing or damaged \(image 1 has another"):
        pack.jpeg(4)
    assert pack.jpeg(3) == index.path(3).read_bytes()


def test_full_disk_is_named_before_hdf5_meets_it(
    index: ImageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_pack, "SPARE", 2**62)
    with pytest.raises(ArtifactError, match=r"cannot write .*shard-00000.h5: .* MiB free"):
        pack_images(index, tmp_path / "pack", OPTIONS)
    assert list((tmp_path / "pack").iterdir()) == []


def _pixels(pack: ImagePack, image: int) -> np.ndarray:
    return pack.image(image)


def test_works_after_fork_and_pickle(
    index: ImageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With shards open in the parent, and with fewer open at a time than there are."""
    monkeypatch.setattr(image_pack, "OPEN_SHARDS", 2)
    pack_images(index, tmp_path / "pack", OPTIONS)
    pack = ImagePack(tmp_path / "pack")
    expected = [pack.image(image) for image in range(7)]
    assert len(pickle.dumps(pack)) < 2000
    for method in ("fork", "spawn"):
        # not a Pool, which ends its processes by a SIGTERM that a fork may handle
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
            found = list(pool.map(_pixels, [pack] * 4, (6, 0, 3, 1)))
        for image, pixels in zip((6, 0, 3, 1), found, strict=True):
            np.testing.assert_array_equal(pixels, expected[image])


def test_options_out_of_range() -> None:
    with pytest.raises(ConfigError, match="JPEG quality 80; 90 to 100"):
        PackOptions(quality=80)
    with pytest.raises(ConfigError, match="per_shard 0"):
        PackOptions(per_shard=0)


def test_short_side_is_rounded_not_stretched(tmp_path: Path) -> None:
    write_image(tmp_path / "wide.png", smooth(100, 301))
    content = as_jpeg(tmp_path / "wide.png", short_side=50, quality=95)
    assert Image.open(io.BytesIO(content)).size == (150, 50)
