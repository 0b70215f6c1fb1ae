"""Lists of class names as files: those of the published data sets, and a user's own. No torch here.

Names are what a vocabulary unifies (larvseg.md 1.4), ids what it is keyed by where a list has them (synsets).
A name list has one entry per class, in the order of the class indices.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from anyshot.data.cityscapes_labels import cityscapes_table
from anyshot.data.coco_stuff_labels import coco_stuff_table
from anyshot.errors import ConfigError, DataError

DIGITS: Final = 16  # of a digest
MOST_LISTED: Final = 5  # names in an error message
# Lists that are the names of a reader's class table as they are.
TABLES: Final[dict[str, Callable[[], tuple[str, ...]]]] = {
    "coco_stuff171": lambda: coco_stuff_table().names,
    "cityscapes19": lambda: cityscapes_table().names,
}
FILES: Final = ("ade150", "ade847", "pascal_context59", "pascal_context459", "in124")
SHIPPED: Final = (*FILES, *TABLES)
SUFFIXES: Final = (".yaml", ".yml", ".json", ".csv", ".txt")


def digest_of(words: Iterable[str]) -> str:
    """The digest of names (larvseg.md 1.5): sorted, joined by newlines, first 16 hex digits of sha256.

    It does not depend on the order; a repeated name counts as often as it occurs.
    """
    return hashlib.sha256("\n".join(sorted(words)).encode("utf-8")).hexdigest()[:DIGITS]


@dataclass(frozen=True)
class ClassList:
    """The classes of one data set by class index.

    title: what the list is called in a vocabulary and in messages.
    names: one per class; equal names mean one thing, and are what lists are unified by.
    ids: one per class, None where a class has no id of its own; a synset id such as `n02691156`. Classes with
        ids are told apart by them, and their names are for display only (larvseg.md 1.7).
    originals: the names before any renaming.

    Raises DataError when the list is empty, a name is blank, an id occurs twice, or the numbers differ.
    """

    title: str
    names: tuple[str, ...]
    ids: tuple[str | None, ...]
    originals: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError(f"class list {self.title!r}: it has no classes; give one name per class")
        if not len(self.names) == len(self.ids) == len(self.originals):
            counts = f"{len(self.names)} names, {len(self.ids)} ids and {len(self.originals)} original names"
            raise DataError(f"class list {self.title!r}: found {counts}; expected one of each per class")
        blank = [index for index, name in enumerate(self.names) if not name.strip()]
        if blank:
            raise DataError(f"class list {self.title!r}: class {blank[0]} has no name; give it one")
        _refuse_repeats([i for i in self.ids if i is not None], f"class list {self.title!r}", "id")

    @classmethod
    def of(cls, title: str, names: Sequence[str], *, ids: Sequence[str | None] | None = None) -> ClassList:
        """A list of names as they are, each of them once unless there are ids. Raises DataError."""
        given: tuple[str | None, ...] = (None,) * len(names) if ids is None else tuple(ids)
        without = [name for name, key in zip(names, given, strict=False) if key is None]
        _refuse_repeats(without, f"class list {title!r}", "name")
        return cls(title, tuple(names), given, tuple(names))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """The digest of the distinct names."""
        return digest_of(set(self.names))

    def with_ids(self, ids: Mapping[str, str]) -> ClassList:
        """The same list with ids by name; names that `ids` lacks keep theirs. Raises DataError, ConfigError.

        ids: {name: id}, e.g. that of `ade150` from the list `in124`.
        """
        self.indices_of(ids)
        found = tuple(ids.get(name, key) for name, key in zip(self.names, self.ids, strict=True))
        return ClassList(self.title, self.names, found, self.originals)

    def ids_by_name(self) -> dict[str, str]:
        """{name: id} of the classes that have an id."""
        return {name: key for name, key in zip(self.names, self.ids, strict=True) if key is not None}

    def indices_of(self, names: Iterable[str]) -> list[int]:
        """The class indices of names, e.g. of a subset, in the order given; all of a name that occurs twice.

        Raises ConfigError naming those that the list lacks, with close matches.
        """
        found: dict[str, list[int]] = {}
        for index, name in enumerate(self.names):
            found.setdefault(name, []).append(index)
        wanted = list(names)
        refuse_unknown(wanted, known=found, where=f"class list {self.title!r}")
        return [index for name in wanted for index in found[name]]


def shipped_list(name: str) -> ClassList:
    """A list of `SHIPPED`, verified against the count and digest that its file asserts.

    Raises ConfigError for another name, DataError when the file is damaged.
    """
    if name not in SHIPPED:
        raise ConfigError(f"class list {name!r} is unknown; shipped are {', '.join(SHIPPED)}")
    return _shipped(name)


@cache
def _shipped(name: str) -> ClassList:
    if name in TABLES:
        return ClassList.of(name, TABLES[name]())
    file = resources.files("anyshot.data").joinpath("vocabularies", f"{name}.yaml")
    return _from_content(yaml.safe_load(file.read_text(encoding="utf-8")), name, file.name)


def read_class_list(path: Path, *, title: str | None = None, classes: int | None = None) -> ClassList:
    """Read a class list of your own; `title` is the file's stem where not given.

    The suffix says how it is written:
        .yaml  as the shipped ones: `names: [...]` or `synsets: {name: id}`; `asserted` may be left out
        .json  a list of names, or {name: id}; names that several ids share need the csv form
        .csv   columns `name` and, if the classes have ids, `id` or `wnid`; a column `id` of whole numbers is
               that of a class table, and is passed over
        .txt   one name per line

    Raises DataError when the file is missing, not to be understood, has repeated names, or has another number
    of classes than `classes`.
    """
    name = path.stem if title is None else title
    if not path.is_file():
        raise DataError(
            f"{path}: no such file (seen from {Path.cwd()}); correct the path of the class list, or take a"
            f" shipped one: {', '.join(SHIPPED)}"
        )
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: class lists are read from {', '.join(SUFFIXES)}; rename the file")
    try:
        found = _parsed(path, path.read_text(encoding="utf-8-sig"), name)
    except (UnicodeDecodeError, yaml.YAMLError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: the class list cannot be read ({error}); mend the file") from error
    if classes is not None and len(found) != classes:
        raise DataError(
            f"{path}: found {len(found)} classes, expected {classes}; use the list that belongs to this data"
        )
    return found


def _parsed(path: Path, text: str, title: str) -> ClassList:
    kind = path.suffix.lower()
    if kind == ".txt":
        return ClassList.of(title, [line.strip() for line in text.splitlines() if line.strip()])
    if kind == ".csv":
        return _from_rows(list(csv.DictReader(text.splitlines(), skipinitialspace=True)), title, path)
    content = json.loads(text) if kind == ".json" else yaml.safe_load(text)
    if kind == ".json":
        content = {"synsets" if isinstance(content, dict) else "names": content}
    return _from_content(content, title, str(path))


def _from_content(content: Any, title: str, where: str) -> ClassList:
    """The list of a YAML or JSON file's content, after what it asserts has been verified."""
    content = content if isinstance(content, dict) else {}
    names, synsets = content.get("names"), content.get("synsets")
    if synsets is not None:
        names = list(synsets) if isinstance(synsets, dict) else None
    ids = list(synsets.values()) if isinstance(synsets, dict) else None
    if not isinstance(names, list) or not all(isinstance(text, str) for text in (*names, *(ids or []))):
        raise DataError(
            f"{where}: no class list; expected `names: [...]` or `synsets: {{name: id}}`, all of it text"
            " (quote names such as yes, no and 42)"
        )
    found = ClassList.of(title, names, ids=ids)
    asserted = content.get("asserted")
    actual = {"classes": len(found), "digest": found.digest}
    if asserted is not None and asserted != actual:
        raise DataError(
            f"{where}: the list has {actual}, the file itself asserts {asserted}; it is damaged, or it was"
            " edited: then take `asserted` out of the copy"
        )
    return found


