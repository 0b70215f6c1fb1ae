"""The class maps of one fold: mask value to network index, and back. Source: pop.md 1.2 and 1.6.

Index 0 is the background, 1..Kb are the base classes and Kb+1..Kb+Kn the novel ones, both ascending in data
set ids; 255 is ignored. Kb and Kn do not count the background.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anyshot.data.classes import IGNORE_8_BIT, ClassTable
from anyshot.errors import ArtifactError, ConfigError, DataError
from anyshot.pop.options import FoldDataset

IGNORE: Final = 255  # in every map, whatever the masks' own ignore value
MOST_CLASSES: Final = 255  # indices are uint8, and 255 is taken
SHOWN: Final = 5  # values in a message


@dataclass(frozen=True)
class FoldTables:
    """A class table and which of its ids are novel; all else follows. Arrays are read-only.

    Raises DataError when the table has no class of the kind background with the id 0, or does not have a
    novel id; ConfigError when a class is listed twice, the background is novel, no class is left as base, or
    there are more than 255 classes.
    """

    table: ClassTable
    novel_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(self.table, self.novel_ids)
        # Order carries no meaning, so equal folds are equal objects.
        object.__setattr__(self, "novel_ids", tuple(sorted(self.novel_ids)))

    @classmethod
    def make(cls, table: ClassTable, *, novel: Iterable[str]) -> FoldTables:
        """The tables of novel classes by name, in any order; none for `joint`. Raises ConfigError."""
        return cls(table, tuple(table.ids_of(novel)))

    @cached_property
    def base_ids(self) -> tuple[int, ...]:
        """Data set ids of the base classes, ascending, without the background."""
        novel = set(self.novel_ids)
        return tuple(sorted(number for number in self.table.foreground_ids if number not in novel))

    @property
    def base_count(self) -> int:
        """Kb, the number of base classes."""
        return len(self.base_ids)

    @property
    def novel_count(self) -> int:
        """Kn, the number of novel classes; 0 in the split `joint`."""
        return len(self.novel_ids)

    @cached_property
    def index_to_id(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Data set id by network index: (1 + Kb + Kn,), of the masks' dtype."""
        dtype: Any = np.uint8 if self.table.ignore == IGNORE_8_BIT else np.uint16
        return _read_only(np.array((0, *self.base_ids, *self.novel_ids), dtype=dtype))

    @cached_property
    def id_to_index(self) -> dict[int, int]:
        """Network index by data set id."""
        return {int(number): index for index, number in enumerate(self.index_to_id)}

    @cached_property
    def name_of_id(self) -> dict[int, str]:
        """Class name by data set id."""
        return dict(zip(self.id_to_index, self.names, strict=True))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names by network index."""
        return tuple(self.table.name_of(int(number)) for number in self.index_to_id)

    @property
    def roles(self) -> tuple[str, ...]:
        """`background`, `base` or `novel`, by network index."""
        return ("background", *("base",) * self.base_count, *("novel",) * self.novel_count)

    @cached_property
    def train_lut(self) -> NDArray[np.uint8]:
        """Mask value to index while novel classes are unknown: base 1..Kb, novel 0, all other values 255.

        Shape (256,), or (65536,) where the data set's masks have 16 bits. For stage 1, training and
        validation, and for the base images of stage 2, before their pseudo-labels.
        """
        lut = self.full_lut.copy()
        lut[list(self.novel_ids)] = 0
        return _read_only(lut)

    @cached_property
    def full_lut(self) -> NDArray[np.uint8]:
        """Mask value to index with all classes: base 1..Kb, novel Kb+1.., all other values 255.

        Shape as `train_lut`. For the support images of stage 2, its validation, and the final test.
        """
        lut = np.full(self.table.ignore + 1, IGNORE, dtype=np.uint8)
        lut[self.index_to_id] = np.arange(len(self.index_to_id), dtype=np.uint8)
        return _read_only(lut)

    def labels(self, mask: NDArray[Any], *, novel: bool) -> NDArray[np.uint8]:
        """Network indices of a mask of data set ids, any shape and integer type; uint8 of the same shape.

        With `novel` by `full_lut`, without it by `train_lut`. Raises DataError for values that are neither
        an id of the table nor its ignore value: they would pass for ignored pixels (pop.md 6.2 m).
        """
        known = self._known
        inside = mask.size == 0 or (mask.min() >= 0 and mask.max() < len(known))
        if not inside or not known[mask].all():
            values, counts = np.unique(mask, return_counts=True)
            raise DataError(
                unknown_values(self.table, dict(zip(values.tolist(), counts.tolist(), strict=True)))
                or f"a mask of the type {mask.dtype}: expected whole numbers"
            )
        return (self.full_lut if novel else self.train_lut)[mask]

    def digest(self) -> str:
        """sha256 (hex) of the classes and of which are novel, for checkpoints. Colours do not count."""
        content = f"{self.table.digest()} {' '.join(str(number) for number in self.novel_ids)}"
        return hashlib.sha256(content.encode("utf-8")).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """JSON types only: the class table, the novel ids, and what follows from them by network index."""
        return {
            "classes": self.table.to_json(),
            "novel_ids": list(self.novel_ids),
            "base_ids": list(self.base_ids),
            "index_to_id": self.index_to_id.tolist(),
            "names": list(self.names),
            "roles": list(self.roles),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> FoldTables:
        """The tables of what `to_json` gave, also after a way through JSON text.

        Raises ArtifactError when it is incomplete, or its maps are not those of its classes.
        """
        try:
            table = ClassTable.from_json(content["classes"])
            found = cls(table, tuple(content["novel_ids"]))
        except (KeyError, TypeError, ValueError, DataError, ConfigError) as error:
            raise ArtifactError(
                f"the saved fold is damaged: {error!r}; make the artifact that holds it again"
            ) from error
        if json.loads(json.dumps(content)) != found.to_json():
            wrong = [key for key, value in found.to_json().items() if content.get(key) != value] or ["a key"]
            raise ArtifactError(
                f"the saved fold is damaged: {wrong[0]} is not what its classes give; make the artifact that"
                " holds it again"
            )
        return found

    def check(self, other: FoldTables, where: str = "") -> None:
        """Raise ArtifactError naming the first difference from `other`, the fold of the artifact `where`."""
        for number, (mine, theirs) in enumerate(zip_longest(self._facts(), other._facts(), fillvalue="none")):
            if mine != theirs:
                raise ArtifactError(
                    f"{where}the artifact belongs to another fold or class table: its class {number} is"
                    f" {theirs}, the configuration's is {mine} ({len(other.names)} and {len(self.names)} in"
                    " all); use what it was trained with, or train again"
                )

    def _facts(self) -> list[str]:
        rows = zip(self.index_to_id.tolist(), self.names, self.roles, strict=True)
        return [f"{number} {name!r} ({role})" for number, name, role in rows]

    @cached_property
    def _known(self) -> NDArray[np.bool_]:
        known = self.full_lut != IGNORE
        known[self.table.ignore] = True
        return known


def unknown_values(table: ClassTable, pixels: dict[int, int]) -> str:
    """What is wrong with a mask of these pixels by value: empty text, or its values outside the table."""
    strange = [value for value in pixels if value not in table.index_of and value != table.ignore]
    if not strange:
        return ""
    shown = ", ".join(f"{value} ({pixels[value]} px)" for value in strange[:SHOWN])
    return (
        f"the mask has values outside the class table: {shown}; allowed are {len(table)} ids,"
        f" {min(table.ids)}..{max(table.ids)}, and {table.ignore} for ignored pixels. Save class ids,"
        " not colours"
    )


def _check(table: ClassTable, novel_ids: tuple[int, ...]) -> None:
    if table.background_id != 0:
        has = "none" if table.background_id is None else f"{table.background_id} as background"
        raise DataError(
            f"POP needs a class of the kind background with the id 0, the class table has {has}: its masks"
            " must show background as 0, and classes.csv name that class with the kind background"
        )
    names = [table.name_of(number) for number in novel_ids]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"{', '.join(repeated)}: listed more than once as novel; list every class once")
    if 0 in novel_ids:
        raise ConfigError(f"{table.name_of(0)!r} is the background, which is never novel; do not list it")
    if len(novel_ids) >= len(table.foreground_ids):
        raise ConfigError(
            f"the fold makes all {len(novel_ids)} classes beside the background novel; leave one as base"
        )
    if len(table) > MOST_CLASSES:
        raise ConfigError(
            f"{len(table)} classes, at most {MOST_CLASSES} fit 8-bit maps; take a smaller class table"
        )


def _read_only(array: Any) -> Any:
    array.setflags(write=False)
    return array


def read_tables(classes: Path, dataset: FoldDataset) -> FoldTables:
    """The fold's classes. Raises ConfigError for a novel class that the data set does not have."""
    return FoldTables.make(ClassTable.read(classes), novel=dataset.novel)
