"""Whether features group the pixels of a class: labels by the nearest of a few seeds (larvseg.md 2.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.engine import draws
from anyshot.ops.metrics import Confusion, Roles, confusion_counts, means
from anyshot.ops.pixel_taps import PixelMap, Taps

Absent = Literal["never", "zero"]

BAND = 2**24  # numbers of features and of cosines that are held at once


@dataclass(frozen=True)
class Seeds:
    """Seed pixels of one drawing: pixels (S,) in row-major order, classes (S,) class indices."""

    pixels: np.ndarray
    classes: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """The classes that have a seed, ascending."""
        return np.unique(self.classes)


def draw_seeds(truth: np.ndarray, *, classes: int, points: int, rng: np.random.Generator) -> Seeds:
    """`points` random pixels of every class of truth (H, W), without repeats; all of a class with fewer.

    Values of truth outside 0..classes - 1 are no class.
    """
    flat = truth.reshape(-1)
    known = np.unique(flat[(flat >= 0) & (flat < classes)])
    parts = []
    for index in known:
        own = np.flatnonzero(flat == index)
        parts.append(rng.choice(own, size=min(points, len(own)), replace=False))
    sizes = [len(part) for part in parts]
    pixels = np.concatenate([np.zeros(0, np.int64), *parts])
    return Seeds(pixels, np.repeat(known.astype(np.int64), sizes))


def nearest_seed(cosines: Tensor, seeds: Seeds, *, classes: int, absent: Absent) -> Tensor:
    """Class index (P,) by the largest cosine with a class's seeds; cosines (P, S).

    absent: score of classes without a seed, `never` = none. `zero` is what the release does: a pixel whose
    best cosine is negative goes to the first such class.
    """
    present = torch.from_numpy(seeds.present).to(cosines.device)
    place = torch.searchsorted(present, torch.from_numpy(seeds.classes).to(cosines.device))
    scores = cosines.new_full((len(cosines), len(present)), -torch.inf)
    scores.scatter_reduce_(1, place.expand(len(cosines), -1), cosines, reduce="amax")
    best, which = scores.max(dim=1)
    found = present[which]
    without = np.setdiff1d(np.arange(classes), seeds.present)
    if absent == "zero" and len(without):
        found = torch.where(best < 0, int(without[0]), found)
    return found


@torch.no_grad()
def seeded_labels(
    units: Tensor, pixels: PixelMap, drawings: Sequence[Seeds], *, classes: int, absent: Absent
) -> list[np.ndarray]:
    """Labels (H, W) int64 of one image for every drawing of seeds.

    units: (T, D) unit vectors of the tokens; pixels: how pixels are made of them. Features of pixels are
    normalised again after the upsampling. All drawings share one pass over the pixels.
    """
    width = pixels.width
    every = np.unique(np.concatenate([seeds.pixels for seeds in drawings]))
    vectors = torch.cat([_features(units, pixels, every[every // width == row]) for row in
                         np.unique(every // width)])  # fmt: skip
    places = [np.searchsorted(every, seeds.pixels) for seeds in drawings]
    found = [np.empty((pixels.height, width), dtype=np.int64) for _ in drawings]
    rows = max(1, BAND // (width * (units.shape[1] + len(every))))
    for start in range(0, pixels.height, rows):
        stop = min(start + rows, pixels.height)
        here = _unit(pixels.rows(start, stop, units.device), units)
        cosines = here @ vectors.T
        for labels, seeds, place in zip(found, drawings, places, strict=True):
            own = cosines[:, torch.from_numpy(place).to(cosines.device)]
            part = nearest_seed(own, seeds, classes=classes, absent=absent)
            labels[start:stop] = part.view(-1, width).cpu().numpy()
    return found


def _features(units: Tensor, pixels: PixelMap, wanted: np.ndarray) -> Tensor:
    """Unit vectors (n, D) of pixels of one row, by their places in the image."""
    row = int(wanted[0]) // pixels.width
    columns = torch.from_numpy(wanted % pixels.width).to(units.device)
    return _unit(pixels.rows(row, row + 1, units.device).part(columns), units)


def _unit(taps: Taps, units: Tensor) -> Tensor:
    return F.normalize(Taps(taps.tokens, taps.weights.to(units.dtype)).of(units), dim=1)


class CompactnessCount:
    """Confusion matrices of all drawings: for each number of seeds, one per repetition.

    Args:
        classes: C, class indices of the target.
        points: seeds per class.
        repeats: drawings of each.
    """

    def __init__(self, *, classes: int, points: Sequence[int], repeats: int) -> None:
        self.classes, self.points, self.repeats = classes, list(points), repeats
        side = classes + 1
        self.matrices = np.zeros((len(self.points) * repeats, side, side), dtype=np.int64)

    def drawings(self, truth: np.ndarray, *, seed: int, image: int) -> list[Seeds]:
        """Seeds of image number `image`, by number of points, then repetition; independent of all others."""
        return [
            draw_seeds(
                truth,
                classes=self.classes,
                points=points,
                rng=np.random.default_rng([seed, image, points, repeat]),
            )
            for points in self.points
            for repeat in range(self.repeats)
        ]

    def add(self, truth: np.ndarray, found: Sequence[np.ndarray]) -> None:
        """Add the labels (H, W) of one image, in the order of `drawings`."""
        for matrix, labels in zip(self.matrices, found, strict=True):
            matrix += confusion_counts(truth, labels, self.classes)

    def result(self, roles: Roles) -> list[dict[str, Any]]:
        """Per number of points: mean and sample standard deviation of mIoU over the repetitions; JSON types.

        `seen` are base classes, `unseen` novel ones. A class that is nowhere has no IoU.
        """
        entries = []
        for number, points in enumerate(self.points):
            own = self.matrices[number * self.repeats : (number + 1) * self.repeats]
            each = [means(Confusion(self.classes, matrix).iou(), roles) for matrix in own]
            entry: dict[str, Any] = {"points": points}
            for key, title in (("all", "all"), ("base", "seen"), ("novel", "unseen")):
                values = [row[key] for row in each]
                entry[title] = {
                    "mean": draws.plain(np.mean(values)),
                    "spread": draws.spread(values),
                    "each": [draws.plain(value) for value in values],
                }
            entries.append(entry)
        return entries
