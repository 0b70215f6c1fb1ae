"""Readers: one small file per layout, each with one function `read(options) -> DataSet`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Sample
from anyshot.data.options import DataSource
from anyshot.errors import ConfigError, DataError

READERS: Final = (
    "voc", "folder", "imagenet", "scenes", "cityscapes", "camvid", "coco", "coco_stuff10k", "ade20k",
    "ade20k_full", "pascal_context",
)  # fmt: skip
# Their files, or a part of them, are made by the prepare stage and lie in its folder.
GENERATED: Final = ("scenes", "coco", "coco_stuff10k")
IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class Problem:
    """Something wrong with one sample: its id, a short kind to count by, and the whole message."""

    id: str
    kind: str
    message: str


@dataclass(frozen=True)
class DataSet:
    """What a reader found.

    The files are not opened yet. `labels_from_masks` says that the samples' labels are still to be read from
    their masks; `problems` are those a reader meets itself (a file without its partner, an unknown name).
    `void` are the mask values that mean ignored beside the table's own ignore value; none of them is a class.
    Where `known_void` is given, images without any class of the table are no problem but left out, and these
    are the ids of those that the published data is known to have.
    """

    samples: list[Sample]
    table: ClassTable
    root: Path
    labels_from_masks: bool = False
    problems: tuple[Problem, ...] = ()
    void: frozenset[int] = frozenset()
    known_void: frozenset[str] | None = None


def read(name: str, options: DataSource, *, folder: Path | None = None) -> DataSet:
    """Read the layout of a reader. `folder` is where generated data sets and converted masks lie."""
    if name not in READERS:
        raise ConfigError(f"reader {name!r} is unknown; the readers are {', '.join(READERS)}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = module.read(options, folder) if name in GENERATED else module.read(options)
    return cast(DataSet, found)


def existing_root(root: str | Path) -> Path:
    """The data set's folder. Raises DataError when it is not there."""
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise DataError(f"data root {path} {what} (seen from {Path.cwd()}): correct `root`, or get the data")
    return path.absolute()


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name; hidden files are passed over."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
