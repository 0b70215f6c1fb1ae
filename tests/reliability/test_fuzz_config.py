"""Configurations at random: accepted as they are, or refused by a message that names the key."""

from __future__ import annotations

import copy
import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyshot.config import Config, load, main, merged
from anyshot.config_files import plain
from anyshot.errors import ConfigError
from tests.reliability.fuzz_cases import EDITS, Edits, cases, counted, edited

SECONDS = 10  # of CPU for one configuration
CHANGES = ("replace", "replace", "add", "add", "remove", "rename", "move", "repeat")
Place = tuple[str | int, ...]


@contextmanager
def time_limit() -> Iterator[None]:
    """A configuration that takes longer ends the tests with SIGPROF."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)


@cache
def bases() -> tuple[dict[str, Any], ...]:
    """The shipped configuration, and the published options of every system with the data that it names."""
    root = Path(__file__).resolve().parents[2]
    overlays = ["retab_voc", "raml_cityscapes", "pop_coco", "simformer_ade20k", "larvseg_ade847"]
    shipped = root / "config.yaml"
    return (
        merged([shipped]),
        *(merged([shipped, root / "config" / "paper" / f"{name}.yaml"]) for name in overlays),
    )


@cache
def words() -> tuple[list[str], list[Any]]:
    """Every key that an options class knows, and every value that one of them names."""
    keys: set[str] = set()
    values: list[Any] = []

    def gather(node: Any) -> None:
        if isinstance(node, dict):
            keys.update(node.get("properties", {}))
            values.extend(node.get("enum", []))
            values.extend(node[key] for key in ("const", "default") if key in node)
            for one in node.values():
                gather(one)
        elif isinstance(node, list):
            for one in node:
                gather(one)

    gather(Config.model_json_schema())
    return sorted(keys), values


def places_of(content: Any, path: Place = ()) -> list[Place]:
    """The paths of all values in a configuration."""
    found: list[Place] = [path] if path else []
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in entries:
        found += places_of(value, (*path, key)) if isinstance(value, (dict, list)) else [(*path, key)]
    return found


def keys() -> st.SearchStrategy[Any]:
    odd = [
        None,
        True,
        5,
        1.5,
        date(2024, 1, 2),
        "",
        " ",
        ".",
        "a.b",
        "novel_classes",
        "__class__",
        "有轨电车",
    ]
    return st.one_of(st.sampled_from(words()[0]), st.sampled_from(odd), st.text(max_size=6))


def values() -> st.SearchStrategy[Any]:
    """Anything that YAML can hold, most of all what the options know."""
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(-3, 300), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["1e-3", "no", "null", "fold0", "../..", "/", "\0", "\ud800", "{x}", 10**30, 2**63]),
        st.binary(max_size=4), st.dates(), st.sampled_from(words()[1]),
    )  # fmt: skip
    return st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys(), inner, max_size=4)),
        max_leaves=8,
    )


def at(content: Any, path: Place) -> Any:
    for key in path:
        content = content[key]
    return content


def changed(content: dict[str, Any], kind: str, place: int, other: int, key: Any, value: Any) -> None:
    """Change a configuration in one place."""
    places = places_of(content)
    if not places:
        return
    *group, last = places[place % len(places)]
    parent = at(content, tuple(group))
    if kind == "replace":
        parent[last] = value
    elif kind == "remove":
        del parent[last]
    elif kind == "rename" and isinstance(parent, dict):
        parent[key if other % 2 else f"{last}s"] = parent.pop(last)
    elif kind == "move":
        parent[last] = copy.deepcopy(at(content, places[other % len(places)]))
    elif kind == "repeat" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[last]))
    else:
        inside = parent[last]
        target = inside if isinstance(inside, dict) else parent
        if isinstance(target, dict):
            target[key] = value
        else:
            target.insert(0, value)


def held(given: Any, kept: Any) -> bool:
    """Whether a validated configuration has every value that was given."""
    if isinstance(given, dict):
        return isinstance(kept, dict) and all(
            key in kept and held(one, kept[key]) for key, one in given.items()
        )
    if isinstance(given, list):
        return isinstance(kept, list) and len(given) == len(kept) and all(map(held, given, kept))
    return isinstance(given, bool) == isinstance(kept, bool) and bool(given == kept)


def mistake_of(content: dict[str, Any]) -> str | None:
    """The message for a configuration; None for one that is accepted, which is then kept as it was given."""
    try:
        with time_limit():
            config = load(content)
    except ConfigError as error:
        return str(error)
    kept = config.model_dump(mode="json")
    expected = plain(content)
    if isinstance(expected.get("gpus"), int):  # the short form of a group
        expected["gpus"] = {"default": expected["gpus"]}
    assert held(expected, kept)
    return None


def judged(outcomes: Counter[str], content: dict[str, Any]) -> None:
    """Every line of a message begins with a key."""
    message = mistake_of(content)
    outcomes["read" if message is None else "refused"] += 1
    if message is not None:
        head, *lines = message.splitlines()
        assert "configuration has" in head
        assert lines
        keys = list(plain(content))
        seen = [key for key in keys if key.strip()]
        known = (*Config.model_fields, *seen, *map(json.dumps, keys), "(the whole configuration)")
        assert lines[0].strip().startswith(known), lines[0]
        assert len(message) < 50_000


def test_changed_keys_and_values() -> None:
    places = st.integers(0, 2**20)
    change = st.tuples(st.sampled_from(CHANGES), places, places, keys(), values())
    with counted("config") as outcomes:

        @cases("config")
        @given(st.integers(0, len(bases()) - 1), st.lists(change, min_size=1, max_size=3))
        def hold(base: int, changes: list[tuple[str, int, int, Any, Any]]) -> None:
            content = copy.deepcopy(bases()[base])
            for one in changes:
                changed(content, *one)
            judged(outcomes, content)

        hold()


def content_of(path: Path) -> dict[str, Any] | str:
    """What a file holds, or the message that says why it cannot be read."""
    try:
        with time_limit():
            return merged([path])
    except ConfigError as error:
        return str(error)


def test_changed_text(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = (Path(__file__).resolve().parents[2] / "config.yaml").read_bytes()
    with counted("config text") as outcomes:

        @cases("config text")
        @given(EDITS)
        def hold(edits: Edits) -> None:
            path.write_bytes(edited(text, edits))
            content = content_of(path)
            if isinstance(content, dict):
                judged(outcomes, content)
            else:
                outcomes["refused"] += 1
                assert str(path) in content

        hold()


BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))])
MAPPING_BOMB = "\n".join(
    ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 60))]
)
SURPRISES = {
    "a list that contains itself": ("data: &a [*a]", "alias"),
    "a group that contains itself": ("data: &a {b: *a}", "alias"),
    "lists of lists of anchors": (BOMB, "more than 1,000,000 values"),
    "groups of groups of anchors": (MAPPING_BOMB, "more than 1,000,000 values"),
    "brackets without end": ("data: " + "[" * 1500, "not valid YAML"),
    "a date that does not exist": ("seed: 2024-13-45", "not valid YAML"),
    "a number of 5,000 digits": ("seed: " + "1" * 5000, "not valid YAML"),
    "a key that is a date": ("2024-01-02: 1", "2024-01-02: unknown key"),
    "a key that is nothing": ("~: 1", "null: unknown key"),
    "a list": ("- retab", "expected keys with values"),
    "text": ("retab", "expected keys with values"),
    "another encoding": ("results: größe".encode("latin-1"), "not valid YAML"),
    "a control character": ("results: a\x07b", "not valid YAML"),
    "an object": ("results: !!python/object/apply:os.mkdir [trap]", "not valid YAML"),
    "nothing": ("", "data: not given"),
}


@pytest.mark.parametrize("name", SURPRISES)
def test_yaml_that_is_more_than_it_seems(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, expected = SURPRISES[name]
    path = tmp_path / "config.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    monkeypatch.chdir(tmp_path)
    with time_limit():
        assert main(["--check", str(path)]) == 1
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]
