"""Scoring of 1,449 label maps of 500x375 px, 21 classes, one core: a bincount per map against masked sums.

    python benchmarks/evaluate.py [--small]

The reference is the published way (tests/reference/metrics.py): per image and class three masked sums. It is
timed on a part of the maps, with equal counts required on that part, and its seconds are scaled to all maps.
Also timed: the sweep over 60 thresholds, in one pass against reading every map again for each. Maps are made
before the clock starts, so this is compute only. The last line is JSON. Exit status 1 when the full form
takes 5 s or more, or when any count differs.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from anyshot.ops.metrics import Confusion, ThresholdSweep
from tests.reference import metrics as reference

CLASSES, VOID = 21, 255
ALLOWED_SECONDS = 5.0
THRESHOLDS = 0.01 * np.arange(60)
DISTINCT = 64  # maps that are made; a run goes through them again and again


def label_maps(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth with void contours, prediction uint8 and score float32, (H, W) each: a few smooth regions."""
    rng = np.random.default_rng(seed)
    shown = np.concatenate([[0], rng.choice(np.arange(1, CLASSES), size=rng.integers(1, 5), replace=False)])
    coarse = rng.random((6, 8, len(shown)), dtype=np.float32)
    coarse[..., 0] += 0.3
    fields = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    truth = shown[fields.argmax(axis=2)].astype(np.uint8)
    edges = cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, np.ones((5, 5), dtype=np.uint8)) > 0
    truth[edges] = VOID
    shifted = fields + 0.15 * cv2.resize(rng.normal(size=coarse.shape).astype(np.float32), (width, height))
    foreground = shifted[..., 1:]
    prediction = shown[shifted.argmax(axis=2)].astype(np.uint8)
    best = shown[1:][foreground.argmax(axis=2)].astype(np.uint8)
    return truth, np.where(prediction == 0, 0, best), np.clip(foreground.max(axis=2) / 2, 0, 1)


def seconds_of(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def confusion_of(maps: list[tuple[np.ndarray, ...]], count: int) -> Confusion:
    confusion = Confusion(CLASSES)
    for k in range(count):
        truth, prediction, _ = maps[k % len(maps)]
        confusion.add(truth, prediction)
    return confusion


def sweep_of(maps: list[tuple[np.ndarray, ...]]) -> ThresholdSweep:
    sweep = ThresholdSweep(CLASSES, THRESHOLDS)
    for truth, best, score in maps:
        sweep.add(truth, np.maximum(best, 1), score)
    return sweep


def measure(count: int, part: int, sweep_part: int, height: int, width: int) -> dict[str, Any]:
    maps: list[Any] = [label_maps(seed, height, width) for seed in range(min(DISTINCT, count))]
    confusion_of(maps, 1)
    seconds = seconds_of(lambda: confusion_of(maps, count))

    few = [maps[k % len(maps)] for k in range(part)]
    pairs = [(truth, prediction) for truth, prediction, _ in few]
    part_seconds = seconds_of(lambda: reference.masked_sums(pairs, CLASSES))
    ours = confusion_of(few, part)
    plain = reference.masked_sums(pairs, CLASSES)
    found = (ours.predicted_pixels, ours.truth_pixels, ours.true_positives)
    difference = max(int(np.abs(a - b).max()) for a, b in zip(found, plain, strict=True))

    swept = few[:sweep_part]
    sweep_seconds = seconds_of(lambda: sweep_of(swept).iou())
    again = [(truth, np.maximum(best, 1), score) for truth, best, score in swept]
    begin = time.perf_counter()
    expected = np.array(reference.sweep(again, CLASSES, THRESHOLDS), dtype=np.float64)
    sweep_reference = time.perf_counter() - begin
    sweep_difference = float(np.nan_to_num(np.abs(sweep_of(swept).iou() - expected)).max())
    reference_seconds = part_seconds * count / part
    return {
        "benchmark": "evaluate",
        "ratio": reference_seconds / seconds,
        "max_abs_difference": max(difference, sweep_difference),
        "seconds": seconds,
        "milliseconds_per_map": 1000 * seconds / count,
        "reference_seconds": reference_seconds,
        "reference_measured_on": part,
        "sweep_seconds": sweep_seconds * count / sweep_part,
        "sweep_reference_seconds": sweep_reference * count / sweep_part,
        "sweep_ratio": sweep_reference / sweep_seconds,
        "sweep_measured_on": sweep_part,
        "thresholds": len(THRESHOLDS),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "maps": count,
        "distinct_maps": len(maps),
        "size": [height, width],
        "classes": CLASSES,
        "threads": 1,
        "device": "cpu",
    }


def print_table(result: dict[str, Any]) -> None:
    height, width = result["size"]
    part, few = result["reference_measured_on"], result["sweep_measured_on"]
    print(f"{result['maps']} maps of {width}x{height} px ({result['distinct_maps']} distinct ones),"
          f" {CLASSES} classes, one core")  # fmt: skip
    print(f"{'':46}{'seconds':>10}{'ratio':>8}")
    rows = [
        (f"masked sums per class (from {part} maps)", result["reference_seconds"], 1.0),
        ("one bincount per map", result["seconds"], result["ratio"]),
        (f"60 thresholds, maps read again (from {few} maps)", result["sweep_reference_seconds"], 1.0),
        (f"60 thresholds, one pass (from {few} maps)", result["sweep_seconds"], result["sweep_ratio"]),
    ]
    for name, seconds, ratio in rows:
        print(f"{name:46}{seconds:>10.2f}{ratio:>7.1f}x")
    print(f"largest difference: {result['max_abs_difference']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="8 maps, to see that it runs")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        result = measure(8, 4, 1, 94, 125) if arguments.small else measure(1449, 48, 8, 375, 500)
    print_table(result)
    good = result["max_abs_difference"] < 1e-12
    fast = arguments.small or result["seconds"] < ALLOWED_SECONDS
    if not (good and fast):
        print(f"FAILED: wanted equal counts and less than {ALLOWED_SECONDS} s")
    print(json.dumps({"small": arguments.small, **result}))
    return 0 if good and fast else 1


if __name__ == "__main__":
    sys.exit(main())
