"""Pages made from the code are in step with it, and no page points at a file that is not there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from anyshot.config import Config
from anyshot.retab.system import FILLED_IN, STAGES

LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(#[^)]*)?\)")


@pytest.fixture(scope="module")
def generate(repository: Path) -> ModuleType:
    """The script docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", repository / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_in_step(generate: ModuleType) -> None:
    written = generate.REFERENCE.read_text(encoding="utf-8")
    assert written == generate.reference(), "run python docs/generate.py"


def test_the_rule_graph_is_in_step(generate: ModuleType) -> None:
    written = generate.ARCHITECTURE.read_text(encoding="utf-8")
    assert written == generate.with_graph(written), "run python docs/generate.py"


def test_every_key_is_in_the_reference(generate: ModuleType) -> None:
    page = generate.reference()
    for name, stage in STAGES.items():
        section = page.split(f"### `retab.{name}`\n")[1].split("### ")[0]
        for key in set(stage.model_fields) - FILLED_IN:
            assert f"`{key}`" in section, f"retab.{name}.{key}"
    for key in Config.model_fields:
        assert f"`{key}`" in page


def test_a_shortcut_is_left_out_of_the_graph(generate: ModuleType) -> None:
    edges = {("a", "b"), ("b", "c"), ("a", "c")}
    assert generate.longer_way(edges, "a", "c")
    assert not generate.longer_way(edges, "a", "b")


def test_links_lead_somewhere(repository: Path) -> None:
    pages = [repository / "README.md", repository / "results/README.md", *(repository / "docs").glob("*.md")]
    for page in pages:
        for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            assert path.exists(), f"{page.name}: {target}"
