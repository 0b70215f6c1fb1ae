"""The class table: which ids a data set's masks hold, and what they mean.

Masks hold the data set's own ids; networks work on indices, the positions in the table.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anyshot.data.files import write_bytes
from anyshot.errors import ConfigError, DataError

KINDS: Final = ("thing", "stuff", "background")
IGNORE_8_BIT: Final = 255
IGNORE_16_BIT: Final = 65535
COLUMNS: Final = ("id", "name", "kind", "red", "green", "blue")

Colour = tuple[int, int, int]


def voc_colour(class_id: int) -> Colour:
    """The PASCAL VOC colour of an id: its bits, dealt out to red, green and blue from the top bit down."""
    red = green = blue = 0
    for bit in range(8):
        red |= (class_id >> 3 * bit & 1) << 7 - bit
        green |= (class_id >> 3 * bit + 1 & 1) << 7 - bit
        blue |= (class_id >> 3 * bit + 2 & 1) << 7 - bit
    return red, green, blue


@dataclass(frozen=True)
class ClassTable:
    """Ids, names, kinds (`thing`, `stuff`, `background`) and colours (0..255) of the classes, in table order.

    Raises DataError for repeated ids or names, ids outside 0..65534 or equal to the ignore value, unknown
    kinds, colours outside 0..255, and more than one background class.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    colours: tuple[Colour, ...]

    def __post_init__(self) -> None:
        problem = _problem_of(self)
        if problem:
            raise DataError(f"class table: {problem}")

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        *,
        ids: Sequence[int] | None = None,
        kinds: Sequence[str] | None = None,
        colours: Sequence[Colour] | None = None,
    ) -> ClassTable:
        """A table of names: ids 0, 1, ...; kind `thing` (`background` where so named), VOC colours."""
        numbers = tuple(range(len(names))) if ids is None else tuple(ids)
        return cls(
            ids=numbers,
            names=tuple(names),
            kinds=tuple(_default_kind(name) for name in names) if kinds is None else tuple(kinds),
            colours=tuple(voc_colour(number) for number in numbers) if colours is None else tuple(colours),
        )

    @classmethod
    def read(cls, path: Path) -> ClassTable:
        """Read `classes.csv` (id, name, optionally kind and red, green, blue; UTF-8). Raises DataError."""
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such file; a class table is a csv file: id,name[,kind,red,green,blue]"
            ) from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error}); save the table as UTF-8") from error
        try:
            return _from_rows(list(csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)))
        except (DataError, csv.Error) as error:
            raise DataError(f"{path}: {error}") from error

    def write(self, path: Path) -> None:
        """Write `classes.csv` with all columns, atomically."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, name, kind, colour in zip(self.ids, self.names, self.kinds, self.colours, strict=True):
            writer.writerow([number, name, kind, *colour])
        write_bytes(path, text.getvalue().encode("utf-8"))

    def to_json(self) -> list[dict[str, Any]]:
        """One object per class: id, name, kind, colour."""
        rows = zip(self.ids, self.names, self.kinds, self.colours, strict=True)
        return [
            {"id": number, "name": name, "kind": kind, "colour": list(colour)}
            for number, name, kind, colour in rows
        ]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> ClassTable:
        """The table of what `to_json` gave. Raises DataError, KeyError, TypeError or ValueError."""
        return cls(
            ids=tuple(row["id"] for row in rows),
            names=tuple(row["name"] for row in rows),
            kinds=tuple(row["kind"] for row in rows),
            colours=tuple((red, green, blue) for red, green, blue in (row["colour"] for row in rows)),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ignore(self) -> int:
        """The value of ignored pixels in this table's masks: 255, or 65535 where ids reach 255."""
        return IGNORE_8_BIT if max(self.ids, default=0) < IGNORE_8_BIT else IGNORE_16_BIT

    @property
    def background_id(self) -> int | None:
        """The id of the background class, None where the table has none."""
        return next((n for n, kind in zip(self.ids, self.kinds, strict=True) if kind == "background"), None)

    @property
    def foreground_ids(self) -> tuple[int, ...]:
        """All ids but the background's, in table order."""
        return tuple(n for n, kind in zip(self.ids, self.kinds, strict=True) if kind != "background")

    @cached_property
    def index_of(self) -> dict[int, int]:
        """Position in the table by id."""
        return {number: index for index, number in enumerate(self.ids)}

    def name_of(self, class_id: int) -> str:
        """The name of an id. Raises DataError for an id the table does not have."""
        if class_id not in self.index_of:
            raise DataError(f"class id {class_id} is not in the class table (ids {_shorten(self.ids)})")
        return self.names[self.index_of[class_id]]

    def ids_of(self, names: Iterable[str]) -> list[int]:
        """The ids of names, in the order given. Raises ConfigError naming unknown ones and close matches."""
        by_name = dict(zip(self.names, self.ids, strict=True))
        wanted = list(names)
        unknown = [name for name in wanted if name not in by_name]
        if unknown:
            hints = "; ".join(_hint(name, self.names) for name in unknown)
            raise ConfigError(
                f"unknown class {hints}. The table has {len(self)} classes: {_shorten(self.names)}"
            )
        return [by_name[name] for name in wanted]

    def lookup(self, ignore_index: int = 255) -> NDArray[np.int64]:
        """Map from raw mask values to indices: (65536,), `ignore_index` for values that are no class id."""
        table = np.full(65536, ignore_index, dtype=np.int64)
        table[np.asarray(self.ids, dtype=np.int64)] = np.arange(len(self))
        return table

    def palette(self) -> list[int]:
        """768 numbers, red green blue of the values 0..255; VOC colours where the table has no class."""
        colours = [voc_colour(value) for value in range(256)]
        for number, colour in zip(self.ids, self.colours, strict=True):
            if number < 256:
                colours[number] = colour
        return [part for colour in colours for part in colour]

    def digest(self) -> str:
        """sha256 (hex) of ids, names and kinds. Colours do not count: they change no result."""
        lines = [f"{n}\t{name}\t{k}" for n, name, k in zip(self.ids, self.names, self.kinds, strict=True)]
        return hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()


