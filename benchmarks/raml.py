"""The accelerations of RAML (raml.md section 5) against loops in the words of the specification.

    python benchmarks/raml.py [--small] [--threads N]

Items 1 overlap of all channel pairs, 2 reconstruction, 3 known channels (all with their gradients), 4 pooling
of DropBlock regions, 7 resampling of the meta maps, 8 means of regions, 9 removal of small components, 10
confusion matrix in evaluation order. The references are those of tests/reference. Either way of an item runs
in a process of its own, on the same input: time, and peak memory above what the process held before. Losses
are measured on 2 crops of 384 px with 20 channels; published are 6 of 768 px, where item 1 holds 10.8 GB. The
last line is JSON. Exit status 1 when, in the full form, item 1 does not take 10 times less memory, item 8 or
10 is not 10 times faster, or a result differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
import torch
from measuring import measured, use_threads
from torch import Tensor

from anyshot.ops.drop_block import keep_masks, pool_by_class
from anyshot.ops.metrics import confusion_counts
from anyshot.ops.regions import find_regions, quarter_round_trip, region_means
from anyshot.raml.meta_losses import inter_loss, known_loss, reconstruction_loss
from tests.reference import raml_losses, raml_regions

THREADS, REQUIRED_RATIO, ALLOWED_DIFFERENCE = 2, 10.0, 1e-5
KNOWN, META, CLASSES, FEATURES, MIN_AREA = 16, 4, 19, 256, 250
EVALUATION_ORDER = np.array([*range(13), 16, 17, 18, 13, 14, 15], dtype=np.uint8)
SMALL_PEAK = 1.0  # MiB; what takes less is counted as this, so that ratios stay finite
Way = Callable[..., Any]


def meta_maps(small: bool) -> tuple[Tensor, Tensor, Tensor]:
    """channels (B, 20, H, W), closed labels (B, H, W), images (B, 3, H, W)."""
    side = 32 if small else 384
    rng = np.random.default_rng(0)
    channels = torch.from_numpy(rng.random((2, KNOWN + META, side, side), dtype=np.float32))
    labels = rng.choice(np.array([*range(KNOWN), 255], dtype=np.uint8), size=(2, side, side))
    images = torch.from_numpy(rng.standard_normal((2, 3, side, side), dtype=np.float32))
    return channels.requires_grad_(), torch.from_numpy(labels), images


def metric_batch(small: bool) -> tuple[Tensor, Tensor, Tensor]:
    """features (4, C, h, w), labels (4, h, w), keep-masks (16, 4, h, w)."""
    side = 16 if small else 128
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(4, FEATURES, side, side, generator=generator)
    coarse = torch.randint(0, KNOWN, (4, side // 8, side // 8), generator=generator).to(torch.uint8)
    labels = coarse.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    keep = keep_masks(draws=KNOWN, images=4, height=side, width=side, generator=generator)
    return features, labels, keep


def quarter_grid(small: bool) -> tuple[int, int]:
    return (32, 64) if small else (256, 512)


def all_maps(small: bool) -> tuple[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(1, KNOWN + META, *quarter_grid(small), generator=generator),)


def blobs(small: bool) -> np.ndarray:
    """Binary map uint8 (h, w): smooth blobs, some of them small, and specks."""
    height, width = quarter_grid(small)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 6)
    return ((smooth > smooth.std()) | (noise > 3)).astype(np.uint8)


def regions(small: bool) -> tuple[Tensor, np.ndarray, int]:
    """features (C, h, w), labels (h, w), their number."""
    found = find_regions(blobs(small), min_area=20 if small else MIN_AREA)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(FEATURES, *quarter_grid(small), generator=generator), found.labels, found.count


def binary_map(small: bool) -> tuple[np.ndarray]:
    return (blobs(small),)


def label_pair(small: bool) -> tuple[np.ndarray, np.ndarray]:
    """truth with void and prediction, train ids uint8 (H, W)."""
    height, width = quarter_grid(small)
    rng = np.random.default_rng(0)
    coarse = rng.choice(np.array([*range(CLASSES), 255], dtype=np.uint8), size=(height // 8, width // 8))
    truth = coarse.repeat(32, axis=0).repeat(32, axis=1)
    wrong = rng.random(truth.shape) < 0.2
    prediction = np.where(wrong | (truth == 255), rng.integers(0, CLASSES, truth.shape), truth)
    return truth, prediction.astype(np.uint8)


def with_gradient(loss: Tensor, channels: Tensor) -> list[Tensor]:
    (slope,) = torch.autograd.grad(loss, channels)
    return [loss.detach(), slope]


def two_resizes(maps: Tensor) -> Tensor:
    return raml_regions.quarter_round_trip(maps)


def small_by_loop(binary: np.ndarray) -> np.ndarray:
    _, labels = cv2.connectedComponents(binary, connectivity=8, ltype=cv2.CV_32S)
    return raml_regions.without_small(labels, MIN_AREA) > 0


def small_by_table(binary: np.ndarray) -> np.ndarray:
    return find_regions(binary, min_area=MIN_AREA).labels > 0


def count_then_rename(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    counts = confusion_counts(truth, prediction, CLASSES)
    order = np.argsort(EVALUATION_ORDER)
    return counts[np.ix_(order, order)]


@dataclass(frozen=True)
class Item:
    """One line of section 5: its name, the maker of its input, the plain and the fast way."""

    name: str
    data: Callable[[bool], tuple[Any, ...]]
    plain: Way
    fast: Way


ITEMS = {
    1: Item("channel pairs, Gram matrix", meta_maps,
            lambda c, t, x: with_gradient(raml_losses.inter_loss(c), c),
            lambda c, t, x: with_gradient(inter_loss(c), c)),
    2: Item("reconstruction", meta_maps,
            lambda c, t, x: with_gradient(raml_losses.reconstruction_loss(c, x), c),
            lambda c, t, x: with_gradient(reconstruction_loss(c, x), c)),
    3: Item("known channels", meta_maps,
            lambda c, t, x: with_gradient(raml_losses.known_loss(c, t, KNOWN), c),
            lambda c, t, x: with_gradient(known_loss(c, t, KNOWN), c)),
    4: Item("DropBlock pooling", metric_batch,
            lambda f, y, keep: raml_losses.pool_by_class(f, y, keep, KNOWN)[0],
            lambda f, y, keep: pool_by_class(f, y, keep, KNOWN)[0]),
    7: Item("meta maps, x 4 and / 4", all_maps, two_resizes, quarter_round_trip),
    8: Item("region means", regions, raml_regions.region_means, region_means),
    9: Item("small components", binary_map, small_by_loop, small_by_table),
    10: Item("confusion matrix", label_pair,
             lambda t, p: raml_regions.confusion_after_passes(t, p, EVALUATION_ORDER), count_then_rename),
}  # fmt: skip


def _one_way(number: int, plain: bool, small: bool, threads: int) -> tuple[float, float, list[np.ndarray]]:
    """Seconds of the fastest run, peak MiB of the first, and the result."""
    use_threads(threads)
    item = ITEMS[number]
    way = item.plain if plain else item.fast
    way(*item.data(True))  # libraries load and set up their workspaces at the first call
    data = item.data(small)
    best, peak, result = measured(lambda: way(*data), runs=1 if plain else 5)
    parts = result if isinstance(result, list) else [result]
    return best, peak, [np.asarray(part) for part in parts]


def one_way(number: int, plain: bool, small: bool, threads: int) -> tuple[float, float, list[np.ndarray]]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_one_way, (number, plain, small, threads))


def difference(plain: list[np.ndarray], fast: list[np.ndarray]) -> float:
    """Largest difference relative to the largest value of the reference."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(plain, fast, strict=True)]
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in pairs)


