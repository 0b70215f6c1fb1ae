"""COCO-Stuff-10K, 171 classes, subsets `train` (9,000 images) and `test` (1,000).

The archive, version 1.0 or 1.1; its masks are converted by the prepare stage:

    images/<stem>.jpg   annotations/<stem>.mat   imageLists/{train,test}.txt

Or masks that were converted before, 0..170 and 255 for unlabeled, used as they are (with or without
`_detectron2` in the names):

    images_detectron2/{train,test}/<stem>.jpg   annotations_detectron2/{train,test}/<stem>.png

The archive comes first where both exist. Ids are the stems, e.g. `COCO_train2014_000000000077`.
"""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Final

from anyshot.data.classes import ClassTable
from anyshot.data.coco_stuff_labels import coco_stuff_table, read_annotation
from anyshot.data.images import write_mask
from anyshot.data.manifest import Sample
from anyshot.data.mask_folders import paired_samples
from anyshot.data.options import CocoStuff10kData
from anyshot.data.prepare import map_samples
from anyshot.data.readers import DataSet, Problem, existing_root
from anyshot.data.readers.voc import read_id_list
from anyshot.errors import DataError

log: Final = logging.getLogger("anyshot")

SUBSETS: Final = ("train", "test")
LISTS: Final = "imageLists"
# Folder of images, folder of masks.
CONVERTED: Final = (("images_detectron2", "annotations_detectron2"), ("images", "annotations"))
PARENTS: Final = ("", "coco_stuff_10k", "coco/coco_stuff_10k")
CONVERSION: Final = 1  # raised when a change of code changes a converted mask
DIGITS: Final = 12  # of a digest, in the names of folders
# Images without any labelled pixel (simformer.md 1.2).
KNOWN_VOID: Final = frozenset(
    f"COCO_train2014_{number:012d}" for number in (16680, 230639, 382127, 429995, 314646, 3518, 58075)
)


def write_masks(folder: Path, options: CocoStuff10kData, *, threads: int = 1) -> None:
    """Convert the archive's masks that `folder` does not hold yet, in `threads` processes.

    A mask file that exists is complete, so an interrupted run goes on where it was. A broken annotation gets
    no mask; `read` says why. Nothing is done where masks were converted before.
    """
    root = _layout_root(options)
    if not _is_archive(root):
        return
    for subset, stems in _lists(root).items():
        target = _mask_folder(folder, root, subset, stems)
        there = {path.stem for path in target.glob("*.png")}
        missing = [root / "annotations" / f"{stem}.mat" for stem in stems if stem not in there]
        if missing:
            log.info("converting %d annotations of %s", len(missing), subset)
            work = partial(_convert, folder=target, table=coco_stuff_table())
            for _ in map_samples(work, missing, threads=threads):
                pass


def read(options: CocoStuff10kData, folder: Path | None) -> DataSet:
    """Read the subsets, the archive's in the order of its lists, with the masks of `write_masks` in `folder`.

    Images without a labelled pixel are left out. Raises DataError when the root, both layouts, a list or all
    images of a subset are missing.
    """
    root = _layout_root(options)
    samples: list[Sample] = []
    problems: list[Problem] = []
    if _is_archive(root):
        if folder is None:
            raise DataError("COCO-Stuff's masks are converted: the reader needs their folder")
        for subset, stems in _lists(root).items():
            found, broken = _archive_samples(root, subset, stems, _mask_folder(folder, root, subset, stems))
            samples += found
            problems += broken
    else:
        images, masks, subsets = _converted(root)
        for subset in subsets:
            found, broken = paired_samples(images / subset, masks / subset, subset)
            samples += found
            problems += broken
    return DataSet(
        samples,
        coco_stuff_table(),
        root,
        labels_from_masks=True,
        problems=tuple(problems),
        known_void=KNOWN_VOID,
    )


def _layout_root(options: CocoStuff10kData) -> Path:
    root = existing_root(options.root)
    candidates = [root / parent for parent in PARENTS]
    found = next((path for path in candidates if _is_archive(path) or _converted(path)[2]), None)
    if found is None:
        raise DataError(
            f"{root}: found neither {LISTS}/train.txt and annotations/*.mat (the archive) nor train/ in both"
            " images_detectron2/ and annotations_detectron2/ (converted masks); `root` is the folder that"
            " holds them"
        )
    return found


def _is_archive(root: Path) -> bool:
    return bool(_list_files(root)) and any((root / "annotations").glob("*.mat"))


def _list_files(root: Path) -> dict[str, Path]:
    files = {subset: root / LISTS / f"{subset}.txt" for subset in SUBSETS}
    return {subset: path for subset, path in files.items() if path.is_file()}


def _lists(root: Path) -> dict[str, list[str]]:
    """Stems by subset, in the order of the lists."""
    return {subset: read_id_list(path) for subset, path in _list_files(root).items()}


def _converted(root: Path) -> tuple[Path, Path, list[str]]:
    """The folders of images and of converted masks, and the subsets that both have, if any."""
    for images, masks in CONVERTED:
        subsets = [s for s in SUBSETS if (root / images / s).is_dir() and (root / masks / s).is_dir()]
        if subsets:
            return root / images, root / masks, subsets
    return root / CONVERTED[0][0], root / CONVERTED[0][1], []


def _mask_folder(folder: Path, root: Path, subset: str, stems: list[str]) -> Path:
    """The folder of converted masks; named after the annotations, so others never meet old masks."""
    lines = []
    for stem in stems:
        path = root / "annotations" / f"{stem}.mat"
        found = path.stat() if path.is_file() else None
        lines.append(f"{stem} {found.st_size} {found.st_mtime_ns}\n" if found else f"{stem}\n")
    digest = hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()[:DIGITS]
    return folder / "masks" / f"stuff_v{CONVERSION}" / f"{subset}_{digest}"


def _convert(annotation: Path, *, folder: Path, table: ClassTable) -> None:
    try:
        mask = read_annotation(annotation)
    except DataError:
        return  # `read` tries again, and makes a problem of it
    write_mask(folder / f"{annotation.stem}.png", mask, table)


def _archive_samples(
    root: Path, subset: str, stems: list[str], masks: Path
) -> tuple[list[Sample], list[Problem]]:
    samples: list[Sample] = []
    problems: list[Problem] = []
    there = {path.stem for path in masks.glob("*.png")}
    for stem in stems:
        if stem in there:
            image, mask = root / "images" / f"{stem}.jpg", masks / f"{stem}.png"
            samples.append(Sample(stem, image, mask, subset, ()))
        else:
            problems.append(_why_no_mask(root / "annotations" / f"{stem}.mat"))
    return samples, problems


def _why_no_mask(annotation: Path) -> Problem:
    try:
        read_annotation(annotation)
    except DataError as error:
        kind = "unreadable mask" if annotation.exists() else "missing mask"
        return Problem(annotation.stem, kind, str(error))
    raise DataError(f"{annotation} has not been converted; run the prepare stage of this data set again")
