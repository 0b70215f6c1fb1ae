"""Image-labelled sources of millions of images: made once as an image set, then drawn from (larvseg.md 5.4).

An image set is a folder with `index/` (of the files), `pack/` (HDF5 shards with an index of their own, if
wanted), `classes.csv` (ids 0..C-1, names with the wnid behind them) and `images.json`, which is written last.
No torch here.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from anyshot.data.classes import ClassTable
from anyshot.data.image_draws import BalancedDraws
from anyshot.data.image_index import ImageIndex, index_folder
from anyshot.data.image_pack import ImagePack, PackOptions, finish_pack, pack_shard, shard_count
from anyshot.data.images import read_image
from anyshot.errors import ArtifactError, ConfigError, DataError
from anyshot.larvseg.image_set_options import ImageSet
from anyshot.processes import worker_pool

FORMAT: Final = "anyshot image set 1"
NAMES_FILE: Final = "names.csv"
BY_TIMM: Final = "timm"
LEMMAS: Final = Path("data", "_info", "imagenet_synset_to_lemma.txt")  # in timm's package
ATTEMPTS: Final = 20  # draws in a row that may meet a corrupt image
NEXT_ATTEMPT: Final = 2**64  # positions between the draws of one position: further than any training gets
LISTED: Final = 5  # in a message

Progress = Callable[[Iterator[int], int], Iterable[int]]

log = logging.getLogger("anyshot")


def build_image_set(
    options: ImageSet, folder: Path, *, processes: int = 1, progress: Progress | None = None
) -> tuple[ClassTable, dict[str, Any]]:
    """Write `index/` and `pack/` below `folder`; returns the class table and the content of `images.json`.

    processes: that pack at the same time; progress: wraps the finished shards, of which the number is given.
    Shards of a run that was stopped are kept. Raises DataError for a folder that is no wnid or an image that
    cannot be read where these are errors, and when there is no image at all; ArtifactError where `folder`
    holds shards of other images or options, or the disk is full.
    """
    begin = time.monotonic()
    root = Path(options.root).expanduser().absolute()
    strangers: Literal["error", "skip"] = "error" if options.not_a_wnid == "stop" else "skip"
    index = index_folder(root, folder / "index", on_stranger=strangers, on_empty="keep")
    table = class_table(options, root, index.classes)
    skipped: list[str] = []
    if options.pack:
        skipped = _pack(index, folder / "pack", options, processes=processes, progress=progress)
        index = ImageIndex(folder / "pack" / "index")
    if not len(index):
        raise DataError(f"{root}: no image that can be read in {len(index.classes)} folders; correct `root`")
    return table, {
        "format": FORMAT,
        "root": str(root),
        "packed": options.pack,
        "on_corrupt": options.on_corrupt,
        "images": len(index),
        "classes": len(index.classes),
        "counts": dict(zip(index.classes, index.counts.tolist(), strict=True)),
        "empty": index.empty_classes,
        "skipped": skipped,
        "no_wnids": _other_folders(root, index.classes),
        "seconds": round(time.monotonic() - begin, 1),
    }


def _other_folders(root: Path, wnids: Sequence[str]) -> list[str]:
    known = set(wnids)
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(name for name in names if name not in known)


def class_table(options: ImageSet, root: Path, wnids: Sequence[str]) -> ClassTable:
    """Ids 0, 1, ... in the order of the wnids; `name (wnid)`, or the wnid alone where it has no name.

    Raises DataError for a file of names that is missing or knows none of the wnids, ConfigError where timm
    is not installed.
    """
    path = Path(options.names).expanduser() if options.names else root / NAMES_FILE
    if options.names == BY_TIMM:
        path = _timm_lemmas()
        known = _lemmas(path)
    elif options.names or path.is_file():
        known = _names(path)
    else:
        return ClassTable.of(list(wnids))
    if not known.keys() & set(wnids):
        raise DataError(
            f"{path}: it has {len(known)} names, but of none of the {len(wnids)} wnids such as {wnids[0]};"
            " the columns are wnid,name"
        )
    return ClassTable.of([f"{known[wnid]} ({wnid})" if wnid in known else wnid for wnid in wnids])


def _timm_lemmas() -> Path:
    """The file of timm's package data, without importing timm: that takes seconds and torch."""
    found = importlib.util.find_spec("timm")
    folders = list(found.submodule_search_locations or ()) if found else []
    path = Path(folders[0]) / LEMMAS if folders else LEMMAS
    if not path.is_file():
        raise ConfigError(
            f"names: {BY_TIMM} needs {LEMMAS} of timm, found {path}: install timm, or give a csv"
        )
    return path


