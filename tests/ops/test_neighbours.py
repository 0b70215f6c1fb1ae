"""The neighbourhood of a cell: golden case G1 and equality with loops."""

import numpy as np
import pytest

from anyshot.ops.neighbours import fitting_radius, neighbour_offsets, pair_indices, valid_pairs
from tests.reference import neighbours as reference

TINY = [(1, 1), (1, 7), (2, 3), (3, 3), (4, 9), (5, 5), (6, 5), (9, 10), (10, 11), (11, 11), (13, 17)]


def degrees(radius: int, height: int, width: int, border: str = "official") -> np.ndarray:
    """Partners of every cell, counted from the planes."""
    valid = valid_pairs(radius, height, width, border)  # type: ignore[arg-type]
    count = valid.sum(axis=0)
    for (dy, dx), plane in zip(neighbour_offsets(radius), valid, strict=True):
        ys, xs = np.nonzero(plane)
        np.add.at(count, (ys + dy, xs + dx), 1)
    return count


def test_radius_2() -> None:
    """G1: offsets, from cells and partners on a 3x4 grid; degrees on a 4x5 grid."""
    assert neighbour_offsets(2) == ((0, 1), (1, -1), (1, 0), (1, 1))
    start, stop = pair_indices(2, 3, 4)
    assert start.tolist() == [1, 2, 5, 6]
    assert stop.tolist() == [[2, 3, 6, 7], [4, 5, 8, 9], [5, 6, 9, 10], [6, 7, 10, 11]]
    expected = [[0, 4, 5, 5, 1], [1, 6, 8, 7, 2], [1, 6, 8, 7, 2], [1, 2, 3, 2, 1]]
    assert degrees(2, 4, 5).tolist() == expected


def test_radius_5_at_56() -> None:
    """G1: 34 offsets, 2,496 from cells, 84,864 pairs at 56x56."""
    offsets = neighbour_offsets(5)
    assert [sum(dy == row for dy, _ in offsets) for row in range(5)] == [4, 9, 9, 7, 5]
    assert [dx for dy, dx in offsets if dy == 3] == [-3, -2, -1, 0, 1, 2, 3]
    assert [dx for dy, dx in offsets if dy == 4] == [-2, -1, 0, 1, 2]
    start, stop = pair_indices(5, 56, 56)
    assert (len(start), start[0], start[-1]) == (2496, 4, 2907)
    assert (stop[0, 0], stop[4, 0], stop[33, 2495]) == (5, 56, 3133)
    assert stop.size == 84_864


def test_radius_5_at_47x63() -> None:
    """G1 and P6: pairs, degrees and isolated cells of a 375x500 px image."""
    count = degrees(5, 47, 63)
    assert valid_pairs(5, 47, 63, "official").sum() == 80_410
    assert (count.max(), count.min()) == (68, 0)
    zero = [(0, 0), (0, 1), (0, 2), (0, 3), (45, 0), (45, 62), (46, 0), (46, 1), (46, 61), (46, 62)]
    assert list(zip(*(axis.tolist() for axis in np.nonzero(count == 0)), strict=True)) == zero
    assert round(100 * (count == 68).mean(), 2) == 61.90
    assert count[0, :8].tolist() == [0, 0, 0, 0, 34, 35, 36, 37]
    assert count[10, :6].tolist() == [2, 5, 9, 13, 51, 56]
    assert count[10, -6:].tolist() == [59, 55, 17, 12, 7, 3]
    assert (count < 68).mean() == pytest.approx(0.38, abs=0.005)


def test_full_border() -> None:
    """P6: with the full border only the distance to the rim counts, so degrees are symmetric."""
    count = degrees(5, 20, 23, "full")
    assert (count == count[::-1]).all()
    assert (count == count[:, ::-1]).all()
    assert count[10, 11] == 68
    assert count.min() == count[0, 0] > 0


@pytest.mark.parametrize(("height", "width"), TINY)
@pytest.mark.parametrize("radius", [1, 2, 3, 5])
@pytest.mark.parametrize("border", ["official", "full"])
def test_same_pairs_as_loops(radius: int, height: int, width: int, border: str) -> None:
    """Also on grids that the radius does not fit: no pair may leave the grid."""
    assert list(neighbour_offsets(radius)) == reference.offsets(radius)
    valid = valid_pairs(radius, height, width, border).reshape(-1, height * width)  # type: ignore[arg-type]
    expected = [(o, start) for o, start, _ in reference.pairs(radius, height, width, border)]
    assert [tuple(pair) for pair in np.argwhere(valid).tolist()] == expected
    if border == "official":
        assert pair_indices(radius, height, width)[0].tolist() == reference.from_cells(radius, height, width)


@pytest.mark.parametrize(
    ("height", "width", "radius"),
    [
        (56, 56, 5),
        (11, 30, 5),
        (10, 30, 4),
        (9, 9, 4),
        (8, 40, 3),
        (4, 4, 1),
        (3, 9, 1),
        (2, 3, 1),
        (1, 1, 1),
    ],
)
def test_radius_on_small_grids(height: int, width: int, radius: int) -> None:
    """Below 11 cells the radius is (side - 1) // 2, and 1 means no pair at all."""
    assert fitting_radius(5, height, width) == radius == reference.fitting_radius(5, height, width)
    assert fitting_radius(5, width, height) == radius
    if radius == 1:
        assert neighbour_offsets(radius) == ()
