"""Score maps of many images in one HDF5 file per shard.

Layout: one group per image id with the datasets `classes` (uint16, (k,)) and `scores` (float16 or float32,
(k, h, w)), the attributes `height`, `width` (px) and `stride` (px per cell), and a group `extra` of further
arrays. File attributes: what `Job.provenance()` says, and their sha256, `digest`. Chunks hold one channel,
packed with lzf, with a checksum each; small arrays lie in the header of their dataset, which has one, too.
A store has its final name only when it is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from anyshot.data.hdf5_text import as_text, write_text
from anyshot.engine.artifacts import reserved_path, write_failure
from anyshot.errors import ArtifactError

FORMAT = "anyshot scores 1"
DIGEST = "digest"
LARGEST_RATIO = 100  # of an array to its file: lzf packs zeros to a 88th
LARGEST_CHUNK = 2048  # px, side of a chunk: huge images are cut so that a window does not unpack all of them


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreMap:
    """Scores of the classes that are present in one image.

    classes: (k,) uint16, what the channels stand for; scores: (k, h, w) float; height, width: size of the
    image in px; stride: px per cell (1 = the scores have the image's size).
    """

    classes: npt.NDArray[np.uint16]
    scores: npt.NDArray[Any]
    height: int
    width: int
    stride: int


class _File(io.RawIOBase):
    """The file under HDF5. It keeps the first write error and goes on as if all were well.

    HDF5 does not survive a failed write: it cannot close the file any more, and the process dies of a
    segmentation fault (seen with HDF5 2.0 on a full disk). So it must not notice; the writer looks at `error`
    after every image.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed in close()
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any, /) -> int:
        return self._file.readinto(buffer) or 0

    def truncate(self, size: int | None = None, /) -> int:
        if self.error is None:
            try:
                return self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        length = len(rest)
        while len(rest) and self.error is None:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                self.error = error
        return length

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()


def _group_name(id: str) -> str:
    """HDF5 takes `/` for a path and `.` for the group itself."""
    return id.replace("%", "%25").replace("/", "%2F").replace(".", "%2E")


def _id_of(group_name: str) -> str:
    return group_name.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")


def _write_array(group: h5py.Group, name: str, array: npt.NDArray[Any]) -> None:
    if array.size == 0 or array.nbytes <= 1024:  # chunks and filters would cost more than they save
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_layout(h5py.h5d.COMPACT)
        group.create_dataset(name, data=array, dcpl=layout)
        return
    chunk = (*(1 for _ in array.shape[:-2]), *(min(side, LARGEST_CHUNK) for side in array.shape[-2:]))
    group.create_dataset(name, data=array, chunks=chunk, compression="lzf", shuffle=True, fletcher32=True)


def _digest(attributes: Mapping[str, str]) -> str:
    """sha256 of attributes: HDF5 has none for long ones."""
    return hashlib.sha256(json.dumps(dict(attributes), sort_keys=True).encode()).hexdigest()


def _attributes_of(file: h5py.File) -> dict[str, str]:
    """The writer's attributes. Raises OSError for another file, or where one has changed."""
    found = {name: as_text(value) for name, value in file.attrs.items()}
    form = found.pop("format", None)
    if form != FORMAT:
        raise OSError(f"format {form!r}, expected {FORMAT!r}")
    if found.pop(DIGEST, None) != _digest(found):
        raise OSError("its attributes have changed")
    return found


def _array(group: h5py.Group, name: str) -> h5py.Dataset:
    """An array, not read yet. Raises OSError when it could not be of this file, before memory is taken."""
    array = group[name]
    if not isinstance(array, h5py.Dataset):
        raise OSError(f"{name} is no array")
    if array.nbytes > LARGEST_RATIO * os.path.getsize(array.file.filename):
        raise OSError(f"{name} should have {array.nbytes} bytes")
    return array


