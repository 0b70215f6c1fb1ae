"""The neighbourhood of a cell on a feature grid (retab.md 2.8, PSA section 3.2).

A pair joins a "from" cell to the cell at an offset (dy, dx) of the half plane, so each pair is listed once.
Affinities of all pairs of a grid are kept as planes: `planes[o, y, x]` joins (y, x) with (y, x) + offsets[o].
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

Border = Literal["official", "full"]


@lru_cache(maxsize=32)
def neighbour_offsets(radius: int) -> tuple[tuple[int, int], ...]:
    """Offsets (dy, dx) in cells, of length below `radius`: first along the row, then row by row below."""
    along = [(0, dx) for dx in range(1, radius)]
    below = [
        (dy, dx)
        for dy in range(1, radius)
        for dx in range(-(radius - 1), radius)
        if dy * dy + dx * dx < radius * radius
    ]
    return tuple(along + below)


def fitting_radius(radius: int, height: int, width: int) -> int:
    """Radius in cells that fits the grid: smaller on grids under 11 cells (retab.md 2.8), at least 1 (no
    pair)."""
    smallest = min(height, width)
    if smallest < 2 * radius + 1:
        return max(1, min(radius, (smallest - 1) // 2))
    return radius


def from_region(radius: int, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the official "from" cells: every offset from them stays inside the grid."""
    margin = radius - 1
    return slice(0, max(0, height - margin)), slice(
        min(margin, width), max(min(margin, width), width - margin)
    )


@lru_cache(maxsize=256)
def pair_indices(radius: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Official pairs: flat indices of the from cells (F,) and of their partners (O, F), row-major."""
    rows, columns = from_region(radius, height, width)
    cells = np.arange(height * width).reshape(height, width)
    start = cells[rows, columns].ravel()
    steps = np.array([dy * width + dx for dy, dx in neighbour_offsets(radius)], dtype=np.int64)
    return start, start[None, :] + steps[:, None]


@lru_cache(maxsize=256)
def valid_pairs(radius: int, height: int, width: int, border: Border) -> np.ndarray:
    """Which entries of the planes are pairs, bool (O, H, W).

    `official`: pairs start at interior cells only, so border cells have few partners (P6). `full`: every pair
    with both ends inside the grid.
    """
    offsets = neighbour_offsets(radius)
    valid = np.zeros((len(offsets), height, width), dtype=bool)
    if border == "official":
        valid[(slice(None), *from_region(radius, height, width))] = True
        return valid
    for o, (dy, dx) in enumerate(offsets):
        valid[o, : max(0, height - dy), max(0, -dx) : max(0, width - max(0, dx))] = True
    return valid
