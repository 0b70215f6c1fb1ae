"""docs/reliability.md: every row of its tables names tests, and they are there."""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def rows(text: str) -> Iterator[str]:
    """The last cells of the rows of all tables whose last column is called `test`."""
    inside = False
    for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if line.startswith("|") and not before.startswith("|"):
            inside = line.endswith("| test |")
        elif line.startswith("|") and inside and not line.startswith("|---"):
            yield re.split(r"(?<!\\)\|", line)[-2].strip()


CELLS = list(rows((REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")))


def named(cell: str) -> dict[str, list[str]]:
    """Test names, or patterns of them, by the file that stands before them."""
    found: dict[str, list[str]] = {}
    file = ""
    for word in re.findall(r"`([^`]+)`", cell):
        path, _, test = word.rpartition("::") if "::" in word or not word.endswith(".py") else (word, "", "")
        if path:
            file = path if "/" in path else f"tests/reliability/{path}"
            found.setdefault(file, [])
        if test:
            found.setdefault(file, []).append(test)
    return found


@cache
def functions_of(file: str) -> list[str]:
    """The functions of a file that are tests, without running it."""
    tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
    return [
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def test_the_words_of_a_cell_are_read() -> None:
    cell = "`test_a.py`: `test_one`, `test_two*`; others: `tests/b/test_b.py::test_three`, `::test_four`"
    assert named(cell) == {
        "tests/reliability/test_a.py": ["test_one", "test_two*"],
        "tests/b/test_b.py": ["test_three", "test_four"],
    }
    assert named("`tests/b/test_b.py`") == {"tests/b/test_b.py": []}
    assert list(rows("| a | test |\n|---|---|\n| b | `c` |\n\n| a | message |\n|---|---|\n| b | d |")) == [
        "`c`"
    ]


def test_the_tables_are_found() -> None:
    """In each table the first row of it, and about as many rows as there are."""
    assert len(CELLS) >= 44
    for word in ("test_sigkill", "test_a_cancelled_job", "test_shards_do", "test_no_gpu", "test_is_shown"):
        assert any(word in cell for cell in CELLS), word
    for word in ("test_changed_keys", "test_no_file_is_unpickled"):
        assert any(word in cell for cell in CELLS), word


@pytest.mark.parametrize("cell", CELLS)
def test_a_row_names_tests_that_are_there(cell: str) -> None:
    found = named(cell)
    assert found
    for file, names in found.items():
        assert (REPOSITORY / file).is_file(), file
        assert names, f"{file}: no test is named"
        for name in names:
            assert name.startswith("test_"), name
            assert fnmatch.filter(functions_of(file), name), f"{file}: {name}"
