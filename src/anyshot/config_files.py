"""Configuration files as plain values: text that is no YAML, or no mapping of keys, is a ConfigError."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from anyshot.errors import ConfigError

LARGEST: Final = 1_000_000  # values of a configuration; YAML's anchors make billions of a few lines


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file as `plain` values, none for an empty one. Raises ConfigError."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"configuration {path} does not exist (seen from {Path.cwd()}); correct its path"
        ) from None
    # ValueError: not UTF-8, a date such as 2024-13-01, a number of thousands of digits.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: found {type(content).__name__}, expected keys with values, as in seed: 0")
    return plain(content)


def plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON could hold it: keys are text, and so is what YAML has beside, such as dates.

    Raises ConfigError for one that contains itself, or is too large by its anchors.
    """
    left = LARGEST

    def copied(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ConfigError(
                f"the configuration has more than {LARGEST:,} values: is a YAML anchor (&name) repeated in"
                " anchors that are repeated themselves?"
            )
        if isinstance(value, Mapping):
            return {_text(key): copied(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [copied(one) for one in value]
        return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

    try:
        return {_text(key): copied(value) for key, value in content.items()}
    except RecursionError:
        raise ConfigError(
            "the configuration is nested too deeply: does a YAML alias (*name) stand inside its own anchor?"
        ) from None


def _text(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key, default=str).strip('"')