def _default_kind(name: str) -> str:
    return "background" if name.strip().lower() == "background" else "thing"


def _problem_of(table: ClassTable) -> str | None:
    """What is wrong with a table, None where nothing is."""
    if not table.ids:
        return "it has no classes"
    for what, values in (("id", table.ids), ("name", table.names)):
        repeated = (
            sorted({str(value) for value in values if values.count(value) > 1}) if _repeats(values) else []
        )
        if repeated:
            return f"the {what} {_shorten(repeated)} occurs more than once"
    if any(not name.strip() for name in table.names):
        return "a class has no name"
    outside = [n for n in table.ids if not 0 <= n < IGNORE_16_BIT]
    if outside:
        return f"id {outside[0]} is outside 0..65534 (65535 means ignore)"
    if max(table.ids) == IGNORE_8_BIT and len(table) < IGNORE_8_BIT:
        return "id 255 means ignore in 8-bit masks; leave it out of the table"
    unknown = [kind for kind in table.kinds if kind not in KINDS]
    if unknown:
        return f"kind {unknown[0]!r} is not one of {', '.join(KINDS)}"
    if table.kinds.count("background") > 1:
        return "more than one class is of the kind background"
    if any(not 0 <= part <= 255 for colour in table.colours for part in colour):
        return "a colour part is outside 0..255"
    return None


def _repeats(values: Sequence[object]) -> bool:
    return len(set(values)) < len(values)


def _from_rows(rows: list[dict[str, str | None]]) -> ClassTable:
    """A table from the rows of a csv file; missing kinds and colours get their defaults."""
    ids, names, kinds, colours = [], [], [], []
    for line, row in enumerate(rows, start=2):
        name = (row.get("name") or "").strip()
        number = _whole(row.get("id"), f"line {line}, column id")
        parts = [row.get(part) for part in ("red", "green", "blue")]
        given = [_whole(part, f"line {line}, colour") for part in parts if part not in (None, "")]
        if len(given) not in (0, 3):
            raise DataError(f"line {line}: give red, green and blue, or none of them")
        ids.append(number)
        names.append(name)
        kinds.append((row.get("kind") or "").strip() or _default_kind(name))
        colours.append((given[0], given[1], given[2]) if given else voc_colour(number))
    return ClassTable(ids=tuple(ids), names=tuple(names), kinds=tuple(kinds), colours=tuple(colours))


def _whole(text: str | None, where: str) -> int:
    try:
        return int((text or "").strip())
    except ValueError:
        raise DataError(f"{where}: found {text!r}, expected a whole number") from None


def _hint(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"{name!r}" + (f" (did you mean {', '.join(close)}?)" if close else "")


def _shorten(values: Iterable[object], limit: int = 30) -> str:
    listed = [str(value) for value in values]
    return ", ".join(listed[:limit]) + (f", ... ({len(listed)} in all)" if len(listed) > limit else "")
