"""Scores of methods that learn from drawn support images: per draw, their mean and spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyshot.errors import ArtifactError
from anyshot.ops.metrics import Confusion, Roles, class_rows, means

KEYS = ("all", "base", "novel", "harmonic")

Scored = tuple[str, int, int]  # variant, shots, support seed; 0 and 0 for what knows no support image
Measure = Callable[[Confusion, Roles], Mapping[str, float]]  # a protocol's means of a matrix


def summed(parts: Sequence[Mapping[Scored, np.ndarray]], *, stage: str) -> dict[Scored, np.ndarray]:
    """Sum of the shards' confusion matrices. Raises ArtifactError when they did not score the same things;
    `stage` is the rule to run again."""
    totals: dict[Scored, np.ndarray] = {}
    for number, part in enumerate(parts):
        if number and part.keys() != totals.keys():
            raise ArtifactError(f"the shards scored different things: run {stage} again")
        totals = {key: totals.get(key, 0) + matrix for key, matrix in part.items()}
    return totals


def iou_means(confusion: Confusion, roles: Roles) -> Mapping[str, float]:
    """all, base, novel and harmonic means of a matrix, over classes in truth or prediction."""
    return means(confusion.iou(), roles)


def scored_variants(
    totals: Mapping[Scored, np.ndarray],
    classes: Sequence[tuple[int, str]],
    roles: Roles,
    *,
    measure: Measure = iou_means,
) -> list[dict[str, Any]]:
    """One entry per variant and number of shots: every draw's means, their mean and sample standard
    deviation (None for a single draw), and the IoU per class, mean over the draws.

    totals: matrices (C + 1, C + 1); classes: id and name of the C indices; roles: which are base and novel;
    measure: a protocol's own means of a matrix.
    """
    groups: dict[tuple[str, int], list[tuple[int, np.ndarray]]] = defaultdict(list)
    for (variant, shots, draw), matrix in sorted(totals.items(), key=lambda item: item[0][2]):
        groups[variant, shots].append((draw, matrix))
    found = []
    for (variant, shots), members in groups.items():
        confusions = [Confusion(len(classes), matrix) for _, matrix in members]
        iou = np.stack([confusion.iou() for confusion in confusions])
        draws = [measure(confusion, roles) for confusion in confusions]
        found.append(
            {
                "variant": variant,
                "shots": shots,
                "support_seeds": [draw for draw, _ in members],
                **over_draws(draws),
                "each": [{key: plain(row[key]) for key in KEYS} for row in draws],
                "classes": class_rows(_seen_mean(iou), confusions[0].truth_pixels, classes, roles),
            }
        )
    return found


def result(
    variants: Sequence[Mapping[str, Any]],
    shown: Mapping[str, Any],
    *,
    manifest: Path,
    images: int,
    **facts: Any,
) -> dict[str, Any]:
    """The content of `miou.json`: all variants, and at its top the one that is `shown`.

    manifest: of the data set; images: that were scored; facts: further entries.
    """
    return {
        "dataset": manifest.parent.name,
        "variant": shown["variant"],
        "shots": shown["shots"],
        "images": images,
        "miou": shown["mean"],
        "spread": shown["spread"],
        "classes": shown["classes"],
        "variants": list(variants),
        **facts,
    }


def in_words(entry: Mapping[str, Any]) -> str:
    """An entry of `scored_variants` for the log, means in percent."""
    mean = {key: "-" if value is None else f"{100 * value:.2f}" for key, value in entry["mean"].items()}
    return f"{entry['variant']}{', {} shots'.format(entry['shots']) if entry['shots'] else ''}: {mean}"


def _seen_mean(iou: np.ndarray) -> np.ndarray:
    """Mean over the draws (D, C) -> (C,) of what is defined; NaN where nothing is."""
    seen = ~np.isnan(iou)
    return np.divide(
        np.where(seen, iou, 0).sum(axis=0), seen.sum(axis=0),
        out=np.full(iou.shape[1], np.nan), where=seen.any(axis=0),
    )  # fmt: skip


def over_draws(draws: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """`mean` and `spread` (sample standard deviation, None for a single draw) of every key over the draws;
    None stands for NaN."""
    return {
        "mean": {key: plain(np.mean([row[key] for row in draws])) for key in KEYS},
        "spread": {key: spread([row[key] for row in draws]) for key in KEYS},
    }


def plain(value: Any) -> float | None:
    """A number for JSON, None for NaN."""
    return None if np.isnan(value) else float(value)


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    return None if len(values) < 2 else plain(np.std(values, ddof=1))
