"""AUROC, average precision and the false positive rate at 95 % recall of anomaly scores (raml.md 4.1; G9).

All of them follow from the distinct scores of the anomalous pixels and the number of normal pixels below and
at each: recall changes nowhere else. Equal scores share one threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RECALL = 0.95
CURVE_POINTS = 100
DIGITS = 6  # of a curve's numbers
Values = dict[str, float | None]
Curve = dict[str, list[float]]
NAMES = ("auroc", "aupr", "fpr95", "fpr95_nearest")


@dataclass(frozen=True)
class _Steps:
    """Per distinct score of an anomalous pixel, ascending, int64 (V,): anomalous pixels with this score,
    normal pixels below it, normal pixels with this score; and the number of all normal pixels."""

    anomalous: np.ndarray
    below: np.ndarray
    equal: np.ndarray
    normal: int


def anomaly_scores(scores: np.ndarray, flags: np.ndarray) -> Values:
    """Metrics of scores (any shape, high = anomalous) against flags of the same shape, True = anomalous.

    auroc: ties count half. aupr: step-wise average precision. Two tie rules of the FPR at 95 % recall:
    fpr95 (`first`) at the highest threshold with recall >= 0.95; fpr95_nearest (`nearest_last`, DMLNet's) at
    the threshold with the recall nearest to 0.95 in float64, of equal ones the lowest, where the sweep ends
    as soon as every anomalous pixel is found. A value that is undefined (no anomalous pixel; for auroc and
    fpr also no normal one) is None, never NaN. Raises ValueError for NaN scores or unequal shapes.
    """
    anomalous, normal = _split(scores, flags)
    return _values(_steps(anomalous, np.sort(normal)))


def _split(
    scores: np.ndarray, flags: np.ndarray, valid: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of anomalous and of normal pixels, 1-D."""
    if scores.shape != flags.shape:
        raise ValueError(f"scores {scores.shape} and flags {flags.shape} differ in shape")
    chosen, other = flags.astype(bool), ~flags.astype(bool)
    if valid is not None:
        chosen, other = chosen & valid, other & valid
    parts = scores[chosen], scores[other]
    if any(np.isnan(part).any() for part in parts):
        raise ValueError("the anomaly scores hold NaN; look at the network's output")
    return parts


def _steps(anomalous: np.ndarray, normal: np.ndarray) -> _Steps:
    """normal is sorted."""
    values, counts = np.unique(anomalous, return_counts=True)
    below = np.searchsorted(normal, values, side="left")
    equal = np.searchsorted(normal, values, side="right") - below
    return _Steps(anomalous=counts, below=below, equal=equal, normal=len(normal))


def _values(steps: _Steps) -> Values:
    positives = int(steps.anomalous.sum())
    if not positives:
        return dict.fromkeys(NAMES)
    hits = steps.anomalous[::-1]
    found = hits.cumsum()
    alarms = (steps.normal - steps.below)[::-1]
    average_precision = float((hits * (found / (found + alarms))).sum() / positives)  # exact where it is 1
    if not steps.normal:
        return {"auroc": None, "aupr": average_precision, "fpr95": None, "fpr95_nearest": None}
    wins = (steps.anomalous * (steps.below + steps.equal / 2)).sum()
    recall = found / positives
    distance = np.abs(recall - RECALL)
    nearest = int(np.flatnonzero(distance == distance.min())[-1])
    # the lowest threshold with this recall lies just above the next anomalous score
    last = alarms[nearest] if nearest == len(alarms) - 1 else (alarms - steps.equal[::-1])[nearest + 1]
    return {
        "auroc": float(wins / positives / steps.normal),
        "aupr": average_precision,
        "fpr95": float(alarms[np.flatnonzero(recall >= RECALL)[0]] / steps.normal),
        "fpr95_nearest": float(last / steps.normal),
    }


def _thinned(position: np.ndarray, points: int) -> np.ndarray:
    """Indices of about `points` entries of an ascending array, evenly in value, the ends included."""
    wanted = np.linspace(position[0], position[-1], points)
    return np.unique(np.append(np.searchsorted(position, wanted), len(position) - 1))


def _curves(steps: _Steps, points: int) -> dict[str, Curve | None]:
    """ROC and precision-recall curve of at most about `points` points each, from the highest threshold down.

    ROC: corners of the exact curve, to be joined by straight lines (equal scores give slanted ones), evenly
    along it. Precision-recall: precision at a threshold that just finds each recall; the step-wise average
    precision takes each value for the recalls up to it. None where undefined, as in `_values`.
    """
    positives = int(steps.anomalous.sum())
    if not positives:
        return {"roc": None, "precision_recall": None}
    found = steps.anomalous[::-1].cumsum()
    alarms = (steps.normal - steps.below)[::-1]
    recall, precision = found / positives, found / (found + alarms)
    chosen = _thinned(recall, points)
    curves: dict[str, Curve | None] = {
        "roc": None,
        "precision_recall": {"recall": _rounded(recall[chosen]), "precision": _rounded(precision[chosen])},
    }
    if steps.normal:
        # two corners per distinct score: just above it, and at it; then all normal pixels below
        above = alarms - steps.equal[::-1]
        rates = np.append(np.stack([above, alarms], axis=1).reshape(-1), steps.normal) / steps.normal
        hits = np.append(np.stack([found - steps.anomalous[::-1], found], axis=1).reshape(-1), positives)
        rates, hits = np.append(0.0, rates), np.append(0, hits) / positives
        chosen = _thinned(rates + hits, points)
        curves["roc"] = {"fpr": _rounded(rates[chosen]), "tpr": _rounded(hits[chosen])}
    return curves


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), DIGITS) for value in values]


