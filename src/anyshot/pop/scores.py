"""What the shards counted, as scores of every method: mean and spread over the draws, in both protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anyshot.engine import draws
from anyshot.engine.draws import KEYS, Scored, plain
from anyshot.ops.metrics import Confusion, harmonic_mean
from anyshot.pop.evaluation import both_families, roles_of
from anyshot.pop.tables import FoldTables


def merge_counts(parts: Sequence[dict[str, Any]]) -> dict[Scored, np.ndarray]:
    """Sum of the shards' matrices by (method, shots, draw); `base` has shots 0 and draw 0.

    Raises ArtifactError when the shards did not score the same heads.
    """
    found = [
        {
            (row["variant"], int(row["shots"]), int(row["support_seed"])): np.asarray(row["matrix"], np.int64)
            for row in part["scored"]
        }
        for part in parts
    ]
    return draws.summed(found, stage="pop_predict")


def scored_methods(totals: dict[Scored, np.ndarray], tables: FoldTables) -> list[dict[str, Any]]:
    """One entry per method and number of shots as `engine.draws.scored_variants` makes them, with the mean,
    the spread and each draw's means of the other protocol under `protocols`.

    mean["harmonic"] is the mean of the draws' harmonic means, `harmonic_of_means` that of the mean base and
    the mean novel mIoU, as follow-ups report it (pop.md 4.1)."""
    base, novel = tables.base_count, tables.novel_count
    names = list(zip(tables.index_to_id.tolist(), tables.names, strict=True))
    found = draws.scored_variants(totals, names, roles_of(base, novel, "pop"))
    for entry in found:
        of_draws = [
            both_families(Confusion(len(names), totals[entry["variant"], entry["shots"], draw]),
                          base=base, novel=novel)["diam"]
            for draw in entry["support_seeds"]
        ]  # fmt: skip
        each = [{key: plain(row[key]) for key in KEYS} for row in of_draws]
        parts = [entry["mean"][key] for key in ("base", "novel")]
        entry["harmonic_of_means"] = None if None in parts else harmonic_mean(*parts)
        entry["protocols"] = {"diam": {**draws.over_draws(of_draws), "each": each}}
    return found


def prototype_cosines(prototypes: np.ndarray) -> list[list[float]]:
    """Cosines (K, K) between prototypes (K, C), four decimals, for JSON; of a prototype of zeros 0."""
    lengths = np.linalg.norm(prototypes, axis=1, keepdims=True)
    unit = prototypes / np.where(lengths > 0, lengths, 1)
    found: list[list[float]] = (unit @ unit.T).round(4).tolist()
    return found
