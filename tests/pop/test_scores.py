"""Scores over two draws of supports in both protocols, from matrices made by hand (pop.md 4.1)."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

import pytest

from anyshot.data.classes import ClassTable
from anyshot.errors import ArtifactError
from anyshot.pop.scores import merge_counts, scored_methods
from anyshot.pop.tables import FoldTables

TABLES = FoldTables.make(
    ClassTable.of(["ground", "cat", "bus"], kinds=["background", "thing", "thing"]), novel=["bus"]
)
ROWS = {  # ground, cat, bus by draw: rows are the truth, columns the prediction
    9: [[6, 2, 0], [0, 5, 0], [1, 0, 3]],
    2: [[8, 0, 0], [1, 4, 0], [2, 1, 1]],
    0: [[5, 3, 0], [0, 5, 0], [2, 2, 0]],  # the base model
}
IOUS = {9: (6 / 9, 5 / 7, 3 / 4), 2: (8 / 11, 4 / 6, 1 / 4), 0: (5 / 10, 5 / 10, 0.0)}


def part(share: int) -> dict[str, Any]:
    """A shard: the first one saw the ground alone, the second one the rest; the draws in no order."""

    def matrix(draw: int) -> list[list[int]]:
        kept = [row if (place == 0) == (share == 0) else [0, 0, 0] for place, row in enumerate(ROWS[draw])]
        return [*([*row, 0] for row in kept), [0, 0, 0, 0]]

    drawn = [("pop", 1, 9), ("base", 0, 0), ("pop", 1, 2)]
    rows = [
        {"variant": variant, "shots": shots, "support_seed": draw, "matrix": matrix(draw)}
        for variant, shots, draw in (drawn if share else drawn[::-1])
    ]
    return {"scored": rows}


def means(family: str, draw: int) -> dict[str, float]:
    """In POP's protocol the background is a base class, in DIaM's it is none."""
    ground, base, novel = IOUS[draw]
    if family == "pop":
        base, every = (ground + base) / 2, (ground + base + novel) / 3
    else:
        every = (base + novel) / 2
    return {"all": every, "base": base, "novel": novel, "harmonic": 2 * base * novel / (base + novel)}


def test_shards_are_summed() -> None:
    totals = merge_counts([part(0), part(1)])
    assert set(totals) == {("pop", 1, 9), ("pop", 1, 2), ("base", 0, 0)}
    for (_, _, draw), matrix in totals.items():
        assert matrix[:3, :3].tolist() == ROWS[draw]
    other = {"scored": part(1)["scored"][:2]}
    with pytest.raises(ArtifactError, match="the shards scored different things: run pop_predict again"):
        merge_counts([part(0), other])


def test_mean_and_spread_over_the_draws_in_both_protocols() -> None:
    """The spread is the sample standard deviation; draws are in the order of their seeds."""
    rows = {row["variant"]: row for row in scored_methods(merge_counts([part(0), part(1)]), TABLES)}
    found = rows["pop"]
    assert found["support_seeds"] == [2, 9]
    assert found["protocols"].keys() == {"diam"}
    for family, entry in (("pop", found), ("diam", found["protocols"]["diam"])):
        drawn = [means(family, draw) for draw in (2, 9)]
        assert entry["each"] == [pytest.approx(one) for one in drawn]
        for key in ("all", "base", "novel", "harmonic"):
            values = [one[key] for one in drawn]
            assert entry["mean"][key] == pytest.approx(mean(values))
            assert entry["spread"][key] == pytest.approx(stdev(values))
    base, novel = (mean(means("pop", draw)[key] for draw in (2, 9)) for key in ("base", "novel"))
    assert found["harmonic_of_means"] == pytest.approx(2 * base * novel / (base + novel))
    assert found["harmonic_of_means"] != pytest.approx(found["mean"]["harmonic"])


def test_a_single_draw_has_no_spread() -> None:
    (found,) = (row for row in scored_methods(merge_counts([part(0), part(1)]), TABLES) if not row["shots"])
    for family, entry in (("pop", found), ("diam", found["protocols"]["diam"])):
        assert set(entry["spread"].values()) == {None}
        assert entry["mean"] == pytest.approx(means(family, 0))