def measure(number: int, small: bool, threads: int) -> dict[str, Any]:
    reference_seconds, reference_peak, expected = one_way(number, True, small, threads)
    seconds, peak, result = one_way(number, False, small, threads)
    return {
        "item": number,
        "name": ITEMS[number].name,
        "seconds": seconds,
        "reference_seconds": reference_seconds,
        "ratio": reference_seconds / seconds,
        "peak_mib": peak,
        "reference_peak_mib": reference_peak,
        "memory_ratio": max(reference_peak, SMALL_PEAK) / max(peak, SMALL_PEAK),
        "relative_difference": difference(expected, result),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    heads = ("reference s", "here s", "faster", "reference MiB", "here MiB", "less", "difference")
    print(f"{'item':32}" + "".join(f"{head:>14}" for head in heads))
    for row in rows:
        print(f"{row['item']:>2}  {row['name']:28}{row['reference_seconds']:>14.4f}{row['seconds']:>14.4f}"
              f"{row['ratio']:>13.1f}x{row['reference_peak_mib']:>14.1f}{row['peak_mib']:>14.1f}"
              f"{row['memory_ratio']:>13.1f}x{row['relative_difference']:>14.1e}")  # fmt: skip


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """What the full form was to show and did not."""
    by_item = {row["item"]: row for row in rows}
    found = [f"item {n}: {row['relative_difference']:.1e} apart" for n, row in by_item.items()
             if row["relative_difference"] > ALLOWED_DIFFERENCE]  # fmt: skip
    if by_item[1]["memory_ratio"] < REQUIRED_RATIO:
        found.append(f"item 1: {by_item[1]['memory_ratio']:.1f} times less memory")
    found += [f"item {n}: {by_item[n]['ratio']:.1f} times faster" for n in (8, 10)
              if by_item[n]["ratio"] < REQUIRED_RATIO]  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny inputs, to see that it runs")
    parser.add_argument("--threads", type=int, default=THREADS, metavar="N")
    arguments = parser.parse_args()
    rows = [measure(number, arguments.small, arguments.threads) for number in ITEMS]
    print_table(rows)
    found = [] if arguments.small else failures(rows)
    for line in found:
        print(f"FAILED: wanted {REQUIRED_RATIO:.0f} times, at most {ALLOWED_DIFFERENCE} apart; {line}")
    result = {"benchmark": "raml", "items": rows, "threads": arguments.threads, "device": "cpu"}
    print(json.dumps({"small": arguments.small, **result}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
