"""Millions of small image files in a few HDF5 shards, as JPEG, and their reader.

A pack is a folder with `shard-00000.h5`, `shard-00001.h5`, ... and, once it is complete, an image index of
what it holds (`index/`). A shard has the dataset `jpeg` (uint8), the files of all its images one behind the
other, and with a row per image `end` (int64, where it ends), `crc32` (uint32), `label` (int32) and `path`
(bytes), also `skipped` (paths of corrupt files). Nothing lies in a heap of HDF5, which has no checksums and
where a changed byte can be searched for ever. Shard s is made of images s * per_shard ... of the source's
index, so shards can be packed by different jobs and finished ones stay (larvseg.md 5.4). No torch here.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image

from anyshot.data.hdf5_text import as_text, write_text
from anyshot.data.image_index import ImageIndex, IndexWriter
from anyshot.data.images import BROKEN, EXIF_ORIENTATION, read_image
from anyshot.errors import ArtifactError, ConfigError, DataError

FORMAT: Final = "anyshot image pack 2"
OPEN_SHARDS: Final = 128
BATCH: Final = 256  # images that are written at a time
CHUNK: Final = 4 * 2**20  # bytes at most; too large for HDF5's cache, so images are read without neighbours
SPARE: Final = 64 * 2**20  # bytes that stay free: HDF5 does not survive a full disk


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """short_side: px, larger images are reduced to it (448 = 320 px crops at scale 1.4); quality: of JPEG,
    90 to 100; per_shard: images of the source per file; on_corrupt: `error`, or `skip` and count."""

    short_side: int = 448
    quality: int = 92
    per_shard: int = 10_000
    on_corrupt: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        if not 90 <= self.quality <= 100:
            raise ConfigError(
                f"JPEG quality {self.quality}; 90 to 100 is allowed, lower ones show in training"
            )
        if self.short_side < 1 or self.per_shard < 1:
            raise ConfigError(
                f"short_side {self.short_side} px, per_shard {self.per_shard}: both must be 1 or more"
            )


@dataclass(frozen=True)
class Packed:
    """images: how many the pack holds; skipped: relative paths of the corrupt files that it does not."""

    images: int
    skipped: list[str]


def shard_count(images: int, options: PackOptions) -> int:
    """Shards of a pack of so many source images."""
    return -(-images // options.per_shard)


def pack_images(index: ImageIndex, folder: Path, options: PackOptions) -> Packed:
    """Pack all images of `index` into `folder`; shards that are there already are kept.

    Raises DataError for a corrupt image where these are errors, ArtifactError when the folder holds shards of
    other images or options or the disk is full.
    """
    for number in range(shard_count(len(index), options)):
        pack_shard(index, folder, number, options)
    return finish_pack(index, folder, options)


def pack_shard(index: ImageIndex, folder: Path, number: int, options: PackOptions) -> Path:
    """Write shard `number`, unless it is there. Raises as `pack_images` does."""
    path = shard_path(folder, number)
    facts = _facts(index, number, options)
    if path.exists():
        _check_facts(path, facts)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w", libver=("v110", "v110")) as file:  # with checksums of its structure
            for name, value in facts.items():
                if isinstance(value, str):
                    write_text(file.attrs, name, value)
                else:
                    file.attrs[name] = value
            _write(file, index, number, options, path)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def finish_pack(index: ImageIndex, folder: Path, options: PackOptions) -> Packed:
    """Write the pack's own index from its shards. Raises ArtifactError when one is missing."""
    skipped: list[str] = []
    count = shard_count(len(index), options)
    with IndexWriter(folder / "index", root=folder, classes=index.classes) as writer:
        for number in range(count):
            path = shard_path(folder, number)
            _check_facts(path, _facts(index, number, options))
            with _readable(path), h5py.File(path, "r", locking="best-effort") as file:
                skipped += [os.fsdecode(name) for name in file["skipped"][()].tolist()]
                paths, labels = file["path"][()].tolist(), file["label"][()].tolist()
            for name, label in zip(paths, labels, strict=True):
                writer.add(name, label)
    return Packed(writer.images, skipped)


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"shard-{number:05d}.h5"


class _Shard(NamedTuple):
    """An open shard: its file, and where its images end, with a 0 in front; their checksums."""

    file: h5py.File
    ends: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]


