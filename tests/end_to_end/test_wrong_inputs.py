"""Artifacts of another split, other classes or another network are refused, by name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from anyshot.errors import WeightsError
from anyshot.retab.options import Predict, Split
from anyshot.retab.samples import read_table
from anyshot.retab.training import load_network
from tests.end_to_end.checkout import Checkout


def boundary_of(run: Checkout) -> Path:
    return run / "retab/fold0/boundary/model.safetensors"


def test_checkpoint_of_another_split(finished_run: Checkout) -> None:
    table = read_table(finished_run / "data/scenes/classes.csv")
    load_network(boundary_of(finished_run), network="retab_boundary", table=table, split="fold0")
    with pytest.raises(WeightsError, match=r"(?s)fold0.*fold1|fold1.*fold0"):
        load_network(boundary_of(finished_run), network="retab_boundary", table=table, split="fold1")


def test_checkpoint_of_other_classes(finished_run: Checkout) -> None:
    table = read_table(finished_run / "data/scenes/classes.csv")
    renamed = dataclasses.replace(table, names=(*table.names[:-1], "unicorn"))
    with pytest.raises(WeightsError, match="classes"):
        load_network(boundary_of(finished_run), network="retab_boundary", table=renamed, split="fold0")


def test_checkpoint_of_another_network(finished_run: Checkout) -> None:
    table = read_table(finished_run / "data/scenes/classes.csv")
    with pytest.raises(WeightsError, match=r"retab_boundary.*retab_affinity"):
        load_network(boundary_of(finished_run), network="retab_affinity", table=table)


def call(run: Checkout, stage: str, options: str, *words: str) -> subprocess.CompletedProcess[str]:
    data = run / "data/scenes"
    command = [sys.executable, f"workflow/scripts/retab/{stage}.py", "--options", options]
    command += [
        "--input",
        "manifest",
        str(data / "manifest.csv"),
        "--input",
        "classes",
        str(data / "classes.csv"),
    ]
    return subprocess.run([*command, *words], cwd=run.folder, capture_output=True, text=True, timeout=300)


def test_a_stage_says_so_without_a_traceback(finished_run: Checkout, tmp_path: Path) -> None:
    options = json.loads(Predict(scales=[1.0], crf=None).canonical())
    options["dataset"] = {"subsets": ["val"], "split": "fold3"}
    weights = str(finished_run / "retab/fold0/segmentation/model.safetensors")
    out = str(tmp_path / "labels.csv")
    done = call(
        finished_run,
        "predict",
        json.dumps(options),
        "--input",
        "segmentation",
        weights,
        "--output",
        "labels",
        out,
    )
    assert done.returncode == 1
    assert "fold0" in done.stderr
    assert "fold3" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(out).exists()


def test_novel_class_that_is_not_in_the_table(finished_run: Checkout, tmp_path: Path) -> None:
    options = json.loads(Split(novel=["owll"]).canonical())
    options["dataset"] = {"subsets": ["train"], "split": "mine"}
    outputs = ["--output", "samples", str(tmp_path / "s.csv"), "--output", "split", str(tmp_path / "s.json")]
    done = call(finished_run, "split", json.dumps(options), *outputs)
    assert done.returncode == 1
    assert "owll" in done.stderr
    assert "owl" in done.stderr.replace("owll", "")
    assert "Traceback" not in done.stderr


def test_subset_that_does_not_exist(finished_run: Checkout, tmp_path: Path) -> None:
    options = json.loads(Split(novel=["owl"]).canonical())
    options["dataset"] = {"subsets": ["trainaug"], "split": "mine"}
    outputs = ["--output", "samples", str(tmp_path / "s.csv"), "--output", "split", str(tmp_path / "s.json")]
    done = call(finished_run, "split", json.dumps(options), *outputs)
    assert done.returncode == 1
    assert "trainaug" in done.stderr
    assert "val" in done.stderr
    assert "Traceback" not in done.stderr