class StoreWriter:
    """Writes one store; use as a context manager.

    The file appears under its name when the block ends without an error, and not at all otherwise.
    Raises ArtifactError when the disk is full or cannot be written, and for an id that is added twice.
    """

    def __init__(self, path: Path | str, *, attributes: Mapping[str, str]) -> None:
        self.path = Path(path)
        self._attributes = dict(attributes)
        self._ids: set[str] = set()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        temporary = self._stack.enter_context(reserved_path(self.path))
        try:
            self._file = _File(temporary)
            self._stack.callback(self._file.close)
            self._hdf = h5py.File(self._file, "w", libver=("v110", "v110"), track_order=True)
            self._stack.callback(self._hdf.close)
            written = {**self._attributes, "format": FORMAT, DIGEST: _digest(self._attributes)}
            for name, value in written.items():
                write_text(self._hdf.attrs, name, value)
        except BaseException as error:
            self._stack.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, OSError):
                raise write_failure(self.path, error) from error
            raise
        return self

    def add(
        self,
        id: str,
        classes: npt.ArrayLike,
        scores: npt.ArrayLike,
        *,
        height: int,
        width: int,
        stride: int = 1,
        dtype: npt.DTypeLike | None = None,
        extra: Mapping[str, npt.ArrayLike] | None = None,
    ) -> None:
        """Add the scores of one image.

        classes: (k,) integers in 0..65535; scores: (k, h, w) finite floats, k may be 0; height, width: the
        image's size in px; stride: px per cell; dtype: float16 or float32, default = that of `scores`
        (float64 becomes float32); extra: further named arrays.
        """
        classes, scores = np.asarray(classes), np.asarray(scores)
        if id in self._ids:
            raise ArtifactError(
                f"{self.path}: image {id!r} was added twice; make the ids of the manifest unique"
            )
        if classes.ndim != 1 or scores.ndim != 3 or len(classes) != len(scores):
            raise ValueError(
                f"{id}: classes {classes.shape} and scores {scores.shape}, expected (k,) and (k, h, w)"
            )
        if len(classes) and not (classes.min() >= 0 and classes.max() <= 65535):
            raise ValueError(f"{id}: classes {classes.min()}..{classes.max()}, expected 0..65535")
        given = np.dtype(dtype) if dtype is not None else scores.dtype
        with np.errstate(over="ignore"):  # what does not fit becomes infinite and is reported just below
            scores = scores.astype(given if given in (np.float16, np.float32) else np.float32, copy=False)
        if not np.isfinite(scores).all():
            raise ValueError(f"{id}: scores hold NaN or infinite values as {scores.dtype}")
        self._ids.add(id)
        group = self._hdf.create_group(_group_name(id))
        group.attrs.update({"height": height, "width": width, "stride": stride})
        _write_array(group, "classes", classes.astype(np.uint16))
        _write_array(group, "scores", scores)
        for name, array in (extra or {}).items():
            _write_array(group.require_group("extra"), name, np.asarray(array))
        self._check()

    def _check(self) -> None:
        if self._file.error is not None:
            raise write_failure(self.path, self._file.error) from self._file.error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._hdf.flush()
                self._check()
                self._hdf.close()
                self._check()
            except BaseException as late:
                self._stack.__exit__(type(late), late, late.__traceback__)
                raise
        self._stack.__exit__(kind, error, traceback)


