"""A training that is killed and started again ends with the same weights, bit for bit."""

import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import anyshot

COMPARED = {"step", "loss", "error", "learning_rate", "epoch"}
SCRIPT = Path(__file__).with_name("training_stage.py")
OPTIMISER = {
    "epochs": 3, "batch_size": 4, "learning_rate": 0.002, "momentum": 0.9,
    "log_every": 2, "save_minutes": 0.0, "workers": 0,
}  # fmt: skip


def arguments(folder: Path, **options: Any) -> list[str]:
    optimiser = OPTIMISER | options.pop("optimiser", {})
    words = ["--options", json.dumps({"optimiser": optimiser, **options}), "--threads", "1", "--seed", "3"]
    for name, file in (("weights", "m.safetensors"), ("state", "state.pt"), ("curve", "train.jsonl")):
        words += ["--output", name, str(folder / file)]
    return [str(SCRIPT), *words, "--log", str(folder / "log")]


def run_script(words: list[str], errors: Path) -> None:
    """In the new process: the script as `python SCRIPT ...` runs it."""
    descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 2)
    os.setsid()  # a process group of its own, like a job's
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


class Stage:
    """The stage in a process of its own, forked from one that has imported torch: seconds faster."""

    context = multiprocessing.get_context("forkserver")

    def __init__(self, folder: Path, **options: Any) -> None:
        self.context.set_forkserver_preload(
            ["torch", "lightning_fabric", "tqdm", "h5py", "safetensors.torch"]
        )
        self.errors = folder / f"stderr{len(list(folder.glob('stderr*')))}"
        self.process = self.context.Process(
            target=run_script, args=(arguments(folder, **options), self.errors)
        )
        self.process.start()

    def finish(self) -> tuple[int | None, str]:
        """The exit status and what it wrote to stderr."""
        self.process.join(timeout=600)
        return self.process.exitcode, self.errors.read_text() if self.errors.exists() else ""


def finish(folder: Path, **options: Any) -> tuple[int | None, str]:
    return Stage(folder, **options).finish()


def curve(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line.keys() & COMPARED} for line in lines]


def assert_equal_results(first: Path, second: Path) -> None:
    one, two = load_file(first / "m.safetensors"), load_file(second / "m.safetensors")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    assert curve(first) == curve(second)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    code, errors = finish(folder)
    assert code == 0, errors
    assert not (folder / "state.pt").exists()
    assert [line["step"] for line in curve(folder)] == [2, 4, 6, 8, 10, 12, 14, 15]
    return folder


@pytest.mark.parametrize("step", [0, 1, 14])
def test_sigkill_in_a_step(uninterrupted: Path, tmp_path: Path, step: int) -> None:
    code, _ = finish(tmp_path, kill_at=step)
    assert code == -signal.SIGKILL
    assert not (tmp_path / "m.safetensors").exists()
    code, errors = finish(tmp_path, kill_at=step)
    assert code == 0, errors
    assert (f"continuing at step {step} of 15" in errors) == (step > 0)
    assert_equal_results(uninterrupted, tmp_path)
    assert not (tmp_path / "state.pt").exists()


def test_sigkill_at_any_time_with_workers(uninterrupted: Path, tmp_path: Path) -> None:
    """Killed from outside again and again; workers change nothing but the speed."""
    options = {"optimiser": {"workers": 2}, "pause": 0.03}
    state = tmp_path / "state.pt"
    for kill in range(4):
        before = state.stat().st_mtime_ns if state.exists() else 0
        stage = Stage(tmp_path, **options)
        while stage.process.is_alive() and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.001)
        time.sleep(0.007 * kill)
        stage.process.kill()
        assert stage.finish()[0] == -signal.SIGKILL
    code, errors = finish(tmp_path, **options)
    assert code == 0, errors
    assert "continuing at step" in errors
    assert_equal_results(uninterrupted, tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_sigterm_saves_the_state(uninterrupted: Path, tmp_path: Path) -> None:
    rare = {"save_minutes": 60.0}
    code, errors = finish(tmp_path, optimiser=rare, terminate_at=5)
    assert code == 143
    assert "SIGTERM, state saved at step 6" in errors
    code, errors = finish(tmp_path, optimiser=rare, terminate_at=5)
    assert code == 0, errors
    assert "continuing at step 6 of 15" in errors
    assert_equal_results(uninterrupted, tmp_path)


def test_sigterm_to_all_processes_of_the_job(uninterrupted: Path, tmp_path: Path) -> None:
    """As Slurm does: the workers must live until the step is done and the state is saved."""
    options = {"optimiser": {"workers": 2, "save_minutes": 60.0}, "pause": 0.1}
    stage = Stage(tmp_path, **options)
    while not (tmp_path / "train.jsonl").exists() or not curve(tmp_path):
        assert stage.process.is_alive()
        time.sleep(0.01)
    assert stage.process.pid is not None
    os.killpg(stage.process.pid, signal.SIGTERM)
    code, errors = stage.finish()
    assert code == 143
    assert "SIGTERM, state saved at step" in errors
    code, errors = finish(tmp_path, **options)
    assert code == 0, errors
    assert "continuing at step" in errors
    assert_equal_results(uninterrupted, tmp_path)


def test_state_of_another_job_is_ignored(uninterrupted: Path, tmp_path: Path) -> None:
    finish(tmp_path, kill_at=5, optimiser={"learning_rate": 0.01})
    code, errors = finish(tmp_path)
    assert code == 0, errors
    assert "belongs to other options or inputs" in errors
    assert_equal_results(uninterrupted, tmp_path)


def test_damaged_state_is_ignored(uninterrupted: Path, tmp_path: Path) -> None:
    finish(tmp_path, kill_at=5)
    os.truncate(tmp_path / "state.pt", 1000)
    code, errors = finish(tmp_path, kill_at=5)
    assert code == 0, errors
    assert "damaged training state" in errors
    assert_equal_results(uninterrupted, tmp_path)


def test_error_of_a_worker_is_one_message(tmp_path: Path) -> None:
    code, errors = finish(tmp_path, broken=11, optimiser={"workers": 2})
    assert code == 1
    assert "test.tiny: image 11 cannot be read; replace it" in errors
    assert "Traceback" not in errors
    log = (tmp_path / "log").read_text()
    assert 'raise DataError(f"image {index} cannot be read' in log


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    """The batches and the gradients are those of one process, up to the rounding of float32."""
    results = []
    environment = {**os.environ, "PYTHONPATH": str(Path(anyshot.__file__).parents[1])}
    for devices, accumulate in ((1, 1), (2, 1)):
        folder = tmp_path / str(devices)
        folder.mkdir()
        words = arguments(folder, devices=devices, plain=True, optimiser={"accumulate": accumulate})
        subprocess.run([sys.executable, *words], env=environment, check=True, timeout=600)
        results.append(load_file(folder / "m.safetensors"))
        assert [line["step"] for line in curve(folder)] == [2, 4, 6, 8, 10, 12, 14, 15]
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=1e-4, atol=1e-6)
