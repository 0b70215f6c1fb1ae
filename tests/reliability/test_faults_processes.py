"""Killed processes of a stage that works in several, and a clock that jumps: what a stage sees to itself."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import anyshot
from anyshot.errors import AnyshotError
from anyshot.job import Job
from anyshot.larvseg.image_sets import _shards
from anyshot.lease import FOLDER, POOL, lease
from anyshot.ops.crf import map_processes
from anyshot.options import StageOptions

KILLED = "one of 2 worker processes was killed, most likely for lack of memory: give the job more memory"
POOLED = """
import multiprocessing, time
from anyshot.ops.crf import map_processes
results = map_processes(time.sleep, [0, 600, 600], processes=2)
next(results)
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
next(results)
"""


def test_a_killed_worker_is_told() -> None:
    """raise_signal(9) is SIGKILL, as the system sends it when memory runs out."""
    with pytest.raises(AnyshotError, match=KILLED):
        list(map_processes(signal.raise_signal, [0, 9], processes=2))


@pytest.fixture
def hang_up_ends() -> Iterator[None]:
    """SIGHUP ends processes, also where the tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up_ends")
def test_a_killed_worker_that_packs_images_is_told() -> None:
    """The numbers of the shards are signals here: 1, SIGHUP, ends the worker."""
    with pytest.raises(AnyshotError, match=KILLED):
        list(_shards(signal.raise_signal, 2, processes=2))  # type: ignore[arg-type]  # it returns nothing


def test_workers_end_with_a_killed_stage() -> None:
    """They would hold their memory, and on a cluster the job's, for ever."""
    environment = {**os.environ, "PYTHONPATH": str(Path(anyshot.__file__).parents[1])}
    command = [sys.executable, "-c", POOLED]
    stage = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert stage.stdout is not None
    workers = [int(word) for word in stage.stdout.readline().split()]
    assert len(workers) == 2
    stage.kill()
    stage.wait()
    end = time.monotonic() + 120
    while left := [pid for pid in workers if runs(pid)]:
        assert time.monotonic() < end, f"processes {left} are left"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process lives; one that has ended and was not waited for does not (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def clock_running_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock is set back by an hour at every look."""
    times = itertools.count(time.time(), -3600)
    monkeypatch.setattr(time, "time", lambda: next(times))


@pytest.mark.usefixtures("clock_running_backwards")
def test_durations_do_not_follow_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = Job.for_tests("test.clock", StageOptions())
    monkeypatch.setattr("anyshot.job.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(job.log, "propagate", True)
    with caplog.at_level("INFO", "anyshot"):
        list(job.progress(range(3)))
    once = {id(record): record.getMessage() for record in caplog.records}  # caplog may hear of one twice
    told = [int(seconds) for text in once.values() for seconds in re.findall(r"(-?\d+) s\b", text)]
    assert len(told) == 4, "what is left, after each of 3, and the whole"
    assert all(0 <= seconds < 600 for seconds in told)
    assert 0 <= float(job.provenance()["seconds"]) < 600
    monkeypatch.setenv(POOL, "0")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    held = lease(1, timeout=0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    begin = time.monotonic()
    with pytest.raises(AnyshotError, match="no 1 free GPU"):
        lease(1, timeout=0.3)
    assert 0.3 <= time.monotonic() - begin < 60
    held.release()
