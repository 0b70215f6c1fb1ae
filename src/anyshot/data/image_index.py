"""An index of millions of image-labelled files: memory-mapped arrays, never lists of paths.

A folder with `paths.bin` (the relative paths, end to end), `ends.bin` (int64, where each one ends),
`classes.bin` (int32, one class per image), `by_class.bin` (uint32, image numbers grouped by class),
`class_ends.bin` (int64, where each class's group ends) and `index.json` (format, root, class keys). Opening
it reads nothing but the JSON; the arrays are mapped anew in every process (larvseg.md 5.4). No torch here.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from anyshot.data.images import FORMATS
from anyshot.errors import ArtifactError, DataError

FORMAT: Final = "anyshot image index 1"
WNID: Final = r"n\d{8}"
BUFFERED: Final = 2**20  # images that are grouped by class at a time
SMALL_BUFFER: Final = 2**16  # images that are kept in memory before they are written

Strangers = Literal["error", "skip"]
Empty = Literal["error", "keep"]


class IndexWriter:
    """Writes an index image by image: with IndexWriter(...) as index: index.add(b"n01/a.JPEG", 0).

    The folder has its name only once it is complete; an earlier one is replaced then. Memory does not grow
    with the number of images.
    """

    def __init__(self, folder: Path, *, root: Path, classes: Sequence[str] = ()) -> None:
        self.folder, self.root = folder, root
        self.classes = list(classes)
        self.images = 0
        """Added so far."""
        self._bytes = 0
        self._temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        self._singles: tuple[list[bytes], list[int]] = ([], [])

    def __enter__(self) -> Self:
        self._temporary.mkdir(parents=True)
        self._files = {
            name: (self._temporary / f"{name}.bin").open("wb") for name in ("paths", "ends", "classes")
        }
        return self

    def add(self, path: bytes, class_index: int) -> None:
        """Add one image, `path` relative to the root (os.fsencode)."""
        paths, classes = self._singles
        self.images += 1
        paths.append(path)
        classes.append(class_index)
        if len(paths) >= SMALL_BUFFER:
            self._flush()

    def add_class(self, class_index: int, paths: Sequence[bytes]) -> None:
        """Add the images of one class."""
        self._flush()
        self.images += len(paths)
        self._write(paths, np.full(len(paths), class_index, dtype=np.int32))

    def _flush(self) -> None:
        paths, classes = self._singles
        if paths:
            self._write(paths, np.array(classes, dtype=np.int32))
            self._singles = ([], [])

    def _write(self, paths: Sequence[bytes], classes: npt.NDArray[np.int32]) -> None:
        ends = np.fromiter(map(len, paths), dtype=np.int64, count=len(paths)).cumsum() + self._bytes
        self._files["paths"].write(b"".join(paths))
        self._files["ends"].write(ends.tobytes())
        self._files["classes"].write(classes.tobytes())
        self._bytes = int(ends[-1]) if len(ends) else self._bytes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            for file in self._files.values():
                file.close()
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _finish(self) -> None:
        self._flush()
        for file in self._files.values():
            file.close()
        classes = _mapped(self._temporary / "classes.bin", np.int32)
        _group_by_class(classes, len(self.classes), self._temporary)
        content = {"format": FORMAT, "root": str(self.root), "images": self.images, "bytes": self._bytes,
                   "classes": self.classes}  # fmt: skip
        (self._temporary / "index.json").write_text(json.dumps(content), encoding="utf-8")
        if self.folder.exists():
            shutil.rmtree(self.folder)
        os.replace(self._temporary, self.folder)


class ImageIndex:
    """Reads an index. It may be pickled and used after a fork: all processes share the pages of its arrays.

    Raises ArtifactError when the folder is missing or its files do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            content = dict(json.loads((folder / "index.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ArtifactError(f"{folder}: no image index ({error}); build it again") from error
        if content.get("format") != FORMAT:
            raise ArtifactError(
                f"{folder}: format {content.get('format')!r}, expected {FORMAT!r}; build it again"
            )
        try:
            self.root = Path(content["root"])
            self.classes: tuple[str, ...] = tuple(content["classes"])
            self._images, self._bytes = int(content["images"]), int(content["bytes"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder}: its index.json is damaged ({error!r}); build it again") from error
        expected = {"paths": self._bytes, "ends": 8 * len(self), "classes": 4 * len(self),
                    "by_class": 4 * len(self), "class_ends": 8 * len(self.classes)}  # fmt: skip
        for name, size in expected.items():
            path = folder / f"{name}.bin"
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                raise ArtifactError(f"{path}: {found} bytes, expected {size}; build the index again")

    def __getstate__(self) -> dict[str, Any]:
        mapped = ("_paths", "_ends", "labels", "by_class", "class_ends")
        return {name: value for name, value in self.__dict__.items() if name not in mapped}

    def __len__(self) -> int:
        return self._images

    @cached_property
    def _paths(self) -> npt.NDArray[np.uint8]:
        return _mapped(self.folder / "paths.bin", np.uint8)

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        return _mapped(self.folder / "ends.bin", np.int64)

    @cached_property
    def labels(self) -> npt.NDArray[np.int32]:
        """(images,) the class of every image, an index into `classes`."""
        return _mapped(self.folder / "classes.bin", np.int32)

    @cached_property
    def by_class(self) -> npt.NDArray[np.uint32]:
        """(images,) image numbers, those of class 0 first, ascending within a class."""
        return _mapped(self.folder / "by_class.bin", np.uint32)

    @cached_property
    def class_ends(self) -> npt.NDArray[np.int64]:
        """(C,) where each class ends in `by_class`."""
        return _mapped(self.folder / "class_ends.bin", np.int64)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(C,) images per class."""
        return np.diff(self.class_ends, prepend=0)

    @property
    def empty_classes(self) -> list[str]:
        """Keys of the classes without an image."""
        return [self.classes[number] for number in np.flatnonzero(self.counts == 0)]

    def relative_path(self, image: int) -> str:
        """The path of an image below the root. Raises IndexError beyond the last image."""
        if not 0 <= image < len(self):
            raise IndexError(f"image {image} of {len(self)}")
        begin = self._ends[image - 1] if image else 0
        return os.fsdecode(self._paths[begin : self._ends[image]].tobytes())

    def path(self, image: int) -> Path:
        """The file of an image."""
        return self.root / self.relative_path(image)

    def class_of(self, image: int) -> int:
        """The class of an image, an index into `classes`."""
        return int(self.labels[image])

    def images_of(self, class_index: int) -> npt.NDArray[np.uint32]:
        """The numbers of the images of a class, ascending; a view of the mapped file."""
        begin = self.class_ends[class_index - 1] if class_index else 0
        return self.by_class[begin : self.class_ends[class_index]]


def index_folder(
    root: Path,
    folder: Path,
    *,
    classes: Sequence[str] | None = None,
    key_pattern: str = WNID,
    on_stranger: Strangers = "error",
    on_empty: Empty = "error",
) -> ImageIndex:
    """Index <root>/<key>/*.JPEG into `folder`: classes in sorted order (or as `classes` lists them), files in
    sorted order within each.

    key_pattern: what a class folder's whole name must match, a wnid by default; on_stranger: what to do with
    folders that do not match, or are not among `classes`; on_empty: with classes that have no image. Hidden
    entries and files that are no images by their suffix are passed over. Raises DataError naming the folders.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; the layout is <wnid>/*.JPEG")
    found = sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")
    )
    wanted = set(found if classes is None else classes)
    strangers = [name for name in found if not re.fullmatch(key_pattern, name) or name not in wanted]
    if strangers and on_stranger == "error":
        raise DataError(
            f"{root}: {_some(strangers)} {'is' if len(strangers) == 1 else 'are'} no class folder: the name"
            f" must match {key_pattern}" + (" and be in the list of classes" if classes is not None else "")
            + "; move it away, or set strangers to be skipped"
        )  # fmt: skip
    keys = [name for name in found if name not in set(strangers)] if classes is None else list(classes)
    if not keys:
        raise DataError(f"{root}: no class folders; the layout is <wnid>/*.JPEG")
    with IndexWriter(folder, root=root, classes=keys) as writer:
        empty = []
        for number, key in enumerate(keys):
            paths = _images_below(root, key)
            if not paths:
                empty.append(key)
            writer.add_class(number, paths)
        _check_empty(root, empty, on_empty)
    return ImageIndex(folder)


def index_csv(
    path: Path,
    folder: Path,
    *,
    root: Path,
    classes: Sequence[str] | None = None,
    key_pattern: str = WNID,
    on_stranger: Strangers = "error",
    on_empty: Empty = "error",
) -> ImageIndex:
    """Index the rows of a CSV file with the columns `path` (relative to `root`) and `class`, in their order.

    The file is streamed; options as in `index_folder`, with rows for folders. Raises DataError naming the
    line.
    """
    keys = list(classes or ())
    number_of = {key: number for number, key in enumerate(keys)}
    with IndexWriter(folder, root=root, classes=keys) as writer:
        for line, name, key in _csv_rows(path):
            number = number_of.get(key)
            if number is None and classes is None and re.fullmatch(key_pattern, key):
                number = number_of[key] = len(number_of)
                writer.classes.append(key)
            if number is not None:
                writer.add(os.fsencode(name), number)
            elif on_stranger == "error":
                allowed = f"match {key_pattern}" if classes is None else f"be one of the {len(keys)} classes"
                raise DataError(f"{path}, line {line}: class {key!r} must {allowed}; mend the row, or set"
                                " strangers to be skipped")  # fmt: skip
        if not writer.classes:
            raise DataError(f"{path}: no image of any class; the columns are path,class")
    index = ImageIndex(folder)
    try:
        _check_empty(path, index.empty_classes, on_empty)
    except DataError:
        shutil.rmtree(folder)
        raise
    return index


def _images_below(root: Path, key: str) -> list[bytes]:
    """Relative paths of the images in a class's folder, sorted; none when there is no such folder."""
    try:
        with os.scandir(root / key) as entries:
            names = [entry.name for entry in entries if _is_image(entry.name) and entry.is_file()]
    except FileNotFoundError:
        return []
    return [os.fsencode(f"{key}/{name}") for name in sorted(names)]


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in FORMATS


def _check_empty(source: Path, empty: list[str], on_empty: Empty) -> None:
    if empty and on_empty == "error":
        raise DataError(
            f"{source}: no image of {_some(empty)}; add some, leave the class out, or set empty classes to be"
            " kept (they are never drawn)"
        )


def _csv_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, path and class of every row. Raises DataError."""
    try:
        file = path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); the columns are path,class") from error
    with file:
        rows = csv.reader(file)
        head = next(rows, [])
        missing = {"path", "class"} - set(head)
        if missing:
            raise DataError(
                f"{path}: columns {','.join(head) or 'none'}; path and class are needed in line 1"
            )
        name, key = head.index("path"), head.index("class")
        for row in rows:
            if len(row) <= max(name, key) or not row[name] or not row[key]:
                raise DataError(f"{path}, line {rows.line_num}: {row} lacks a path or a class")
            yield rows.line_num, row[name], row[key]


def _group_by_class(labels: npt.NDArray[np.int32], classes: int, folder: Path) -> None:
    """Write `by_class.bin` and `class_ends.bin` by a counting sort, a part of the images at a time."""
    counts = np.zeros(classes, dtype=np.int64)
    parts = range(0, len(labels), BUFFERED)
    for start in parts:
        counts += np.bincount(labels[start : start + BUFFERED], minlength=classes)
    ends = counts.cumsum()
    (folder / "class_ends.bin").write_bytes(ends.astype(np.int64).tobytes())
    (folder / "by_class.bin").write_bytes(b"")
    if len(labels) == 0:
        return
    grouped = np.memmap(folder / "by_class.bin", dtype=np.uint32, mode="w+", shape=len(labels))
    free = ends - counts
    for start in parts:
        part = np.asarray(labels[start : start + BUFFERED])
        order = np.argsort(part, kind="stable")
        here = np.bincount(part, minlength=classes)
        before = np.repeat(here.cumsum() - here, here)  # images of lower classes in this part
        ranks = np.arange(len(part)) - before
        grouped[free[part[order]] + ranks] = order + start
        free += here
    grouped.flush()


def _mapped(path: Path, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.zeros(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")
