"""A stage killed by SIGKILL and started again ends as an uninterrupted run, bit for bit on a CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.end_to_end.checkout import Checkout, processes_of, succeeded

PATIENCE = 300  # s
MAY_DIFFER = {"seconds", "commit", "input_hashes", "fingerprint", "options_hash"}


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


def without_times(path: Path) -> dict[str, Any]:
    """A result without what may differ: seconds, the commit, and hashes over inputs that hold seconds."""
    content = json.loads(path.read_text())
    return {key: value for key, value in content.items() if key not in MAY_DIFFER}


def forget(checkout: Checkout, folder: str, *kept: str) -> None:
    """Remove what lies in a folder of the results but for some entries."""
    for entry in (checkout / folder).iterdir():
        if entry.name not in kept:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


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
    forget(interrupted, "retab/fold0", "split", "boundary", "boundary_map")
    target = "results/retab/fold0/miou.json"
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
    miou = "retab/fold0/miou.json"
    assert without_times(interrupted / miou) == without_times(finished_run / miou)


@pytest.mark.slow
def test_cam_shard_killed_in_the_middle(finished_run: Checkout, interrupted: Checkout) -> None:
    folder = interrupted / "retab/shared/cam"
    forget(interrupted, "retab/fold0", "split", "boundary", "boundary_map")
    forget(interrupted, "retab/shared", "classifier", "cam")
    (folder / "2of2.h5").unlink()

    def half_written() -> bool:
        return any(path.name != "1of2.h5" and path.stat().st_size > 0 for path in folder.iterdir())

    target = "results/retab/fold0/miou.json"
    started = interrupted.start(target)
    kill_when(started, "retab/cam.py", interrupted.folder, half_written)
    assert started.wait(PATIENCE) != 0
    assert not (folder / "2of2.h5").exists(), "a store has its name only when it is complete"

    succeeded(interrupted.run(target))
    assert sorted(path.name for path in folder.iterdir()) == ["1of2.h5", "2of2.h5"]
    miou = "retab/fold0/miou.json"
    assert without_times(interrupted / miou) == without_times(finished_run / miou)
