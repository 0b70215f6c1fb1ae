"""Processing of class names before lists are unified, from editable tables of synonyms (larvseg.md 1.4).

No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from anyshot.data.class_lists import ClassList
from anyshot.errors import ConfigError, DataError

# coco_stuff: the published "processed" names; coco_stuff_older: those of runs until November 2022;
# original: as they are; spelling: one spelling for all lists, not published.
SHIPPED_RULES: Final = ("coco_stuff", "coco_stuff_older", "original", "spelling")
SWITCHES: Final = ("drop_after_hyphen", "unify_separators")
KEYS: Final = (*SWITCHES, "renames")
SEPARATORS: Final = str.maketrans("-_", "  ")


@dataclass(frozen=True)
class NameRules:
    """What is done to every name, in this order.

    renames: {name: new name}; a name that is listed is replaced and keeps the hyphens of its new name.
    drop_after_hyphen: any other name loses its first hyphen and what follows.
    unify_separators: hyphens and underscores become blanks, runs of blanks one.
    """

    renames: Mapping[str, str]
    drop_after_hyphen: bool = False
    unify_separators: bool = False

    def name(self, name: str) -> str:
        """The processed name."""
        found = self.renames.get(name)
        if found is None:
            found = name.split("-")[0] if self.drop_after_hyphen else name
        return " ".join(found.translate(SEPARATORS).split()) if self.unify_separators else found

    def apply(self, classes: ClassList) -> ClassList:
        """The list with processed names; ids, and the names it had first, stay as they are.

        Names that become equal are one thing from then on: their row's multiplicity. Raises DataError when a
        name becomes empty.
        """
        return replace(classes, names=tuple(self.name(name) for name in classes.names))


def shipped_rules(name: str) -> NameRules:
    """A table of `SHIPPED_RULES`. Raises ConfigError for another name."""
    if name not in SHIPPED_RULES:
        raise ConfigError(
            f"name processing {name!r} is unknown; shipped are {', '.join(SHIPPED_RULES)}; read a table of"
            " your own with `read_rules`"
        )
    return _shipped(name)


@cache
def _shipped(name: str) -> NameRules:
    file = resources.files("anyshot.data").joinpath("synonyms", f"{name}.yaml")
    return _from_content(yaml.safe_load(file.read_text(encoding="utf-8")), file.name)


def read_rules(path: Path) -> NameRules:
    """Read a table of your own: `drop_after_hyphen`, `unify_separators`, `renames`; what is left out is off.

    Raises DataError when the file is missing or not to be understood.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such table of synonyms (seen from {Path.cwd()}); correct the path, or take a shipped"
            f" one: {', '.join(SHIPPED_RULES)}"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: the table of synonyms cannot be read ({error}); mend the file") from error
    return _from_content(content, str(path))


def _from_content(content: Any, where: str) -> NameRules:
    found = content if isinstance(content, dict) else {"": content}
    unknown = [str(key) for key in found if key not in KEYS]
    if unknown:
        raise DataError(f"{where}: found the key {unknown[0]!r}; a table of synonyms has {', '.join(KEYS)}")
    for key in SWITCHES:
        if not isinstance(found.get(key, False), bool):
            raise DataError(f"{where}: `{key}` is {found[key]!r}; write true or false")
    renames = found.get("renames") or {}
    texts = [*renames, *renames.values()] if isinstance(renames, dict) else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{where}: `renames` is not {{name: new name}}, all of it text; quote yes, no and 42")
    return NameRules(MappingProxyType(dict(renames)), **{key: found.get(key, False) for key in SWITCHES})
