"""Scores by counting pixels one by one, and a sweep that looks at every threshold anew (retab.md 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

MapPair = tuple[np.ndarray, np.ndarray]
Scored = tuple[np.ndarray, np.ndarray, np.ndarray]  # truth, best foreground class, its score


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts [truth, prediction], int (C + 1, C + 1); what is no class index counts as index C."""
    counts = np.zeros((classes + 1, classes + 1), dtype=int)
    for row, column in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        row = row if 0 <= row < classes else classes
        column = column if 0 <= column < classes else classes
        counts[row, column] += 1
    return counts


def masked_sums(
    pairs: Iterable[MapPair], classes: int, void: int = 255
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P, T and TP per class over all pixels with truth < void: three masked sums per class and image."""
    predicted, truths, hits = (np.zeros(classes, dtype=np.int64) for _ in range(3))
    for truth, prediction in pairs:
        known = truth < void
        for c in range(classes):
            predicted[c] += np.sum((prediction == c) & known)
            truths[c] += np.sum((truth == c) & known)
            hits[c] += np.sum((prediction == c) & (truth == c) & known)
    return predicted, truths, hits


def iou(predicted: np.ndarray, truths: np.ndarray, hits: np.ndarray) -> list[float | None]:
    """TP / (P + T - TP); None for a class that nowhere occurs."""
    unions = (predicted + truths - hits).tolist()
    return [hit / union if union else None for hit, union in zip(hits.tolist(), unions, strict=True)]


def sweep(images: Sequence[Scored], classes: int, thresholds: Iterable[float]) -> list[list[float | None]]:
    """IoU per threshold and class. All images are read again for each threshold t: the background channel is
    the constant t and the prediction the argmax, so t == score gives background."""
    rows = []
    for t in np.asarray(list(thresholds), dtype=np.float32):
        predictions = [np.where(t >= score, 0, best) for _, best, score in images]
        pairs = [(truth, p) for (truth, _, _), p in zip(images, predictions, strict=True)]
        rows.append(iou(*masked_sums(pairs, classes)))
    return rows
