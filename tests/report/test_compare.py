"""`anyshot compare`: options and numbers that differ between two results folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from anyshot.engine.stores import Store, StoreWriter
from anyshot.errors import ArtifactError
from anyshot.report.compare import aligned, compare


@pytest.fixture
def pair(results: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of a run, without the pictures."""
    for name in ("a", "b"):
        shutil.copytree(results, tmp_path / name, ignore=shutil.ignore_patterns("*.png"))
        card = {
            "system": "retab",
            "options": {"optimiser": {"epochs": 8, "learning_rate": 0.1}},
            "anyshot": "0.1.0",
        }
        (tmp_path / name / "retab/shared/classifier/model.json").write_text(
            json.dumps(card), encoding="utf-8"
        )
    return tmp_path / "a", tmp_path / "b"


def edit(path: Path, *keys: str, value: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content), encoding="utf-8")


def test_equal_runs_have_no_differences(pair: tuple[Path, Path]) -> None:
    text = compare(*pair)
    assert "Options: no differences" in text
    assert "only in" not in text
    assert "+0.00" in text


def test_changed_option_and_number_are_shown(pair: tuple[Path, Path]) -> None:
    a, b = pair
    edit(b / "retab/shared/classifier/model.json", "options", "optimiser", "epochs", value=15)
    for folder, value in ((a, 0.5), (b, 0.5125)):
        edit(folder / "retab/fold0/miou.json", "miou", "novel", value=value)
    text = compare(a, b)
    (line,) = [line for line in text.splitlines() if "optimiser.epochs" in line]
    assert line.split() == ["retab/shared/classifier/model.json", "optimiser.epochs", "8", "15"]
    (line,) = [line for line in text.splitlines() if "fold0" in line and "Segmentation" in line]
    assert line.split()[9:12] == ["50.00", "51.25", "+1.25"]


def test_options_in_store_attributes_are_compared(pair: tuple[Path, Path]) -> None:
    a, b = pair
    path = b / "retab/shared/cam/1of2.h5"
    facts = Store(path).attributes
    facts["options"] = facts["options"].replace('"mirror": true', '"mirror": false')
    with StoreWriter(path, attributes=facts):
        pass
    text = compare(a, b)
    (line,) = [line for line in text.splitlines() if "mirror" in line]
    assert line.split() == ["retab/shared/cam", "mirror", "true", "false"]


def test_results_of_one_run_only(pair: tuple[Path, Path]) -> None:
    a, b = pair
    shutil.rmtree(b / "retab/fold1")
    text = compare(a, b)
    assert "only in a: retab/fold1/miou.json" in text
    (line,) = [line for line in text.splitlines() if "fold1" in line and "Segmentation" in line]
    assert "–" in line


def test_empty_folder_is_an_error(results: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no results"):
        compare(results, tmp_path)


def test_aligned_columns() -> None:
    lines = aligned(["name", "n"], [["a", "10.00"], ["long name", "9.00"]], numbers_from=1)
    assert lines == ["  name           n", "  ---------  -----", "  a          10.00", "  long name   9.00"]
