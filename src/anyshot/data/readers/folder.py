"""Own data: images/<subset>/*, masks/<subset>/<stem>.png, classes.csv (id,name[,kind,red,green,blue]).

An image has the labels that its mask shows and those that labels.csv (stem,name) gives it. So novel images
need no masks, and in a mask novel classes may be void.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Sample
from anyshot.data.options import FolderData
from anyshot.data.readers import DataSet, Problem, existing_root, images_in
from anyshot.errors import DataError


def read(options: FolderData) -> DataSet:
    """Read the folder layout; every folder in images/ is a subset.

    A stem that several subsets have in common gets the subset's name in front of its id.
    Raises DataError when the root, images/, masks/ or classes.csv is missing.
    """
    root = existing_root(options.root)
    table = ClassTable.read(root / "classes.csv")
    files = [(subset.name, path) for subset in _subset_folders(root) for path in images_in(subset)]
    in_subsets = Counter(stem for stem, _ in {(path.stem, subset) for subset, path in files})
    listed = root / "labels.csv"
    labels = _read_labels(listed, table) if listed.is_file() or not options.masks else {}
    samples: list[Sample] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for subset, path in files:
        sample_id = path.stem if in_subsets[path.stem] == 1 else f"{subset}_{path.stem}"
        if sample_id in seen:
            problems.append(
                Problem(sample_id, "two images", f"{path}: another image has the same name but a suffix")
            )
            continue
        seen.add(sample_id)
        mask = root / "masks" / subset / f"{path.stem}.png" if options.masks else None
        classes = labels.get(path.stem, ())
        if mask is not None and classes and not mask.is_file():
            mask = None  # an image-labelled image; without a label too, the missing mask is a problem
        samples.append(Sample(sample_id, path, mask, subset, classes))
    return DataSet(samples, table, root, labels_from_masks=options.masks, problems=tuple(problems))


def _subset_folders(root: Path) -> list[Path]:
    folder = root / "images"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; images belong in images/<subset>/")
    subsets = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not subsets:
        raise DataError(
            f"{folder}: it holds no subset folders; put images in {folder / 'train'} and {folder / 'val'}"
        )
    empty = [path for path in subsets if not images_in(path)]
    if empty:
        raise DataError(f"{empty[0]}: the subset is empty (no image files); fill it or remove the folder")
    return subsets


def _read_labels(path: Path, table: ClassTable) -> dict[str, tuple[int, ...]]:
    """Image labels by stem, from rows `stem,name`, one row per label."""
    if not path.is_file():
        raise DataError(f"{path}: masks: false needs image labels, a csv file with the columns stem,name")
    labels: dict[str, set[int]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            if row.get("stem") is None or row.get("name") is None:
                raise DataError(f"{path}: needs the columns stem,name; found {', '.join(row)}")
            labels.setdefault(row["stem"], set()).update(table.ids_of([row["name"]]))
    return {stem: tuple(sorted(ids)) for stem, ids in labels.items()}
