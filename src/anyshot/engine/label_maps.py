"""Label maps of many images: palette PNGs in the data set's own ids, and `labels.csv` beside them.

`labels.csv` has the columns id, file, height, width (px), sha256 (of the PNG). It is written last, so label
maps with a `labels.csv` are complete, and its content stands for theirs.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from anyshot.data.classes import ClassTable
from anyshot.data.images import read_mask, write_mask
from anyshot.engine.artifacts import write_failure, write_text
from anyshot.errors import ArtifactError, DataError

COLUMNS = ("id", "file", "height", "width", "sha256")


@dataclasses.dataclass(frozen=True)
class _Entry:
    path: Path
    height: int
    width: int
    sha256: str


class LabelMapWriter:
    """Writes `<id>.png` files into the folder of `path` (`.../labels.csv`); use as a context manager.

    An earlier `labels.csv` is removed at the start; the new one appears when the block ends without an error.
    Ids may contain `/`, they become subfolders. Raises ArtifactError when a file cannot be written.
    """

    def __init__(self, path: Path | str, table: ClassTable) -> None:
        self.path = Path(path)
        self._table = table
        self._rows: dict[str, tuple[str, str, int, int, str]] = {}

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise write_failure(self.path, error) from error
        return self

    def add(self, id: str, mask: npt.NDArray[Any]) -> None:
        """Write one label map, (H, W) class ids of the table or the ignore value."""
        if id in self._rows:
            raise ArtifactError(
                f"{self.path}: image {id!r} was added twice; make the ids of the manifest unique"
            )
        name = f"{id}.png"
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(
                f"image id {id!r} would be written outside {self.path.parent}; rename the image"
            )
        target = self.path.parent / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_mask(target, mask, self._table)
            digest = hashlib.sha256(target.read_bytes()).hexdigest()
        except OSError as error:
            raise write_failure(target, error) from error
        self._rows[id] = (id, name, mask.shape[0], mask.shape[1], digest)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(self._rows.values())
            write_text(self.path, text.getvalue())


class LabelMaps:
    """Reads the label maps of several `labels.csv` files as one collection.

    Raises ArtifactError for a missing list, a list that is none, an id in two lists, and a missing, damaged
    or exchanged PNG.
    """

    def __init__(self, paths: Sequence[Path | str] | Path | str) -> None:
        self.paths = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
        self._entries: dict[str, _Entry] = {}
        for path in self.paths:
            for row in _read_rows(path):
                id = row["id"]
                if id in self._entries:
                    raise ArtifactError(
                        f"image {id!r} is in {path} and in {self._entries[id].path.parent}: the shards do not"
                        " belong together; delete the folder and run the stage again"
                    )
                self._entries[id] = _Entry(
                    path=path.parent / row["file"],
                    height=int(row["height"]),
                    width=int(row["width"]),
                    sha256=row["sha256"],
                )

    @property
    def ids(self) -> list[str]:
        """The image ids, list by list."""
        return list(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, id: object) -> bool:
        return id in self._entries

    def path(self, id: str) -> Path:
        """The PNG of image `id`."""
        if id not in self._entries:
            names = ", ".join(str(path) for path in self.paths[:3]) + (", ..." if len(self.paths) > 3 else "")
            raise ArtifactError(
                f"image {id!r} is not among the {len(self)} label maps of {names}; run that stage again for"
                " this list"
            )
        return self._entries[id].path

    def __getitem__(self, id: str) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
        """The label map of image `id`: (H, W) class ids."""
        path = self.path(id)
        entry = self._entries[id]
        try:
            mask = read_mask(path)
        except (DataError, OSError) as error:
            raise ArtifactError(f"{error}; delete {path.parent} and run the stage again") from error
        if mask.shape != (entry.height, entry.width):
            raise ArtifactError(
                f"{path} is {mask.shape[1]}x{mask.shape[0]} px, {entry.width}x{entry.height} were written: it"
                f" was exchanged; delete {path.parent} and run the stage again"
            )
        if hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
            raise ArtifactError(
                f"{path} is not the file that was written: it was changed; delete {path.parent} and run the"
                " stage again"
            )
        return mask


def _is_entry(row: dict[str, str]) -> bool:
    # csv puts fields that are too many under None, and None for those that are too few.
    whole = None not in row and None not in row.values()
    return whole and row["height"].isdecimal() and row["width"].isdecimal()


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            found = tuple(reader.fieldnames or ())
    except FileNotFoundError as error:
        raise ArtifactError(f"label maps {path} do not exist; run the stage that writes them") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); delete it and run the stage again") from error
    if found != COLUMNS or not all(map(_is_entry, rows)):
        raise ArtifactError(f"{path} is no list of label maps (columns {', '.join(found)}, expected"
                            f" {', '.join(COLUMNS)}); delete it and run the stage again")  # fmt: skip
    return rows
