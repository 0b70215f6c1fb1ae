"""A stage killed by SIGKILL and started again ends as an uninterrupted run, bit for bit on a CPU."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from anyshot.engine.stores import Store
from tests.end_to_end.checkout import Checkout, processes_of, succeeded

PATIENCE = 300  # s


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
