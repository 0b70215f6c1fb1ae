"""Image classification folders: <wnid>/*.JPEG, labels without masks, optionally names.csv (wnid,name)."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Final

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Sample
from anyshot.data.options import ImagenetData
from anyshot.data.readers import DataSet, existing_root, images_in
from anyshot.errors import ConfigError, DataError

NAMES_FILE: Final = "names.csv"


def read(options: ImagenetData) -> DataSet:
    """Read one folder per class; class ids count the chosen wnids in sorted order, from 0.

    Names that several wnids share, or all if wanted, get the wnid behind them. Raises DataError when the root
    or all classes are missing or a class has no images, ConfigError for an unknown wnid.
    """
    root = existing_root(options.root)
    wnids = _chosen(root, options.wnids)
    table = ClassTable.of(_names(root, wnids, everywhere=options.append_wnid))
    samples: list[Sample] = []
    for class_id, wnid in enumerate(wnids):
        files = images_in(root / wnid)
        if not files:
            raise DataError(
                f"{root / wnid}: the class has no images; fill the folder or leave it out of `wnids`"
            )
        for path in files[: options.per_class]:
            sample_id = path.stem if path.stem.startswith(wnid) else f"{wnid}_{path.stem}"
            samples.append(Sample(sample_id, path, None, options.subset, (class_id,)))
    return DataSet(samples, table, root)


def _chosen(root: Path, wanted: list[str] | None) -> list[str]:
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise DataError(f"{root}: no class folders; the layout is <wnid>/*.JPEG")
    if wanted is None:
        return found
    unknown = sorted(set(wanted) - set(found))
    if unknown:
        raise ConfigError(
            f"{root}: no folder for the wnids {', '.join(unknown[:10])}; there are {len(found)} folders"
        )
    return sorted(set(wanted))


def _names(root: Path, wnids: list[str], *, everywhere: bool) -> list[str]:
    """The classes' names, unique; the wnid itself where names.csv does not have it."""
    path = root / NAMES_FILE
    by_wnid: dict[str, str] = {}
    if path.is_file():
        with path.open(encoding="utf-8-sig", newline="") as file:
            by_wnid = {row[0].strip(): row[1].strip() for row in csv.reader(file) if len(row) > 1}
    names = [by_wnid.get(wnid) or wnid for wnid in wnids]
    count = Counter(names)
    return [
        f"{name} ({wnid})" if count[name] > 1 or (everywhere and name != wnid) else name
        for name, wnid in zip(names, wnids, strict=True)
    ]