class Store:
    """Reads the shards of a stage as one store; opens them when first used, anew in every process.

    Raises ArtifactError for a missing, cut off or foreign file and for an id in two shards; KeyError-like
    access to an unknown id is an ArtifactError too, since ids come from the manifest.
    """

    def __init__(self, paths: Sequence[Path | str] | Path | str) -> None:
        self.paths = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
        for path in self.paths:
            if not path.is_file():
                raise ArtifactError(f"score store {path} does not exist; run the stage that writes it")
        self._process = -1
        self._files: list[h5py.File] = []
        self._index: dict[str, int] = {}
        self._attributes: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": -1, "_files": [], "_index": {}, "_attributes": {}}

    def _open(self) -> None:
        """Open the shards unless this process has; handles from before a fork are left to the parent."""
        if self._process == os.getpid():
            return
        files: list[h5py.File] = []
        index: dict[str, int] = {}
        first: dict[str, str] | None = None
        for path in self.paths:
            with _readable(path):
                file = h5py.File(path, "r", locking="best-effort")
                names = list(file)
                attributes = _attributes_of(file)
                first = attributes if first is None else first
            for id in map(_id_of, names):
                if id in index:
                    raise ArtifactError(
                        f"image {id!r} is in {self.paths[index[id]]} and in {path}: the shards do not belong"
                        " together; delete the folder and run the stage again"
                    )
                index[id] = len(files)
            files.append(file)
        self._files, self._index, self._process = files, index, os.getpid()
        self._attributes = first or {}

    @property
    def ids(self) -> list[str]:
        """The image ids, shard by shard."""
        self._open()
        return list(self._index)

    @property
    def attributes(self) -> dict[str, str]:
        """The file attributes of the first shard."""
        self._open()
        return dict(self._attributes)

    def __len__(self) -> int:
        self._open()
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, id: object) -> bool:
        self._open()
        return id in self._index

    def __getitem__(self, id: str) -> ScoreMap:
        return self.read(id)

    def read(self, id: str, window: tuple[int, int, int, int] | None = None) -> ScoreMap:
        """The scores of image `id`, or only the cells y0:y1, x0:x1 of `window = (y0, y1, x0, x1)`.

        The window counts cells of the stored map (= px where stride is 1); height and width stay the image's.
        """
        self._open()
        y0, y1, x0, x1 = window or (0, None, 0, None)
        with _readable(self._path_of(id)):
            group = self._group(id)
            classes, scores = _array(group, "classes"), _array(group, "scores")
            if scores.ndim != 3 or classes.shape != scores.shape[:1]:
                raise OSError(f"classes {classes.shape} and scores {scores.shape} of image {id!r}")
            return ScoreMap(
                classes=classes[()],
                scores=scores[:, y0:y1, x0:x1],
                height=int(group.attrs["height"]),
                width=int(group.attrs["width"]),
                stride=int(group.attrs["stride"]),
            )

    def extra(self, id: str, name: str) -> npt.NDArray[Any]:
        """The further array `name` of image `id`. Raises ArtifactError when the stage did not write it."""
        self._open()
        path = self._path_of(id)
        with _readable(path):
            group = self._group(id)
            if f"extra/{name}" in group:
                return _array(group, f"extra/{name}")[()]
        raise ArtifactError(f"{path}: image {id!r} has no array {name!r}; run the stage again")

    def extra_names(self, id: str) -> list[str]:
        """Names of the further arrays of image `id`."""
        self._open()
        with _readable(self._path_of(id)):
            return list(self._group(id).get("extra", ()))

    def _path_of(self, id: str) -> Path:
        if id not in self._index:
            names = ", ".join(str(path) for path in self.paths[:3]) + (", ..." if len(self.paths) > 3 else "")
            raise ArtifactError(
                f"image {id!r} is not among the {len(self._index)} images of {names}; run that stage again"
                " for this list of images"
            )
        return self.paths[self._index[id]]

    def _group(self, id: str) -> h5py.Group:
        return self._files[self._index[id]][_group_name(id)]


def store_fingerprint(path: Path) -> str | None:
    """The `fingerprint` attribute of a store, None when it has none. Raises ArtifactError when unreadable."""
    with _readable(path), h5py.File(path, "r", locking="best-effort") as file:
        if DIGEST in file.attrs:
            return _attributes_of(file).get("fingerprint")
        value = file.attrs.get("fingerprint")
    return None if value is None else as_text(value)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what h5py raises for a damaged file into ArtifactError."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path} is cut off or damaged ({error}); delete it and run the stage that writes it again"
        ) from error
