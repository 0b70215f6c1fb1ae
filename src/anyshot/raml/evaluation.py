"""Scores of RAML and its baselines from confusion matrices: per draw, mean and spread (raml.md 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anyshot.data.split_tables import SplitTables
from anyshot.engine import draws
from anyshot.engine.draws import Scored
from anyshot.ops.metrics import Roles

PROTOCOL = (
    "IoU over all pixels of the subset whose truth is a known or an evaluated novel class; predictions may be"
    " novel everywhere. mIoU all = mean of all classes, base = of the known (old) ones, novel = of the novel"
    " ones, harmonic = 2 base novel / (base + novel). Several draws of support images: mean, and sample"
    " standard deviation."
)


def merge_counts(parts: Sequence[dict[str, Any]]) -> dict[Scored, np.ndarray]:
    """Sum of the shards' matrices by (variant, shots, draw); `closed_set` has shots 0 and draw 0.

    Raises ArtifactError when the shards do not have the same banks.
    """
    found = []
    for part in parts:
        matrices = {("closed_set", 0, 0): np.asarray(part["closed_set"], dtype=np.int64)}
        for row in part["banks"]:
            matrix = np.asarray(row["matrix"], dtype=np.int64)
            matrices[row["variant"], int(row["shots"]), int(row["support_seed"])] = matrix
        found.append(matrices)
    return draws.summed(found, stage="raml_open_world")


def scored_variants(totals: dict[Scored, np.ndarray], tables: SplitTables) -> list[dict[str, Any]]:
    """One entry per variant and number of shots; known classes count as base, a background class too."""
    classes = tables.known + len(tables.novel_ids)
    roles = Roles(base=range(tables.known), novel=range(tables.known, classes))
    names = list(zip(tables.eval_to_id.tolist(), tables.eval_names, strict=True))
    return draws.scored_variants(totals, names, roles)
