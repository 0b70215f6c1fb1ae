"""`anyshot compare`: prints what the report's comparison says."""

import shutil
from pathlib import Path

import pytest

from anyshot.cli import main


def test_two_runs(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        shutil.copytree(model_folder, tmp_path / name / "retab" / "fold0" / "segmentation")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "a") in said
    assert str(tmp_path / "b") in said


def test_folders_that_are_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path), str(tmp_path / "nowhere")]) == 1
    assert "not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(tmp_path / "empty"), str(tmp_path / "empty")]) == 1
    assert "no results" in capsys.readouterr().err
