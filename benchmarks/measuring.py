"""Seconds and peak memory of a computation, as the benchmarks measure them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Result = TypeVar("Result")


def _mib(key: str) -> float:
    """Memory of this process in MiB by Linux's own account: VmHWM is its peak, VmRSS what it holds now."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 2**10


def use_threads(threads: int) -> None:
    """All libraries of this process work with so many threads."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def measured(work: Callable[[], Result], *, runs: int) -> tuple[float, float, Result]:
    """Seconds of the fastest of the runs, peak MiB of the first above what was held before, and the result.

    Call it in a process of its own: memory that an earlier computation left behind counts as held.
    """
    with contextlib.suppress(OSError):  # forget the peak of the imports, where the system allows it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _mib("VmRSS")
    best, peak = float("inf"), 0.0
    for run in range(runs):
        begin = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - begin)
        if run == 0:
            peak = _mib("VmHWM") - before
    return best, peak, result
