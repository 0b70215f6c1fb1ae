"""The class table as RETAB sees it, and which training images are base or novel."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Manifest, Sample
from anyshot.errors import ArtifactError, DataError
from anyshot.ops.metrics import Roles

IGNORE = 255


def read_table(path: Path) -> ClassTable:
    """Class table with the background first, so that index 0 is background everywhere in RETAB.

    Raises DataError unless exactly one class is of the kind `background` and at most 254 classes exist.
    """
    table = ClassTable.read(path)
    background = [index for index, kind in enumerate(table.kinds) if kind == "background"]
    if len(background) != 1:
        raise DataError(
            f"{path}: RETAB needs exactly one class of kind `background` (what no label names), found"
            f" {len(background)} among {len(table)} classes: mark it in the column `kind` of classes.csv"
        )
    if len(table) > 254:
        raise DataError(f"{path}: RETAB works with at most 254 classes, found {len(table)}")
    order = [background[0], *(index for index in range(len(table)) if index != background[0])]
    return replace(
        table,
        ids=tuple(table.ids[i] for i in order),
        names=tuple(table.names[i] for i in order),
        kinds=tuple(table.kinds[i] for i in order),
        colours=tuple(table.colours[i] for i in order),
    )


def read_data(manifest: Path, classes: Path, subsets: Sequence[str]) -> tuple[list[Sample], ClassTable]:
    """Samples of the subsets and the class table, background first."""
    return Manifest.read(manifest).samples(subsets), read_table(classes)


@dataclass(frozen=True)
class Supervision:
    """Which split this is and which training images carry masks."""

    split: str
    base: frozenset[str]
    novel: frozenset[str]

    def check(self, samples: Sequence[Sample]) -> None:
        """Raise ArtifactError when a sample has no role: the split was made from another list."""
        unknown = [
            sample.id for sample in samples if sample.id not in self.base and sample.id not in self.novel
        ]
        if unknown:
            raise ArtifactError(
                f"{len(unknown)} images are in neither list of split {self.split}, the first is"
                f" {unknown[0]!r}: run"
                " retab_split again"
            )


def supervision_csv(*, split: str, base: Sequence[str], novel: Sequence[str]) -> str:
    """CSV text `id,role,split` of a split, base images first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "role", "split"])
    writer.writerows([sample_id, "base", split] for sample_id in base)
    writer.writerows([sample_id, "novel", split] for sample_id in novel)
    return text.getvalue()


def read_supervision(path: Path) -> Supervision:
    """Read what `supervision_csv` wrote. Raises ArtifactError for another file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        lists: dict[str, list[str]] = {"base": [], "novel": []}
        for row in rows:
            lists[row["role"]].append(row["id"])
        return Supervision(rows[0]["split"], frozenset(lists["base"]), frozenset(lists["novel"]))
    except (OSError, KeyError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is no list of base and novel images ({error!r}): run retab_split again"
        ) from None


def roles_of(table: ClassTable, split: dict[str, Any]) -> Roles:
    """Roles by class index: background counts as base (16 base classes on VOC, retab.md 3.1)."""
    novel = [table.index_of[class_id] for class_id in split["novel"]]
    return Roles(base=[index for index in range(len(table)) if index not in novel], novel=novel)


def index_map(mask: np.ndarray, table: ClassTable) -> np.ndarray:
    """Mask in the data set's ids -> class indices, uint8, 255 = void."""
    return table.lookup(IGNORE)[mask].astype(np.uint8)


def id_map(indices: np.ndarray, table: ClassTable) -> np.ndarray:
    """Class indices -> the data set's ids, uint8 or uint16."""
    kind = np.uint8 if max(table.ids) < IGNORE else np.uint16
    return np.asarray(table.ids, dtype=kind)[indices]
