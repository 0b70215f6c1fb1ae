"""Random walk of one 375x500 px image (47x63 cells, 256 steps): sparse against the published matrix powers.

    python benchmarks/random_walk.py [--small] [--channels N] [--threads N]

The reference is the walk in the words of the specification (tests/reference/walk.py): the dense matrix A of
all cells, A^beta, columns normalised, squared 8 times, x @ D, in float32 as published. All methods get the
same inputs in one run. Peak memory is that of a process of its own per method, above what it held before.
The last line is JSON. Exit status 1 when, in the full form, the sparse walk is not 50 times faster or lies
further than 2e-5 from the reference.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from measuring import measured, use_threads

from anyshot.ops.affinity import affinity_planes
from anyshot.ops.random_walk import Method, walk
from tests.reference import neighbours
from tests.reference import walk as reference

RADIUS, BETA, LOGT = 5, 8.0, 8
THREADS = 2
REQUIRED_RATIO, ALLOWED_DIFFERENCE = 50.0, 2e-5
METHODS: tuple[Method, ...] = ("chebyshev", "iterated")


def inputs(height: int, width: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Affinities of smooth features with some noise, as a network gives them, and scores (C, h, w)."""
    rng = np.random.default_rng(0)

    def smooth(count: int, cells: int) -> torch.Tensor:
        coarse = rng.normal(size=(1, count, 2 + height // cells, 2 + width // cells)).astype(np.float32)
        return torch.nn.functional.interpolate(
            torch.from_numpy(coarse), size=(height, width), mode="bicubic"
        )[0]

    features = smooth(448, 8) + 0.05 * torch.from_numpy(rng.normal(size=(448, height, width))).float()
    planes = affinity_planes(features, radius=RADIUS).numpy()
    return planes, smooth(channels, 6).sigmoid().numpy()


def by_reference(planes: np.ndarray, scores: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    pairs = neighbours.pairs(RADIUS, *planes.shape[1:])
    return reference.walk(scores, planes, pairs, beta=BETA, logt=LOGT, dtype=dtype)


def by_products(planes: np.ndarray, scores: np.ndarray, *, method: Method) -> np.ndarray:
    return walk(scores, planes, radius=RADIUS, beta=BETA, logt=LOGT, method=method)


WAYS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "reference": by_reference,
    **{method: partial(by_products, method=method) for method in METHODS},
}


def timed(
    work: Callable[[np.ndarray, np.ndarray], np.ndarray], *data: np.ndarray, runs: int
) -> tuple[float, np.ndarray]:
    """Seconds of the fastest of some runs, and the result."""
    best = float("inf")
    for _ in range(runs):
        begin = time.perf_counter()
        result = work(*data)
        best = min(best, time.perf_counter() - begin)
    return best, result


def _peak_of(name: str, data: tuple[np.ndarray, np.ndarray], threads: int) -> float:
    use_threads(threads)
    return measured(lambda: WAYS[name](*data), runs=1)[1]


def peak_mib(name: str, data: tuple[np.ndarray, np.ndarray], threads: int) -> float:
    """Largest memory while one method runs, above what its own process held before, MiB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_of, (name, data, threads))


def measure(size: tuple[int, int, int], threads: int, runs: int) -> dict[str, Any]:
    use_threads(threads)
    data = inputs(*size)
    by_products(data[0], data[1][:1], method="chebyshev")  # patterns and coefficients are kept between images
    neighbours.pairs(RADIUS, *size[:2])
    ours = {name: timed(WAYS[name], *data, runs=runs) for name in METHODS}
    reference_seconds, plain = timed(by_reference, *data, runs=1)
    seconds, fastest = ours["chebyshev"]
    peaks = {name: peak_mib(name, data, threads) for name in WAYS}
    exact = timed(partial(by_reference, dtype=np.float64), *data, runs=1)[1]
    return {
        "benchmark": "random_walk",
        "ratio": reference_seconds / seconds,
        "max_abs_difference": float(np.abs(fastest - plain).max()),
        "seconds": seconds,
        "reference_seconds": reference_seconds,
        "peak_mib": peaks["chebyshev"],
        "reference_peak_mib": peaks["reference"],
        "iterated_seconds": ours["iterated"][0],
        "iterated_ratio": reference_seconds / ours["iterated"][0],
        "iterated_peak_mib": peaks["iterated"],
        "iterated_max_abs_difference": float(np.abs(ours["iterated"][1] - plain).max()),
        "error": float(np.abs(fastest - exact).max()),
        "iterated_error": float(np.abs(ours["iterated"][1] - exact).max()),
        "reference_error": float(np.abs(plain - exact).max()),
        "cells": [size[0], size[1]],
        "channels": size[2],
        "steps": 2**LOGT,
        "threads": threads,
        "device": "cpu",
    }


def print_table(result: dict[str, Any]) -> None:
    height, width = result["cells"]
    print(f"{height}x{width} cells, {result['channels']} channels, {result['steps']} steps,"
          f" {result['threads']} threads")  # fmt: skip
    print(f"{'':34}{'seconds':>10}{'ratio':>9}{'peak MiB':>10}{'error':>10}")
    rows = [
        ("dense matrix powers (as published)", "reference_", 1.0),
        ("sparse, 256 products", "iterated_", result["iterated_ratio"]),
        ("sparse, Chebyshev (default)", "", result["ratio"]),
    ]
    for name, key, ratio in rows:
        print(f"{name:34}{result[key + 'seconds']:>10.4f}{ratio:>8.1f}x{result[key + 'peak_mib']:>10.1f}"
              f"{result[key + 'error']:>10.1e}")  # fmt: skip
    print("error: largest difference to the dense walk in float64")
    print(f"largest difference of Chebyshev to the published form: {result['max_abs_difference']:.1e}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="12x16 cells, to see that it runs")
    parser.add_argument("--channels", type=int, default=21, metavar="N")
    parser.add_argument("--threads", type=int, default=THREADS, metavar="N")
    arguments = parser.parse_args()
    size = (12, 16, arguments.channels) if arguments.small else (47, 63, arguments.channels)
    result = measure(size, arguments.threads, runs=3 if arguments.small else 10)
    print_table(result)
    good = result["ratio"] >= REQUIRED_RATIO and result["max_abs_difference"] <= ALLOWED_DIFFERENCE
    if not good and not arguments.small:
        print(f"FAILED: wanted {REQUIRED_RATIO:.0f} times faster, at most {ALLOWED_DIFFERENCE} apart")
    print(json.dumps({"small": arguments.small, **result}))
    return 0 if good or arguments.small else 1


if __name__ == "__main__":
    sys.exit(main())