def _lemmas(path: Path) -> dict[str, str]:
    """{wnid: first lemma}; a line is the wnid, a tabulator, and all lemmas with commas between them."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t", 1) for line in lines if "\t" in line)
    return {wnid.strip(): lemmas.split(",")[0].strip() for wnid, lemmas in pairs}


def _names(path: Path) -> dict[str, str]:
    """{wnid: name} of a csv file, with or without a head."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row[:2]] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the names cannot be read ({error}); the columns are wnid,name") from error
    return {row[0]: row[1] for row in rows if len(row) == 2 and all(row)}


def _pack(
    index: ImageIndex, folder: Path, options: ImageSet, *, processes: int, progress: Progress | None
) -> list[str]:
    """Pack all images; relative paths of the corrupt ones, that are left out."""
    for left in folder.glob(".*.tmp"):  # of a run that was killed
        left.unlink(missing_ok=True)
    total = shard_count(len(index), _pack_options(options))
    finished = _shards(partial(_checked_shard, index, folder, options), total, processes=processes)
    for _ in progress(finished, total) if progress else finished:
        pass
    return finish_pack(index, folder, _pack_options(options)).skipped


def _pack_options(options: ImageSet) -> PackOptions:
    # Shards are the same whether corrupt images are errors or not, so that a run that stopped at one can go
    # on with `skip` and keep what it has.
    return PackOptions(short_side=options.short_side, per_shard=options.per_shard, on_corrupt="skip")


def _shards(work: Callable[[int], int], total: int, *, processes: int) -> Iterator[int]:
    """Numbers of the shards as they are finished."""
    if min(processes, total) <= 1:
        yield from map(work, range(total))
        return
    with worker_pool(min(processes, total), start="spawn") as pool:
        for finished in as_completed([pool.submit(work, number) for number in range(total)]):
            yield finished.result()


def _checked_shard(index: ImageIndex, folder: Path, options: ImageSet, number: int) -> int:
    """Write a shard unless it is there. Where corrupt images are errors, raises DataError naming those of the
    shard, which is removed."""
    path = pack_shard(index, folder, number, _pack_options(options))
    if options.on_corrupt == "stop":
        with h5py.File(path, "r", locking="best-effort") as file:
            skipped = [os.fsdecode(name) for name in file["skipped"][()]]
        if skipped:
            path.unlink()
            more = f" and {len(skipped) - LISTED} more" if len(skipped) > LISTED else ""
            raise DataError(
                f"{index.root}: {', '.join(skipped[:LISTED])}{more} cannot be read; replace or remove"
                " them, or set `on_corrupt: skip`; then run again: finished shards are kept"
            )
    return number


class Drawn(NamedTuple):
    """number: of the image; pixels: uint8 RGB (H, W, 3); labels: class indices; skipped: numbers of the
    corrupt images that were drawn before it."""

    number: int
    pixels: npt.NDArray[np.uint8]
    labels: tuple[int, ...]
    skipped: tuple[int, ...]


