"""The maps of one open-world split: mask value to training index, mask value to evaluation index, and back.

Source: raml.md sections 1.3 to 1.5. Known are the classes that training sees, novel those learnt afterwards
from support images, ignored those that training does not see either but nobody evaluates. K is the number of
known classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from anyshot.data.classes import IGNORE_8_BIT, ClassTable, voc_colour
from anyshot.errors import ArtifactError, ConfigError, DataError

IGNORE: Final = 255  # in both maps, whatever the masks' own ignore value
MOST_CLASSES: Final = 255  # indices are uint8, and 255 is taken

Ids = NDArray[np.uint8] | NDArray[np.uint16]
A = TypeVar("A", bound=NDArray[Any])


@dataclass(frozen=True)
class SplitTables:
    """A class table and which of its ids are novel (in the order of their evaluation indices) and ignored.

    All else follows from these, and is computed when first asked for; arrays are read-only. A background
    class is known. Raises ConfigError for a class listed twice, a novel background, no known class, or more
    than 255 evaluated classes; DataError for an id that the table does not have.
    """

    table: ClassTable
    novel_ids: tuple[int, ...]
    ignored_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_unseen(self.table, (*self.novel_ids, *self.ignored_ids))
        if not self.known_ids:
            raise ConfigError(
                f"the split makes all {len(self.table)} classes novel or ignored; leave one known at least"
            )
        if len(self.eval_to_id) > MOST_CLASSES:
            raise ConfigError(
                f"{len(self.eval_to_id)} classes are evaluated, at most {MOST_CLASSES} fit 8-bit maps;"
                " take a smaller class table, or list classes under `ignored`"
            )

    @classmethod
    def make(cls, table: ClassTable, *, novel: Sequence[str], ignored: Sequence[str] = ()) -> SplitTables:
        """The tables of novel and ignored classes by name. Raises ConfigError, naming unknown classes too."""
        return cls(table, tuple(table.ids_of(novel)), tuple(table.ids_of(ignored)))

    @cached_property
    def known_ids(self) -> tuple[int, ...]:
        """Data set ids of the known classes, ascending."""
        unseen = {*self.novel_ids, *self.ignored_ids}
        return tuple(sorted(number for number in self.table.ids if number not in unseen))

    @property
    def known(self) -> int:
        """K, the number of known classes."""
        return len(self.known_ids)

    @property
    def meta(self) -> int:
        """The default of M, the number of meta channels: one more than there are unseen classes."""
        return len(self.novel_ids) + len(self.ignored_ids) + 1

    @cached_property
    def closed_to_id(self) -> Ids:
        """Data set id by training index: (K,), of the masks' dtype."""
        return self._ids(self.known_ids)

    @cached_property
    def eval_to_id(self) -> Ids:
        """Data set id by evaluation index: (K + novel,), of the masks' dtype. Known classes come first."""
        return self._ids((*self.known_ids, *self.novel_ids))

    @cached_property
    def closed_lut(self) -> NDArray[np.uint8]:
        """Mask value to training index 0..K-1; novel, ignored and all other values give 255.

        Shape (256,), or (65536,) where the data set's masks have 16 bits.
        """
        return self._lut(self.closed_to_id)

    @cached_property
    def eval_lut(self) -> NDArray[np.uint8]:
        """Mask value to evaluation index: known 0..K-1, then novel as listed; all other values give 255.

        Shape as `closed_lut`. It serves ground truth and predictions in data set ids alike: no prediction has
        an ignored class.
        """
        return self._lut(self.eval_to_id)

    @property
    def eval_names(self) -> tuple[str, ...]:
        """Names by evaluation index."""
        return tuple(self.table.name_of(int(number)) for number in self.eval_to_id)

    @property
    def eval_palette(self) -> list[int]:
        """768 numbers, red green blue by evaluation index; every class keeps its own colour (6.1, trap 14).

        Values that are no evaluation index have VOC's colours.
        """
        colours = [voc_colour(value) for value in range(256)]
        for index, number in enumerate(self.eval_to_id):
            colours[index] = self.table.colours[self.table.index_of[int(number)]]
        return [part for colour in colours for part in colour]

    def digest(self) -> str:
        """sha256 (hex) of everything in `to_json`, for checkpoints."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode("utf-8")).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """JSON types only. `closed` and `eval` are the two maps at the table's ids, in table order."""
        table = self.table
        return {
            "classes": table.to_json(),
            "novel_ids": list(self.novel_ids),
            "ignored_ids": list(self.ignored_ids),
            "known": self.known,
            "meta": self.meta,
            "closed": self.closed_lut[list(table.ids)].tolist(),
            "eval": self.eval_lut[list(table.ids)].tolist(),
            "eval_names": list(self.eval_names),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> SplitTables:
        """The tables of what `to_json` gave.

        Raises ArtifactError when it is incomplete, or its maps are not those of its classes.
        """
        try:
            table = ClassTable.from_json(content["classes"])
            found = cls(table, tuple(content["novel_ids"]), tuple(content["ignored_ids"]))
        except (KeyError, TypeError, ValueError, DataError, ConfigError) as error:
            raise ArtifactError(
                f"the saved split is damaged: {error!r}; make the artifact that holds it again"
            ) from error
        for key, value in found.to_json().items():
            if content.get(key) != value:
                raise ArtifactError(
                    f"the saved split is damaged: {key} is {content.get(key)}, its classes give {value};"
                    " make the artifact that holds it again"
                )
        return found

    def check(self, other: SplitTables) -> None:
        """Raise ArtifactError naming the first difference from `other`, the split of an artifact."""
        for (what, here), (_, there) in zip(self._facts(), other._facts(), strict=True):
            for number, (mine, theirs) in enumerate(zip_longest(here, there, fillvalue="none"), start=1):
                if mine != theirs:
                    raise ArtifactError(
                        f"the artifact belongs to another split: its {what} {number} is {theirs}, the"
                        f" configuration's is {mine} ({len(there)} and {len(here)} in all); use the split"
                        " it was trained with, or train again"
                    )

    def _facts(self) -> tuple[tuple[str, list[str]], ...]:
        """What determines the tables, in words, in the order of comparison."""
        table = self.table
        classes = zip(table.ids, table.names, table.kinds, table.colours, strict=True)
        rows = [f"{number} {name!r} ({kind}, colour {colour})" for number, name, kind, colour in classes]
        return (
            ("class", rows),
            ("novel class", [repr(table.name_of(number)) for number in self.novel_ids]),
            ("ignored class", [repr(table.name_of(number)) for number in self.ignored_ids]),
        )

    def _ids(self, numbers: Sequence[int]) -> Ids:
        if self.table.ignore == IGNORE_8_BIT:
            return _read_only(np.array(numbers, dtype=np.uint8))
        return _read_only(np.array(numbers, dtype=np.uint16))

    def _lut(self, index_to_id: Ids) -> NDArray[np.uint8]:
        lut = np.full(self.table.ignore + 1, IGNORE, dtype=np.uint8)
        lut[index_to_id] = np.arange(len(index_to_id), dtype=np.uint8)
        return _read_only(lut)


def _check_unseen(table: ClassTable, unseen: tuple[int, ...]) -> None:
    names = [table.name_of(number) for number in unseen]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"{', '.join(repeated)}: listed more than once among the novel and ignored classes; a class is"
            " either novel or ignored: list it once"
        )
    if table.background_id in unseen:
        raise ConfigError(
            f"{table.name_of(table.background_id)!r} is the background, which is always known; do not list it"
        )


def _read_only(array: A) -> A:
    array.setflags(write=False)
    return array


def read_tables(path: Path, classes: Path) -> SplitTables:
    """The tables of `split.json`; ArtifactError when they were made for another class table."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tables = SplitTables.from_json(content["tables"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no split ({error!r}): run raml_split again") from None
    if tables.table.digest() != ClassTable.read(classes).digest():
        raise ArtifactError(f"{path} was made for another class table than {classes}: run raml_split again")
    return tables
