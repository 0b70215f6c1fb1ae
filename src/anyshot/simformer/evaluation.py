"""Scores of SimFormer and its variants from confusion matrices (simformer.md 4.1). No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anyshot.engine import draws
from anyshot.ops.metrics import Confusion, Roles, harmonic_mean
from anyshot.simformer.tables import WeakTables

PROTOCOL = (
    "IoU over all pixels of the subset whose truth is not void; every class competes at every pixel. mIoU all"
    " = sum over the classes with truth, divided by the number of classes with truth or prediction; base and"
    " novel = means over their classes with truth; harmonic = 2 base novel / (base + novel), which the paper"
    " does not have."
)


def weak_means(confusion: Confusion, roles: Roles) -> dict[str, float]:
    """all, base, novel, harmonic as fractions; NaN for a mean of no class."""
    iou, present = confusion.iou(), confusion.truth_pixels > 0
    base, novel = (
        _mean(iou[[index for index in part if present[index]]]) for part in (roles.base, roles.novel)
    )
    return {
        "all": _mean(iou[~np.isnan(iou)]),
        "base": base,
        "novel": novel,
        "harmonic": harmonic_mean(base, novel),
    }


def accuracies(confusion: Confusion) -> dict[str, float]:
    """Fractions: `pixel` accuracy, `mean` accuracy over the classes with truth, frequency-weighted `iou`."""
    truth, hits = confusion.truth_pixels, confusion.true_positives
    present = truth > 0
    iou = confusion.iou()
    return {
        "pixel_accuracy": float(hits.sum() / max(truth.sum(), 1)),
        "mean_accuracy": _mean(hits[present] / truth[present]),
        "frequency_weighted_iou": float((iou[present] * truth[present]).sum() / max(truth.sum(), 1)),
    }


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Sum of the shards' matrices by variant, in order of appearance."""
    totals: dict[str, np.ndarray] = {}
    for part in parts:
        matrix = np.asarray(part["matrix"], dtype=np.int64)
        totals[part["variant"]] = totals.get(part["variant"], 0) + matrix
    return totals


def scored_variants(totals: Mapping[str, np.ndarray], tables: WeakTables) -> list[dict[str, Any]]:
    """One entry per variant, as in every system's `variants`, and its accuracies."""
    names = list(zip(tables.table.ids, tables.table.names, strict=True))
    entries = draws.scored_variants(
        {(variant, 0, 0): matrix for variant, matrix in totals.items()},
        names,
        tables.roles,
        measure=weak_means,
    )
    for entry in entries:
        found = accuracies(Confusion(len(names), totals[entry["variant"]]))
        entry["accuracies"] = {key: draws.plain(value) for key, value in found.items()}
    return entries


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