class ImageSetSource:
    """Images of an image set by number, and draws from it with class balance.

    folder: of the image set. power: 1 draws evenly over images, 0 evenly over classes, between them a
    compromise. classes: indices of those that may be drawn, None for all. What is drawn depends on seed,
    epoch and position alone. May be pickled and used after a fork: a process opens the files when it first
    reads. Raises ArtifactError for a folder that no image set was completed in, ConfigError where nothing
    can be drawn.
    """

    def __init__(
        self, folder: Path, *, power: float = 1.0, seed: int = 0, classes: Sequence[int] | None = None
    ) -> None:
        self.folder, self.power, self.seed = folder, power, seed
        self.classes = None if classes is None else tuple(classes)
        content = _content(folder)
        self.skips: bool = content["on_corrupt"] == "skip"
        """Whether an image that cannot be read is passed over."""
        self.corrupt: set[int] = set()
        """Numbers of the images that this process found corrupt."""
        self._packed: bool = content["packed"]
        self._length = int(self.counts[self._draws.probabilities > 0].sum())
        if len(self.index) != content["images"]:
            raise ArtifactError(
                f"{folder}: {len(self.index)} images in the index, {content['images']} in images.json: run"
                " larvseg_images again"
            )

    def __getstate__(self) -> dict[str, Any]:
        opened = ("index", "_pack", "_draws")
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __len__(self) -> int:
        """Images that may be drawn."""
        return self._length

    @cached_property
    def index(self) -> ImageIndex:
        """Of the images that are read: of the pack where there is one, else of the files."""
        return self._pack.index if self._packed else ImageIndex(self.folder / "index")

    @cached_property
    def _pack(self) -> ImagePack:
        return ImagePack(self.folder / "pack")

    @cached_property
    def _draws(self) -> BalancedDraws:
        return BalancedDraws(self.counts, power=self.power, seed=self.seed, classes=self.classes)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(C,) images per class of the image set, whether drawn or not."""
        return self.index.counts

    def draw(self, epoch: int, position: int, *, attempt: int = 0) -> int:
        """Number of the image of a draw; further attempts give further images for the same position."""
        place = position + attempt * NEXT_ATTEMPT
        return int(self._draws.images(self.index, epoch=epoch, position=place, count=1)[0])

    def image(self, number: int) -> npt.NDArray[np.uint8]:
        """The pixels of an image: uint8 RGB (H, W, 3). Raises DataError when its file cannot be read."""
        return self._pack.image(number) if self._packed else read_image(self.index.path(number))

    def labels(self, number: int) -> tuple[int, ...]:
        """Class indices of an image: its folder's alone."""
        return (self.index.class_of(number),)

    def read(self, epoch: int, position: int) -> Drawn:
        """The image of a draw. A corrupt one is an error, or the next attempt is taken and it is counted.

        Raises DataError, also for a long run of corrupt images: then the disk is gone, not an image.
        """
        skipped: list[int] = []
        for attempt in range(ATTEMPTS):
            number = self.draw(epoch, position, attempt=attempt)
            pixels = self._readable(number)
            if pixels is not None:
                return Drawn(number, pixels, self.labels(number), tuple(skipped))
            skipped.append(number)
        raise DataError(
            f"{self.index.root}: {ATTEMPTS} images drawn in a row cannot be read, the last one"
            f" {self.index.relative_path(skipped[-1])}: is the folder still there?"
        )

    def _readable(self, number: int) -> npt.NDArray[np.uint8] | None:
        """The pixels, None for a corrupt image that may be skipped."""
        if number in self.corrupt:
            return None
        try:
            return self.image(number)
        except DataError as error:
            if not self.skips:
                raise DataError(f"{error}, or set `on_corrupt: skip` of the image set") from error
            self.corrupt.add(number)
            log.warning("skipped: %s", error)
            return None


def _content(folder: Path) -> dict[str, Any]:
    path = folder / "images.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: no image set ({error}); run larvseg_images") from error
    if content.get("format") != FORMAT:
        raise ArtifactError(
            f"{path}: format {content.get('format')!r}, expected {FORMAT!r}; run larvseg_images again"
        )
    return content
