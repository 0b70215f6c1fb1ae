"""Which classes of a split have masks, and maps of mask values to indices (simformer.md 1.1). No torch.

A class index is the position in the class table; base and novel classes share the indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anyshot.data.classes import IGNORE_16_BIT, ClassTable
from anyshot.data.manifest import Sample
from anyshot.errors import ConfigError, DataError
from anyshot.ops.metrics import Roles
from anyshot.simformer.options import WeakDataset

IGNORE = 255
MOST_CLASSES = 254  # indices are uint8, 255 is taken


@dataclass(frozen=True)
class WeakTables:
    """A class table and which of its classes are novel, as indices, ascending.

    Raises ConfigError for a novel background or no base class, DataError for more than 254 classes.
    """

    table: ClassTable
    novel: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.table) > MOST_CLASSES:
            raise DataError(f"SimFormer works with at most {MOST_CLASSES} classes, found {len(self.table)}")
        if any(self.table.kinds[index] == "background" for index in self.novel):
            raise ConfigError("the background class cannot be novel: no image label names it")
        if len(self.novel) == len(self.table):
            raise ConfigError(f"the split makes all {len(self.table)} classes novel; leave base classes")

    @classmethod
    def make(cls, table: ClassTable, novel: Sequence[str]) -> WeakTables:
        """The tables of novel classes by name. Raises ConfigError, naming unknown classes too."""
        return cls(table, tuple(sorted(table.index_of[number] for number in table.ids_of(novel))))

    @cached_property
    def base(self) -> tuple[int, ...]:
        """Indices of the base classes, ascending; a background is one of them."""
        novel = set(self.novel)
        return tuple(index for index in range(len(self.table)) if index not in novel)

    @cached_property
    def is_novel(self) -> NDArray[np.bool_]:
        """(K,): which class indices are novel."""
        found = np.zeros(len(self.table), dtype=bool)
        found[list(self.novel)] = True
        return found

    @property
    def roles(self) -> Roles:
        return Roles(base=self.base, novel=self.novel)

    @cached_property
    def lut(self) -> NDArray[np.uint8]:
        """Mask value to class index, 255 for all other values: (256,) or (65536,)."""
        return self.table.lookup(IGNORE).astype(np.uint8)

    @cached_property
    def base_lut(self) -> NDArray[np.uint8]:
        """Mask value to class index of base classes; novel, void and all other values give 255."""
        lut = self.lut.copy()
        lut[np.isin(lut, self.novel)] = IGNORE
        return lut

    def ids_of(self, indices: NDArray[np.uint8]) -> NDArray[Any]:
        """Class indices, 255 = none, as values of the data set's masks: uint8 or uint16."""
        wide = max(self.table.ids) >= IGNORE
        ids = np.full(256, IGNORE_16_BIT if wide else IGNORE, dtype=np.uint16 if wide else np.uint8)
        ids[: len(self.table)] = self.table.ids
        return ids[indices]

    def labels_of(self, sample: Sample) -> tuple[list[int], list[int]]:
        """Indices of the base and of the novel classes that an image's labels name, each ascending."""
        found = sorted(self.table.index_of[number] for number in sample.labels)
        novel = set(self.novel)
        return [index for index in found if index not in novel], [index for index in found if index in novel]


def read_tables(classes: Path, dataset: WeakDataset) -> WeakTables:
    """The tables of a split over the classes of a data set."""
    return WeakTables.make(ClassTable.read(classes), dataset.novel)
