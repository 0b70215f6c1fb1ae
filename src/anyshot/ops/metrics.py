"""One metric: an int64 confusion matrix over a whole set, and the means read from it (retab.md 3.1).

IoU_c = TP_c / (P_c + T_c - TP_c) over all pixels whose truth is not void. Void pixels lie in an extra row, so
nothing is lost: `matrix[truth, prediction]`, row C = void.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class Confusion:
    """Counts of (truth, prediction) pairs of class indices, int64 (C + 1, C + 1); index C is void.

    Truth values outside 0..C-1 count as void. Predictions outside 0..C-1 count against the truth's class, in
    the last column.
    """

    def __init__(self, classes: int, matrix: np.ndarray | None = None) -> None:
        self.classes = classes
        self.matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64) if matrix is None else matrix

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add one map pair of equal shape, integer class indices. Raises ValueError when the shapes
        differ."""
        if truth.shape != prediction.shape:
            raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
        self.matrix += confusion_counts(truth, prediction, self.classes)

    @property
    def true_positives(self) -> np.ndarray:
        return np.diagonal(self.matrix)[: self.classes]

    @property
    def truth_pixels(self) -> np.ndarray:
        return self.matrix[: self.classes].sum(axis=1)

    @property
    def predicted_pixels(self) -> np.ndarray:
        return self.matrix[: self.classes, : self.classes].sum(axis=0)

    def iou(self) -> np.ndarray:
        """IoU per class, float64 (C,); NaN for a class in neither truth nor prediction."""
        return intersection_over_union(self.true_positives, self.truth_pixels, self.predicted_pixels)


def confusion_counts(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts int64 (C + 1, C + 1) of one pair of maps, by one bincount; indices outside 0..C-1 go to the
    last."""
    side = classes + 1
    if truth.dtype == np.uint8 and prediction.dtype == np.uint8 and side <= 256:
        # 16-bit codes: a bincount over 65,536 bins needs no clipping and no 64-bit temporaries
        codes = truth.reshape(-1).astype(np.uint16) << 8
        codes |= prediction.reshape(-1)
        counts = np.bincount(codes, minlength=65536).reshape(256, 256)
        folded = np.add.reduceat(counts, [*range(side)], axis=0)
        return np.add.reduceat(folded, [*range(side)], axis=1).astype(np.int64)
    rows = np.where((truth < 0) | (truth >= classes), classes, truth).astype(np.int64)
    columns = np.where((prediction < 0) | (prediction >= classes), classes, prediction).astype(np.int64)
    return np.bincount((rows * side + columns).reshape(-1), minlength=side * side).reshape(side, side)


def intersection_over_union(
    true_positives: np.ndarray, truth: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """TP / (P + T - TP) per class, float64; NaN where the union is empty."""
    union = (truth + predicted - true_positives).astype(np.float64)
    return np.divide(true_positives, union, out=np.full(union.shape, np.nan), where=union > 0)


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Class indices of the means. `base` includes background when the protocol says so."""

    base: Sequence[int]
    novel: Sequence[int]


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b); 0 when both are 0."""
    return 0.0 if first + second == 0 else 2 * first * second / (first + second)


def means(iou: np.ndarray, roles: Roles) -> dict[str, float]:
    """all, base, novel and harmonic means of per-class IoU in [0, 1].

    A class without a pixel in truth and prediction has no IoU (NaN) and is left out; a mean of none is NaN.
    """
    every = [*roles.base, *roles.novel]
    base, novel = _mean(iou[list(roles.base)]), _mean(iou[list(roles.novel)])
    return {"all": _mean(iou[every]), "base": base, "novel": novel, "harmonic": harmonic_mean(base, novel)}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def image_mean_iou(counts: np.ndarray) -> float:
    """Mean IoU of one image over the classes present in its truth; NaN when there is none."""
    classes = len(counts) - 1
    confusion = Confusion(classes, counts)
    present = confusion.truth_pixels > 0
    return float(confusion.iou()[present].mean()) if present.any() else float("nan")


def class_rows(
    iou: np.ndarray, pixels: np.ndarray, classes: Sequence[tuple[int, str]], roles: Roles
) -> list[dict[str, Any]]:
    """One record per class: id, name, role, iou (None when undefined), truth pixels."""
    novel = set(roles.novel)
    base = set(roles.base)
    return [
        {
            "id": class_id,
            "name": name,
            "role": "novel" if index in novel else "base" if index in base else "ignore",
            "iou": None if np.isnan(iou[index]) else float(iou[index]),
            "pixels": int(pixels[index]),
        }
        for index, (class_id, name) in enumerate(classes)
    ]


class ThresholdSweep:
    """All thresholds of a constant background score in one pass (retab.md 3.1, 5.2.10).

    A pixel is predicted background at threshold t iff t >= its best foreground score (ties go to background),
    else the class of that score. Kept: truth pixels per class, and per threshold step histograms, so memory
    is O(classes x thresholds) and every threshold's counts are exact.
    """

    def __init__(self, classes: int, thresholds: np.ndarray) -> None:
        self.classes = classes
        self.thresholds = np.asarray(thresholds, dtype=np.float32)
        bins = len(self.thresholds) + 1
        self._truth = np.zeros(classes, dtype=np.int64)
        self._hits = np.zeros((classes, bins), dtype=np.int64)
        self._best = np.zeros((classes, bins), dtype=np.int64)
        self._background = np.zeros(bins, dtype=np.int64)

    def add(self, truth: np.ndarray, best_class: np.ndarray, best_score: np.ndarray) -> None:
        """truth (H, W) indices (>= C is void), best_class (H, W) of the foreground, best_score (H, W)
        float32."""
        known = (truth < self.classes) & (truth >= 0)
        target, best = truth[known].astype(np.int64), best_class[known].astype(np.int64)
        # step j: the pixel is foreground at thresholds 0..j-1 (those below its score), background from j on
        step = np.searchsorted(self.thresholds, best_score[known].astype(np.float32), side="left")
        bins = len(self.thresholds) + 1
        self._truth += np.bincount(target, minlength=self.classes)
        self._best += np.bincount(best * bins + step, minlength=self.classes * bins).reshape(-1, bins)
        hit = target == best
        self._hits += np.bincount(best[hit] * bins + step[hit], minlength=self.classes * bins).reshape(
            -1, bins
        )
        self._background += np.bincount(step[target == 0], minlength=bins)

    def merge(self, other: ThresholdSweep) -> None:
        """Add the counts of a sweep with the same classes and thresholds."""
        self._truth += other._truth
        self._hits += other._hits
        self._best += other._best
        self._background += other._background

    def iou(self) -> np.ndarray:
        """IoU (thresholds, C), float64; class 0 is background."""
        foreground = self._best[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:].T
        hits = self._hits[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:].T.copy()
        predicted = foreground.copy()
        predicted[:, 0] += self._truth.sum() - foreground.sum(axis=1)
        hits[:, 0] += self._background.cumsum()[:-1]
        return intersection_over_union(hits, self._truth[None, :], predicted)

    def truth_pixels(self) -> np.ndarray:
        return self._truth

    def table(self, roles: Roles) -> Mapping[str, list[float]]:
        """Means at every threshold: thresholds, all, base, novel, harmonic."""
        rows = [means(row, roles) for row in self.iou()]
        columns = {key: [row[key] for row in rows] for key in ("all", "base", "novel", "harmonic")}
        return {"thresholds": [round(float(t), 6) for t in self.thresholds], **columns}