class ImagePack:
    """Reads a pack by image number; opens shards when first used, anew in every process.

    `index` is that of its images: classes, labels, counts. Raises ArtifactError for a missing or damaged
    pack.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = ImageIndex(folder / "index")
        self._process = -1
        self._open: OrderedDict[int, _Shard] = OrderedDict()
        rows: list[int] = []
        while (path := shard_path(folder, len(rows))).is_file():
            with _readable(path), h5py.File(path, "r", locking="best-effort") as file:
                rows.append(len(file["label"]))
        self._ends = np.cumsum(rows, dtype=np.int64)
        found = int(self._ends[-1]) if rows else 0
        if found != len(self.index):
            raise ArtifactError(f"{folder}: {found} images in {len(rows)} shards, but {len(self.index)} in"
                                " its index; pack it again")  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": -1, "_open": OrderedDict()}

    def __len__(self) -> int:
        return len(self.index)

    def jpeg(self, image: int) -> bytes:
        """The JPEG file of an image. Raises IndexError beyond the last one, ArtifactError when damaged."""
        if not 0 <= image < len(self):
            raise IndexError(f"image {image} of {len(self)}")
        shard = int(np.searchsorted(self._ends, image, side="right"))
        row = image - (int(self._ends[shard - 1]) if shard else 0)
        with _readable(shard_path(self.folder, shard)):
            file, ends, checksums = self._shard(shard)
            begin, end = int(ends[row]), int(ends[row + 1])
            content: bytes = file["jpeg"][begin:end].tobytes()
            if len(content) != end - begin or zlib.crc32(content) != checksums[row]:
                raise OSError(f"image {row} has another checksum")
            return content

    def image(self, image: int) -> npt.NDArray[np.uint8]:
        """The pixels of an image: uint8 RGB (H, W, 3)."""
        with _readable(shard_path(self.folder, int(np.searchsorted(self._ends, image, side="right")))):
            content = self.jpeg(image)
            return np.array(Image.open(io.BytesIO(content)).convert("RGB"))

    def label(self, image: int) -> int:
        """The class of an image, an index into `index.classes`."""
        return self.index.class_of(image)

    def _shard(self, shard: int) -> _Shard:
        if self._process != os.getpid():  # handles from before a fork are the parent's
            self._open, self._process = OrderedDict(), os.getpid()
        if shard not in self._open:
            file = h5py.File(shard_path(self.folder, shard), "r", locking="best-effort")
            ends, checksums = np.concatenate([[0], file["end"][()]]), file["crc32"][()]
            if len(ends) != len(checksums) + 1 or np.any(np.diff(ends) < 0):
                raise OSError("the places of its images have changed")
            self._open[shard] = _Shard(file, ends, checksums)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].file.close()
        self._open.move_to_end(shard)
        return self._open[shard]


def as_jpeg(path: Path, *, short_side: int, quality: int) -> bytes:
    """An image file as JPEG, its short side at most `short_side` px: the file itself where it is one already.

    Otherwise upright RGB, reduced by area-true (Lanczos) filtering. Raises DataError when it cannot be read.
    """
    pixels = read_image(path)  # decodes to the last pixel, so that no broken file gets through
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1 and _is_plain_jpeg(path):
        return path.read_bytes()
    image = Image.fromarray(pixels)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _is_plain_jpeg(path: Path) -> bool:
    """Whether any decoder reads the file as it is: RGB or gray, upright."""
    with Image.open(path) as image:
        upright = image.getexif().get(EXIF_ORIENTATION, 1) == 1
        return image.format == "JPEG" and image.mode in ("RGB", "L") and upright


def _write(file: h5py.File, index: ImageIndex, number: int, options: PackOptions, path: Path) -> None:
    """Encode the shard's images and write them, a batch at a time."""
    ends: list[int] = []
    checksums: list[int] = []
    labels: list[int] = []
    paths: list[bytes] = []
    skipped: list[bytes] = []
    batch: list[bytes] = []
    images = range(number * options.per_shard, min((number + 1) * options.per_shard, len(index)))
    for image in images:
        try:
            content = as_jpeg(index.path(image), short_side=options.short_side, quality=options.quality)
        except DataError:
            if options.on_corrupt == "error":
                raise
            skipped.append(os.fsencode(index.relative_path(image)))
            continue
        batch.append(content)
        ends.append(len(content) + (ends[-1] if ends else 0))
        checksums.append(zlib.crc32(content))
        labels.append(index.class_of(image))
        paths.append(os.fsencode(index.relative_path(image)))
        if len(batch) == BATCH:
            _append(file, batch, path)
            batch = []
    _append(file, batch, path)
    _write_rows(file, "end", np.array(ends, dtype=np.int64))
    _write_rows(file, "crc32", np.array(checksums, dtype=np.uint32))
    _write_rows(file, "label", np.array(labels, dtype=np.int32))
    for name, values in (("path", paths), ("skipped", skipped)):
        _write_rows(file, name, np.array(values, dtype=f"S{max(map(len, values), default=1)}"))


def _write_rows(file: h5py.File, name: str, values: npt.NDArray[Any]) -> None:
    """Write an array with a checksum, which only arrays in chunks have."""
    if len(values):
        file.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
    else:
        file.create_dataset(name, data=values)


def _append(file: h5py.File, batch: list[bytes], path: Path) -> None:
    content = np.frombuffer(b"".join(batch), dtype=np.uint8)
    free = shutil.disk_usage(path.parent).free
    if free < len(content) + SPARE:
        raise ArtifactError(f"cannot write {path}: {free / 2**20:,.1f} MiB free; free space or choose another"
                            " disk, then run again: finished shards are kept")  # fmt: skip
    if "jpeg" not in file:
        chunk = min(max(1, len(content)), CHUNK)
        file.create_dataset("jpeg", (0,), maxshape=(None,), dtype=np.uint8, chunks=(chunk,))
    begin = len(file["jpeg"])
    file["jpeg"].resize((begin + len(content),))
    file["jpeg"][begin:] = content


def _facts(index: ImageIndex, number: int, options: PackOptions) -> dict[str, Any]:
    """What a shard must have been made of to be kept."""
    facts = {"format": FORMAT, "number": number, "source": str(index.root), "images": len(index),
             "classes": len(index.classes), **asdict(options)}  # fmt: skip
    first = number * options.per_shard
    return {**facts, "first": index.relative_path(first) if first < len(index) else ""}


def _check_facts(path: Path, facts: dict[str, Any]) -> None:
    with _readable(path), h5py.File(path, "r", locking="best-effort") as file:
        values = {name: file.attrs.get(name) for name in facts}
    found = {name: as_text(value) if isinstance(value, bytes) else value for name, value in values.items()}
    for name, expected in facts.items():
        if found[name] != expected:
            raise ArtifactError(f"{path}: {name} is {found[name]}, now {expected}: the shard is from another"
                                " source or other options; delete the folder, pack again")  # fmt: skip


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what h5py and Pillow raise for a damaged file into ArtifactError."""
    try:
        yield
    except (KeyError, RuntimeError, *BROKEN) as error:
        raise ArtifactError(f"{path} is missing or damaged ({error}); delete it and pack again") from error