def _from_rows(rows: list[dict[str, Any]], title: str, path: Path) -> ClassList:
    if not rows or "name" not in rows[0]:
        raise DataError(f"{path}: expected a column `name` in the first line, and a row per class")
    names = [(row["name"] or "").strip() for row in rows]
    column = next((c for c in ("wnid", "id") if c in rows[0]), None)
    ids = [(row[column] or "").strip() for row in rows] if column else []
    if column == "wnid" or not all(text.isdigit() for text in ids):
        return ClassList.of(title, names, ids=[text or None for text in ids])
    return ClassList.of(title, names)


def refuse_unknown(wanted: Iterable[str], *, known: Iterable[str], where: str) -> None:
    """Raise ConfigError naming the words that are not among the known ones, each with close matches."""
    among = known if isinstance(known, Mapping) else dict.fromkeys(known)
    unknown = [word for word in dict.fromkeys(wanted) if word not in among]
    if not unknown:
        return
    hints = [_hint(word, list(among)) for word in unknown[:MOST_LISTED]]
    more = f" and {len(unknown) - MOST_LISTED} more" if len(unknown) > MOST_LISTED else ""
    raise ConfigError(
        f"{where} has {len(among)} names, but not {', '.join(hints)}{more}; correct the name, or add a"
        " synonym"
    )


def _hint(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return f"{word!r}" + (f" (did you mean {', '.join(close)}?)" if close else "")


def _refuse_repeats(words: Sequence[str], where: str, what: str) -> None:
    repeated = sorted(word for word, count in Counter(words).items() if count > 1)
    if repeated:
        shown = ", ".join(map(repr, repeated[:MOST_LISTED]))
        raise DataError(
            f"{where}: the {what} {shown} occurs more than once ({len(repeated)} such); give every class its"
            f" own {what}"
        )