class AnomalyTally:
    """Metrics over a set of images: the mean of per-image values (DMLNet's protocol) and pooled ones.

    Images without an anomalous pixel have no per-image value and are counted as skipped; the pooled values
    use their pixels too. Pooled values are exact by default and then keep 4 bytes per pixel. With `bins` they
    come from a histogram over [low, high] (scores outside go to its ends): memory is then two counts per bin,
    and scores that share a bin count as equal.
    """

    def __init__(self, *, bins: int | None = None, low: float = 0.0, high: float = 1.0) -> None:
        if bins is not None and (bins < 2 or not low < high):
            raise ValueError(f"{bins} bins over [{low}, {high}]: give at least 2 bins and low < high")
        self.images = 0
        self.skipped = 0
        self._rows: list[Values] = []
        self._kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self._low, self._high = low, high
        self._histogram = None if bins is None else np.zeros((2, bins), dtype=np.int64)

    def add(self, scores: np.ndarray, flags: np.ndarray, *, valid: np.ndarray | None = None) -> None:
        """Add one image: scores (H, W), flags bool (H, W), True = anomalous, and valid bool (H, W), False =
        left out. Raises ValueError as `anomaly_scores`."""
        anomalous, normal = _split(scores.astype(np.float32, copy=False), flags, valid)
        self.images += 1
        if len(anomalous):
            self._rows.append(_values(_steps(anomalous, np.sort(normal))))
        else:
            self.skipped += 1
        if self._histogram is None:
            self._kept[0].append(anomalous)
            self._kept[1].append(normal)
            return
        for counts, part in zip(self._histogram, (anomalous, normal), strict=True):
            counts += np.bincount(self._bin(part, len(counts)), minlength=len(counts))

    def _bin(self, scores: np.ndarray, bins: int) -> np.ndarray:
        share = (scores.astype(np.float64).clip(self._low, self._high) - self._low) / (self._high - self._low)
        return np.minimum((share * bins).astype(np.int64), bins - 1)

    def _pooled_steps(self) -> _Steps:
        if self._histogram is None:
            anomalous, normal = (np.concatenate([np.zeros(0, np.float32), *part]) for part in self._kept)
            return _steps(anomalous, np.sort(normal))
        anomalous, normal = self._histogram
        used = np.flatnonzero(anomalous)
        below = normal.cumsum() - normal
        return _Steps(anomalous[used], below[used], normal[used], int(normal.sum()))

    def pooled(self) -> Values:
        """Metrics over the pixels of all images together."""
        return _values(self._pooled_steps())

    def curves(self, points: int = CURVE_POINTS) -> dict[str, Curve | None]:
        """Curves over the pixels of all images together, about `points` points each: `roc` {fpr, tpr} and
        `precision_recall` {recall, precision}, recalls ascending. None where there is no anomalous pixel, for
        the ROC also where there is no normal one. Raises ValueError for fewer than 2 points."""
        if points < 2:
            raise ValueError(f"a curve of {points} points; give at least 2")
        return _curves(self._pooled_steps(), points)

    def per_image(self) -> Values:
        """Mean of each metric over the images where it is defined; None when there is none."""
        columns = {name: [row[name] for row in self._rows] for name in NAMES}
        known = {name: [value for value in column if value is not None] for name, column in columns.items()}
        return {name: sum(column) / len(column) if column else None for name, column in known.items()}

    def result(self) -> dict[str, int | Values | dict[str, Curve | None]]:
        """Counts of images and of skipped ones, per-image means, pooled values and curves; fit for JSON."""
        steps = self._pooled_steps()  # once: it sorts the pixels of all images
        return {
            "images": self.images,
            "images_without_anomaly": self.skipped,
            "per_image": self.per_image(),
            "pooled": _values(steps),
            "curves": _curves(steps, CURVE_POINTS),
        }
