"""Seconds and peak memory of a computation, as the benchmarks measure them."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

Result = TypeVar("Result")
Way = Callable[..., list[Tensor]]
Differences = Callable[[list[Tensor], list[Tensor]], dict[str, float]]
SMALL_PEAK = 1.0  # MiB; what takes less is counted as this, so that ratios stay finite


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


@dataclass(frozen=True)
class Item:
    """What is measured: the maker of its input (small or not), the plain and the fast way."""

    data: Callable[[bool], tuple[Any, ...]]
    plain: Way
    fast: Way


def in_own_process(work: Callable[..., Any], *arguments: Any, apart: bool = True) -> Any:
    """What `work`, a function of a module, returns in a process that has done nothing else.

    apart: False stays in this process, where only that it runs is of interest: to start one takes seconds.
    """
    if not apart:
        return work(*arguments)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _one_way(
    item: Item, by_plain: bool, small: bool, threads: int, runs: int
) -> tuple[float, float, list[Tensor]]:
    """Seconds of the fastest run, peak MiB of the first, and the result."""
    use_threads(threads)
    way = item.plain if by_plain else item.fast
    way(*item.data(True))  # libraries load and set up their workspaces at the first call
    data = item.data(small)
    return measured(lambda: way(*data), runs=runs)


def compared(
    name: str,
    item: Item,
    *,
    small: bool,
    threads: int,
    runs: tuple[int, int],
    differences: Differences,
    apart: bool = True,
) -> dict[str, Any]:
    """A row of the table: both ways of an item, `runs` times plain and fast, each in a process of its own
    unless `apart` is False."""
    reference_seconds, reference_peak, expected = in_own_process(
        _one_way, item, True, small, threads, runs[0], apart=apart
    )
    seconds, peak, found = in_own_process(_one_way, item, False, small, threads, runs[1], apart=apart)
    return {
        "item": name,
        "ratio": reference_seconds / seconds,
        **differences(expected, found),
        "seconds": seconds,
        "reference_seconds": reference_seconds,
        "peak_mib": peak,
        "reference_peak_mib": reference_peak,
        "memory_ratio": max(reference_peak, SMALL_PEAK) / max(peak, SMALL_PEAK),
    }


def too_different(rows: list[dict[str, Any]], allowed: dict[str, float]) -> list[str]:
    """A line for each difference of a row that is larger than what is allowed under its name."""
    return [
        f"{row['item']}: {key} {row[key]:.1e}, allowed {bound}"
        for row in rows
        for key, bound in allowed.items()
        if row[key] > bound
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    heads = ("reference s", "here s", "faster", "reference MiB", "here MiB", "less", "values", "gradients")
    print(f"{'item':16}" + "".join(f"{head:>14}" for head in heads))
    for row in rows:
        print(f"{row['item']:16}{row['reference_seconds']:>14.4f}{row['seconds']:>14.4f}"
              f"{row['ratio']:>13.1f}x{row['reference_peak_mib']:>14.1f}{row['peak_mib']:>14.1f}"
              f"{row['memory_ratio']:>13.1f}x{row['relative_difference']:>14.1e}"
              f"{row['gradient_difference']:>14.1e}")  # fmt: skip
