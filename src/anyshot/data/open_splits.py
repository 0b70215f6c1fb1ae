"""Open-world splits that are shipped: which classes no training stage sees, and which of them are evaluated.

No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import yaml

from anyshot.errors import ConfigError, DataError

OPEN_SCHEMES: Final = ("cityscapes_open", "camvid_open", "scenes_open")


@dataclass(frozen=True)
class OpenSplit:
    """Names of the classes that training does not see; all others are known.

    `novel` are learnt from support images and evaluated, in the order of their evaluation indices. `ignored`
    are neither: their ground truth is ignored (raml.md section 1.3, split 16+1).
    """

    name: str
    novel: tuple[str, ...]
    ignored: tuple[str, ...]


def open_splits(scheme: str) -> dict[str, OpenSplit]:
    """The splits of a scheme by name, in order. Raises ConfigError for an unknown scheme."""
    return dict(_load(scheme))


def open_split(scheme: str, split: str) -> OpenSplit:
    """One split of a scheme. Raises ConfigError naming the schemes or the splits there are."""
    splits = _load(scheme)
    if split not in splits:
        raise ConfigError(
            f"scheme {scheme!r} has no split {split!r}; it has {', '.join(splits)}"
            " (in YAML, quote names like '16_3')"
        )
    return splits[split]


@cache
def _load(scheme: str) -> dict[str, OpenSplit]:
    if scheme not in OPEN_SCHEMES:
        raise ConfigError(f"scheme {scheme!r} is unknown; the schemes are {', '.join(OPEN_SCHEMES)}")
    text = resources.files("anyshot.data").joinpath("splits", f"{scheme}.yaml").read_text(encoding="utf-8")
    return checked_open_splits(yaml.safe_load(text), scheme)


def checked_open_splits(content: dict[str, Any], scheme: str) -> dict[str, OpenSplit]:
    """The splits of a file, after its own asserted counts have been verified.

    Raises DataError when they do not hold, or the novel classes of a split are not those evaluated and those
    ignored, each once.
    """
    rows: dict[str, dict[str, list[str]]] = content["splits"]
    found = {
        "splits": len(rows),
        "distinct_novel_classes": len({name for row in rows.values() for name in row["novel"]}),
        "novel": {name: len(row["novel"]) for name, row in rows.items()},
        "ignore_at_eval": {name: len(row.get("ignore_at_eval", [])) for name, row in rows.items()},
    }
    if found != content["asserted"]:
        raise DataError(
            f"splits/{scheme}.yaml is damaged: found {found}, the file itself asserts {content['asserted']}"
        )
    return {name: _open_split(name, row, scheme) for name, row in rows.items()}


def _open_split(name: str, row: dict[str, list[str]], scheme: str) -> OpenSplit:
    ignored = tuple(row.get("ignore_at_eval", []))
    novel = tuple(row.get("eval_novel", row["novel"]))
    if sorted((*novel, *ignored)) != sorted(set(row["novel"])):
        raise DataError(
            f"splits/{scheme}.yaml is damaged: in the split {name}, novel {row['novel']} is not eval_novel"
            f" {list(novel)} and ignore_at_eval {list(ignored)} together"
        )
    return OpenSplit(name, novel, ignored)
