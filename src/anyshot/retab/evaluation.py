"""Scores of CAMs, walks and label maps against the masks (retab.md 3), image by image, to be merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anyshot.data.classes import ClassTable
from anyshot.engine.stores import ScoreMap
from anyshot.errors import DataError
from anyshot.ops.metrics import (
    Confusion,
    Roles,
    ThresholdSweep,
    class_rows,
    confusion_counts,
    image_mean_iou,
    means,
)
from anyshot.ops.resample import upsample_grid

PROTOCOL = (
    "IoU over all pixels of the subset whose truth is not void; mIoU all = mean of background and"
    " every class, base ="
    " mean of background and the base classes, novel = mean of the novel classes, harmonic = 2 base novel /"
    " (base + novel). Thresholds are chosen on the masks of this very subset, as is customary for"
    " pseudo labels."
)


def full_scores(scores: ScoreMap) -> np.ndarray:
    """Scores at the image's size, float32 (k, H, W)."""
    return upsample_grid(scores.scores, stride=scores.stride, height=scores.height, width=scores.width)


def label_map(scores: ScoreMap, *, background: int, threshold: float | None = None) -> np.ndarray:
    """Class ids (H, W) of a walk's result: argmax, lowest channel on ties.

    With `threshold` the background score is that constant (ties go to background). Channel 0 is the
    background.
    """
    full = full_scores(scores)
    if threshold is not None and len(full):
        full = np.concatenate([np.full_like(full[:1], threshold), full[1:]])  # `full` may be the caller's own
    ids = scores.classes.astype(np.uint8 if scores.classes.max(initial=0) < 255 else np.uint16)
    if not len(full):
        return np.full((scores.height, scores.width), background, dtype=np.uint8)
    return ids[full.argmax(axis=0)]


def best_foreground(scores: ScoreMap, table: ClassTable) -> tuple[np.ndarray, np.ndarray]:
    """Index of the best foreground class (H, W) uint8 and its score (H, W) float32; lowest index on ties.

    With no foreground class the score is -1, so that every threshold gives background.
    """
    foreground = [k for k, class_id in enumerate(scores.classes) if class_id != table.ids[0]]
    shape = (scores.height, scores.width)
    if not foreground:
        return np.ones(shape, dtype=np.uint8), np.full(shape, -1, dtype=np.float32)
    full = full_scores(scores)[foreground]
    indices = np.array([table.index_of[int(scores.classes[k])] for k in foreground], dtype=np.uint8)
    return indices[full.argmax(axis=0)], full.max(axis=0)


@dataclass
class Tally:
    """Counts of one variant: label maps, and a threshold sweep where scores exist."""

    classes: int
    thresholds: np.ndarray | None
    labels: Confusion = field(init=False)
    sweep: ThresholdSweep | None = field(init=False)
    images: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.labels = Confusion(self.classes)
        self.sweep = None if self.thresholds is None else ThresholdSweep(self.classes, self.thresholds)

    def add_labels(self, sample_id: str, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Add a pair of index maps, uint8 (H, W)."""
        counts = confusion_counts(truth, prediction, self.classes)
        self.labels.matrix += counts
        self.images[sample_id] = image_mean_iou(counts)

    def merge(self, other: Tally) -> None:
        """Add another part of the same variant."""
        self.labels.matrix += other.labels.matrix
        self.images.update(other.images)
        if self.sweep is not None and other.sweep is not None:
            self.sweep.merge(other.sweep)


def plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values with None for NaN, which JSON does not know (a mean over classes that never occur)."""
    return {key: None if np.isnan(value) else value for key, value in values.items()}


def measured(iou: np.ndarray, pixels: np.ndarray, table: ClassTable, roles: Roles) -> dict[str, Any]:
    """Means and classes of one result: all, base, novel, harmonic, classes."""
    names = list(zip(table.ids, table.names, strict=True))
    return {**plain(means(iou, roles)), "classes": class_rows(iou, pixels, names, roles)}


def sweep_result(sweep: ThresholdSweep, table: ClassTable, roles: Roles) -> dict[str, Any]:
    """The best threshold by the mean of all classes, its result, the best one for novel classes, and the
    curve.

    The threshold of the novel classes is None when none of them occurs. Raises DataError when no class does.
    """
    curve: Mapping[str, list[float]] = sweep.table(roles)
    best, best_novel = _peak(curve["all"]), _peak(curve["novel"])
    if best is None:
        raise DataError("no pixel of the scored images has a known class: check their masks")
    return {
        "threshold": curve["thresholds"][best],
        "at_sweep_edge": best in (0, len(curve["thresholds"]) - 1),
        "best": measured(sweep.iou()[best], sweep.truth_pixels(), table, roles),
        "best_novel_threshold": None if best_novel is None else curve["thresholds"][best_novel],
        "sweep": {key: [None if np.isnan(value) else value for value in row] for key, row in curve.items()},
    }


def _peak(values: list[float]) -> int | None:
    """Position of the largest value; None when all are NaN (no class of the mean occurs)."""
    return None if np.isnan(values).all() else int(np.nanargmax(values))


def thresholds_of(first_last_step: list[float]) -> np.ndarray:
    """Thresholds first, first + step, ... up to last."""
    first, last, step = first_last_step
    return first + step * np.arange(round((last - first) / step) + 1)
