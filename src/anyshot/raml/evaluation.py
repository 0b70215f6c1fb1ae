"""Scores of RAML and its baselines from confusion matrices: per draw, mean and spread (raml.md 4.1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from anyshot.data.split_tables import SplitTables
from anyshot.errors import ArtifactError
from anyshot.ops.metrics import Confusion, Roles, class_rows, means

PROTOCOL = (
    "IoU over all pixels of the subset whose truth is a known or an evaluated novel class; predictions may be"
    " novel everywhere. mIoU all = mean of all classes, base = of the known (old) ones, novel = of the novel"
    " ones, harmonic = 2 base novel / (base + novel). Several draws of support images: mean, and sample"
    " standard deviation."
)

KEYS = ("all", "base", "novel", "harmonic")


def merge_counts(parts: Sequence[dict[str, Any]]) -> dict[tuple[str, int, int], np.ndarray]:
    """Sum of the shards' matrices by (variant, shots, draw); `closed_set` has shots 0 and draw 0.

    Raises ArtifactError when the shards do not have the same banks.
    """
    totals: dict[tuple[str, int, int], np.ndarray] = {}
    for number, part in enumerate(parts):
        found = {("closed_set", 0, 0): np.asarray(part["closed_set"], dtype=np.int64)}
        for row in part["banks"]:
            matrix = np.asarray(row["matrix"], dtype=np.int64)
            found[row["variant"], int(row["shots"]), int(row["support_seed"])] = matrix
        if number and found.keys() != totals.keys():
            raise ArtifactError("the shards scored different banks: run raml_open_world again")
        totals = {key: totals.get(key, 0) + matrix for key, matrix in found.items()}
    return totals


def roles_of(tables: SplitTables) -> Roles:
    """Known classes count as base, a background class too."""
    classes = tables.known + len(tables.novel_ids)
    return Roles(base=range(tables.known), novel=range(tables.known, classes))


def scored_variants(
    totals: dict[tuple[str, int, int], np.ndarray], tables: SplitTables
) -> list[dict[str, Any]]:
    """One entry per variant and number of shots: every draw's means, their mean and sample standard
    deviation (None for a single draw), and the IoU per class, mean over the draws."""
    roles, classes = roles_of(tables), tables.known + len(tables.novel_ids)
    groups: dict[tuple[str, int], list[tuple[int, np.ndarray]]] = defaultdict(list)
    for (variant, shots, draw), matrix in sorted(totals.items(), key=lambda item: item[0][2]):
        groups[variant, shots].append((draw, matrix))
    found = []
    for (variant, shots), members in groups.items():
        confusions = [Confusion(classes, matrix) for _, matrix in members]
        iou = np.stack([confusion.iou() for confusion in confusions])
        draws = [means(row, roles) for row in iou]
        seen = ~np.isnan(iou)
        average = np.divide(
            np.where(seen, iou, 0).sum(axis=0), seen.sum(axis=0),
            out=np.full(classes, np.nan), where=seen.any(axis=0),
        )  # fmt: skip
        names = list(zip(tables.eval_to_id.tolist(), tables.eval_names, strict=True))
        found.append(
            {
                "variant": variant,
                "shots": shots,
                "support_seeds": [draw for draw, _ in members],
                "mean": {key: _plain(np.mean([row[key] for row in draws])) for key in KEYS},
                "spread": {key: _spread([row[key] for row in draws]) for key in KEYS},
                "each": [{key: _plain(row[key]) for key in KEYS} for row in draws],
                "classes": class_rows(average, confusions[0].truth_pixels, names, roles),
            }
        )
    return found


def _plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _spread(values: Sequence[float]) -> float | None:
    return None if len(values) < 2 else _plain(np.std(values, ddof=1))
