"""The smallest whole run of every system: what it leaves, stages that are killed, artifacts that do not fit.

One module, because all of it starts from the same finished run, which takes minutes.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from anyshot.engine.stores import Store
from anyshot.errors import WeightsError
from anyshot.retab.options import Predict, Split
from anyshot.retab.samples import read_table
from anyshot.retab.training import load_network
from tests.end_to_end.checkout import Checkout, files_of, processes_of, succeeded

EXPECTED = Path(__file__).with_name("outputs.txt").read_text().split()
PATIENCE = 300  # s


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Checkout:
    """A checkout in which `all_folds` and the report were built."""
    checkout = Checkout.make(tmp_path_factory.mktemp("tiny") / "finished", repository)
    succeeded(checkout.run("all_folds", "results/report.html"))
    return checkout


def test_the_files_of_a_run(finished_run: Checkout) -> None:
    found = [
        path
        for path in files_of(finished_run.folder / "results")
        if not path.endswith((".png", ".jpg", ".txt"))
    ]
    assert found == sorted(EXPECTED)


def test_a_second_run_has_nothing_to_do(finished_run: Checkout) -> None:
    def times() -> dict[Path, int]:
        found = (finished_run.folder / "results").rglob("*")
        return {path: path.stat().st_mtime_ns for path in found if path.is_file()}

    before = times()
    succeeded(finished_run.run("all_folds", "results/report.html"))
    assert times() == before


def test_miou_says_what_it_is(finished_run: Checkout) -> None:
    content = json.loads((finished_run / "retab/fold0/miou.json").read_text())
    assert {
        "system",
        "dataset",
        "split",
        "subset",
        "protocol",
        "miou",
        "classes",
        "reference",
        "options_hash",
    } <= set(content)
    assert (content["system"], content["dataset"], content["split"], content["images"]) == (
        "retab",
        "scenes",
        "fold0",
        6,
    )
    assert [row["role"] for row in content["classes"]].count("novel") == 5
    assert len(content["classes"]) == 21
    assert content["classes"][0]["role"] == "base"
    assert content["reference"] == {}, "these are not the published settings"


def test_summary_has_a_row_per_variant(finished_run: Checkout) -> None:
    with (finished_run / "retab/summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == {
        "cam",
        "psa_walk",
        "retab_walk",
        "pseudo_label",
        "segmentation",
    }
    assert {row["split"] for row in rows} == {"fold0"}
    assert {row["subset"] for row in rows if row["variant"] == "segmentation"} == {"val"}


# --- killed stages ---


def kill_when(started: subprocess.Popen[str], script: str, folder: Path, ready: Callable[[], bool]) -> None:
    """SIGKILL the script as soon as `ready` says that it is in the middle of its work."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and started.poll() is None:
        found = processes_of(script, folder)
        if found and ready():
            os.kill(found[0], signal.SIGKILL)
            return
        time.sleep(0.01)
    pytest.fail(f"{script} was never seen at work: snakemake ended with {started.poll()}")


@pytest.fixture
def interrupted(finished_run: Checkout, tmp_path: Path, repository: Path) -> Checkout:
    """A checkout with the finished run's results, of which a test removes some."""
    checkout = Checkout.make(tmp_path / "interrupted", repository)
    shutil.copytree(finished_run.folder / "results", checkout.folder / "results", symlinks=True)
    shutil.copytree(finished_run.folder / ".snakemake", checkout.folder / ".snakemake")
    return checkout


@pytest.mark.slow
def test_affinity_training_killed_in_the_middle(finished_run: Checkout, interrupted: Checkout) -> None:
    name = "retab/fold0/affinity/mixed/model.safetensors"
    state = interrupted / "retab/fold0/affinity/mixed/state.pt"
    shutil.rmtree(interrupted / "retab/fold0/affinity/mixed")
    target = f"results/{name}"
    started = interrupted.start(target)
    kill_when(started, "retab/affinity.py", interrupted.folder, state.exists)
    assert started.wait(PATIENCE) != 0
    assert state.exists()
    assert not (interrupted / name).exists()

    succeeded(interrupted.run(target))
    assert not state.exists()
    expected, found = load_file(finished_run / name), load_file(interrupted / name)
    assert expected.keys() == found.keys()
    assert all((expected[key] == found[key]).all() for key in expected)
    log = (interrupted / "logs/retab/fold0/affinity.mixed.log").read_text()
    assert "continu" in log or "resum" in log


@pytest.mark.slow
def test_cam_shard_killed_in_the_middle(finished_run: Checkout, interrupted: Checkout) -> None:
    folder = interrupted / "retab/shared/cam"
    (folder / "2of2.h5").unlink()

    def half_written() -> bool:
        return any(path.name != "1of2.h5" and path.stat().st_size > 0 for path in folder.iterdir())

    target = "results/retab/shared/cam/2of2.h5"
    started = interrupted.start(target)
    kill_when(started, "retab/cam.py", interrupted.folder, half_written)
    assert started.wait(PATIENCE) != 0
    assert not (folder / "2of2.h5").exists(), "a store has its name only when it is complete"

    succeeded(interrupted.run(target))
    assert sorted(path.name for path in folder.iterdir()) == ["1of2.h5", "2of2.h5"]
    found, expected = (Store(run / "retab/shared/cam/2of2.h5") for run in (interrupted, finished_run))
    assert found.ids == expected.ids
    assert all(np.array_equal(found[one].scores, expected[one].scores) for one in expected.ids)


# --- artifacts of another split, other classes, another network ---


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
