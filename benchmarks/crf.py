"""Dense CRF labels of photograph-like images: one lattice for `la` and `ha`, over processes.

    python benchmarks/crf.py [--small]

Every image (375x500 px, smooth regions with texture and noise) gets the two CRFs of retab.md 2.5 for one to
three labels. Timed in one run: two CRF objects per image, as published; one object whose unary is replaced;
and the latter in two processes. `ratio` is two objects in one process against the shared one in two; the
results must be bit-identical. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from anyshot.ops.crf import CrfParameters, DenseCrf, background_and_cam, confident_labels, map_processes

ALPHAS = (4.0, 32.0)
PARAMETERS = CrfParameters()


@dataclass(frozen=True)
class Item:
    """An image uint8 (H, W, 3) and its CAMs float32 (K, H, W) in [0, 1)."""

    image: np.ndarray
    cams: np.ndarray


def photograph(seed: int, height: int, width: int) -> Item:
    """Regions with soft light and texture as the image; blurred regions as CAMs of 1 to 3 labels."""
    rng = np.random.default_rng(seed)

    def smooth(side: int, channels: int) -> np.ndarray:
        coarse = rng.random((side, round(side * width / height), channels), dtype=np.float32)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(
            height, width, channels
        )

    labels = 1 + seed % 3
    regions = smooth(5, labels + 3).argmax(axis=2)
    colours = rng.integers(20, 235, size=(labels + 3, 3))
    texture = 30 * (smooth(60, 3) - 0.5) + rng.normal(scale=5, size=(height, width, 3))
    image = np.clip(colours[regions] * (0.7 + 0.5 * smooth(3, 1)) + texture, 0, 255).astype(np.uint8)
    cams = np.stack(
        [cv2.GaussianBlur((regions == k).astype(np.float32), (0, 0), height / 15) for k in range(labels)]
    )
    peaks = cams.max(axis=(1, 2), keepdims=True)
    return Item(image, cams / (peaks + 1e-5))


def separate(item: Item) -> list[np.ndarray]:
    """`la` and `ha` (K+1, H, W) from a CRF object each."""
    results = []
    for alpha in ALPHAS:
        crf = DenseCrf(item.image, channels=len(item.cams) + 1, parameters=PARAMETERS)
        results.append(crf.infer(background_and_cam(item.cams, alpha=alpha)))
    return results


def shared(item: Item) -> list[np.ndarray]:
    """`la` and `ha` (K+1, H, W) from one CRF object."""
    return confident_labels(item.image, item.cams, alphas=ALPHAS, parameters=PARAMETERS)


def timed(
    work: Callable[[Item], list[np.ndarray]], items: list[Item], processes: int
) -> tuple[float, list[list[np.ndarray]]]:
    """Seconds for all images, and their results; worker processes are started before the clock."""
    warm = [items[0]] * processes
    begin = 0.0
    results = []
    for k, result in enumerate(map_processes(work, [*warm, *items], processes=processes), start=1):
        if k > processes:
            results.append(result)
        elif k == processes:
            begin = time.perf_counter()
    return time.perf_counter() - begin, results


def measure(count: int, height: int, width: int) -> dict[str, Any]:
    items = [photograph(seed, height, width) for seed in range(count)]
    reference_seconds, expected = timed(separate, items, 1)
    one_seconds, one = timed(shared, items, 1)
    two_seconds, two = timed(shared, items, 2)
    difference = max(
        float(np.abs(mine - plain).max())
        for results in (one, two)
        for image, truth in zip(results, expected, strict=True)
        for mine, plain in zip(image, truth, strict=True)
    )
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "benchmark": "crf",
        "ratio": reference_seconds / two_seconds,
        "shared_lattice_ratio": reference_seconds / one_seconds,
        "processes_ratio": one_seconds / two_seconds,
        "max_abs_difference": difference,
        "seconds": two_seconds,
        "one_process_seconds": one_seconds,
        "reference_seconds": reference_seconds,
        "images_per_second": {"reference": count / reference_seconds, "1 process": count / one_seconds,
                              "2 processes": count / two_seconds},
        "peak_mib": max(peaks) / 2**10,
        "images": count,
        "size": [height, width],
        "threads": 2,
        "device": "cpu",
    }  # fmt: skip


def print_table(result: dict[str, Any]) -> None:
    height, width = result["size"]
    print(f"{result['images']} images of {height}x{width} px, two CRFs of {PARAMETERS.steps} steps each")
    print(f"{'':38}{'images/s':>10}{'s/image':>10}{'ratio':>8}")
    rates = result["images_per_second"]
    rows = [
        ("two objects, 1 process (as published)", rates["reference"]),
        ("shared lattice, 1 process", rates["1 process"]),
        ("shared lattice, 2 processes", rates["2 processes"]),
    ]
    for name, rate in rows:
        print(f"{name:38}{rate:>10.2f}{1 / rate:>10.3f}{rate / rates['reference']:>7.2f}x")
    print(f"largest difference: {result['max_abs_difference']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="4 images of 94x125 px, to see that it runs")
    arguments = parser.parse_args()
    result = measure(4, 94, 125) if arguments.small else measure(24, 375, 500)
    print_table(result)
    identical = result["max_abs_difference"] == 0
    if not identical:
        print("FAILED: the shared lattice must give bit-identical results")
    print(json.dumps({"small": arguments.small, **result}))
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main())
