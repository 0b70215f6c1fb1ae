"""One form for everything that can be wrong with a configuration: `key.path: found X, expected Y`.

What was expected is told from the JSON schema of the options classes, so a message names the bounds and
choices that the class declares, whatever kind of error the validation met.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

SHOWN = 10  # errors told at once


def message(lines: Sequence[str]) -> str:
    """The text of a ConfigError: the first ten problems, one per line."""
    head = (
        "the configuration has a mistake"
        if len(lines) == 1
        else f"the configuration has {len(lines)} mistakes"
    )
    shown = [f"  {line}" for line in lines[:SHOWN]]
    if len(lines) > SHOWN:
        shown.append(f"  ... and {len(lines) - SHOWN} more")
    return "\n".join([f"{head}:", *shown])


def found(value: Any) -> str:
    """A value as it would stand in the configuration, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def unknown(word: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown word: the closest known one, and all that are known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    guess = f'did you mean "{close[0]}"? ' if close else ""
    return f"{guess}allowed: {', '.join(known) or 'nothing'}"


def translate(error: ValidationError, content: Any, schema: Mapping[str, Any]) -> list[str]:
    """The problems of a validation, one line each, in the order of the configuration.

    `content` is the configuration as it was read, `schema` the JSON schema of the class that rejected it.
    """
    lines: dict[str, None] = {}  # an ordered set: a union reports one error per branch at the same key
    for problem in error.errors(include_url=False):
        missing = problem["type"] == "missing"
        path = _path(problem["loc"], content, keep_last=missing or problem["type"] == "extra_forbidden")
        lines.setdefault(_line(problem, path, content, schema))
    return list(lines)


def _line(problem: Mapping[str, Any], path: list[str | int], content: Any, schema: Mapping[str, Any]) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    key = dotted(path) or "(the whole configuration)"
    if kind == "extra_forbidden":
        group = _branch(_resolve(schema, schema, path[:-1], content), schema, {})
        return f"{key}: unknown key; {unknown(str(path[-1]), group.get('properties', {}))}"
    if kind == "missing":
        expected = describe(_resolve(schema, schema, path, content), schema)
        return f"{key}: not given, expected {expected}"
    if kind == "union_tag_not_found":
        tag = str(context["discriminator"]).strip("'")
        return f"{key}.{tag}: not given, expected one of {_tags(schema, path, content)}"
    if kind == "union_tag_invalid":
        tag = str(context["discriminator"]).strip("'")
        return f"{key}.{tag}: found {found(context['tag'])}, expected one of {_tags(schema, path, content)}"
    value = problem["input"]
    if kind in ("value_error", "assertion_error"):
        text = str(context.get("error", problem["msg"]))
        return f"{key}: {text}" if isinstance(value, Mapping) else f"{key}: found {found(value)}: {text}"
    expected = describe(_resolve(schema, schema, path, content), schema) or problem["msg"]
    return f"{key}: found {found(value)}, expected {expected}{_hint(value, expected)}"


def dotted(path: Sequence[str | int]) -> str:
    """`["retab", "cam", "scales", 0]` as `retab.cam.scales[0]`; a key that cannot be seen in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        visible = part.isprintable() and part == part.strip() != ""
        text += ("." if text else "") + (part if visible else json.dumps(part))
    return text


def _hint(value: Any, expected: str) -> str:
    if not isinstance(value, str) or not ("number" in expected or "integer" in expected):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    return f" (YAML reads this as text: write {number:.15g}, without quotes and not in a form like 1e-3)"


def _path(location: Sequence[str | int], content: Any, *, keep_last: bool) -> list[str | int]:
    """The keys of `location`, without the names of union branches that the validation puts between them."""
    path: list[str | int] = []
    for position, part in enumerate(location):
        if _has(content, part):
            content = content[part]
        elif not (keep_last and position == len(location) - 1):
            continue
        path.append(part)
    return path


def _has(content: Any, part: str | int) -> bool:
    if isinstance(content, Mapping):
        return part in content
    return isinstance(content, list) and isinstance(part, int) and part < len(content)


def _tags(schema: Mapping[str, Any], path: Sequence[str | int], content: Any) -> str:
    node = _resolve(schema, schema, path, content, pick=False)
    return ", ".join(sorted(node.get("discriminator", {}).get("mapping", {})))


def _resolve(
    node: Mapping[str, Any],
    root: Mapping[str, Any],
    path: Sequence[str | int],
    content: Any,
    *,
    pick: bool = True,
) -> Mapping[str, Any]:
    """The part of the schema that rules the key at `path`; an empty one when the schema does not say."""
    for part in path:
        node = _branch(_follow(node, root), root, content)
        if isinstance(part, int):
            node = node.get("items", {})
        else:
            extra = node.get("additionalProperties", {})
            node = node.get("properties", {}).get(part, extra if isinstance(extra, Mapping) else {})
        content = content[part] if _has(content, part) else None
    node = _follow(node, root)
    return _branch(node, root, content) if pick and "discriminator" in node else node


def _follow(node: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in node:
        node = root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _branch(node: Mapping[str, Any], root: Mapping[str, Any], content: Any) -> Mapping[str, Any]:
    """The branch of a union that `content` means: by its tag, else the first one that has keys or items."""
    if "discriminator" in node and isinstance(content, Mapping):
        tag = content.get(node["discriminator"]["propertyName"])
        reference = node["discriminator"]["mapping"].get(tag)
        return _follow({"$ref": reference}, root) if reference else node
    for option in node.get("anyOf", []):
        branch = _follow(option, root)
        if {"properties", "items", "additionalProperties"} & set(branch):
            return branch
    return node


def describe(node: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """What a schema allows, in words: `an integer >= 2`, `one of "mask", "labels"`."""
    node = _follow(node, root)
    if "enum" in node:
        return f"one of {', '.join(found(value) for value in node['enum'])}"
    if "const" in node:
        return found(node["const"])
    if "anyOf" in node or "oneOf" in node:
        options = node.get("anyOf") or node.get("oneOf") or []
        return " or ".join(dict.fromkeys(describe(option, root) for option in options))
    kind = node.get("type", "")
    if kind in ("integer", "number"):
        return f"{'an integer' if kind == 'integer' else 'a number'}{_bounds(node)}"
    if kind == "array":
        return f"a list{_length(node)} of {_plural(describe(node.get('items', {}), root))}"
    if kind == "object":
        keys = node.get("properties")
        return f"a group of the keys {', '.join(keys)}" if keys else "a mapping of names to values"
    words = {"boolean": "true or false", "null": "null", "string": "text"}
    if kind == "string" and "pattern" in node:
        return f"text of the form {node['pattern']}"
    return words.get(kind, "another value")


def _bounds(node: Mapping[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {node[key]:g}" for key, sign in signs.items() if key in node]
    return f" {' and '.join(bounds)}" if bounds else ""


def _length(node: Mapping[str, Any]) -> str:
    low, high = node.get("minItems"), node.get("maxItems")
    if low is None and high is None:
        return ""
    if low == high:
        return f" of exactly {low} items, each one"
    return f" (at least {low})" if high is None else f" ({low or 0} to {high} items)"


def _plural(words: str) -> str:
    for singular, plural in (("an integer", "integers"), ("a number", "numbers"), ("text", "texts")):
        if words.startswith(singular):
            return plural + words.removeprefix(singular)
    return words
