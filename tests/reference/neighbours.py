"""Neighbouring cells and what a label map says about them, by loops (retab.md 2.8)."""

from __future__ import annotations

import numpy as np

Pair = tuple[int, int, int]  # offset number, flat index of the from cell, flat index of its partner


def offsets(radius: int) -> list[tuple[int, int]]:
    """(0, 1..r-1), then for dy = 1..r-1, dx = -(r-1)..r-1 those with dx^2 + dy^2 < r^2."""
    found = []
    for dx in range(1, radius):
        found.append((0, dx))
    for dy in range(1, radius):
        for dx in range(-(radius - 1), radius):
            if dx**2 + dy**2 < radius**2:
                found.append((dy, dx))
    return found


def fitting_radius(radius: int, height: int, width: int) -> int:
    """If min(h, w) < 11 (for r = 5), r becomes (min(h, w) - 1) // 2; below 1 there are no pairs anyway."""
    if min(height, width) < 2 * radius + 1:
        return min(radius, max(1, (min(height, width) - 1) // 2))
    return radius


def from_cells(radius: int, height: int, width: int) -> list[int]:
    """Official from cells: rows 0..h-r, columns r-1..w-r."""
    return [y * width + x for y in range(height - radius + 1) for x in range(radius - 1, width - radius + 1)]


def pairs(radius: int, height: int, width: int, border: str = "official") -> list[Pair]:
    """All pairs, offset by offset. `full`: every cell is a from cell while its partner is inside."""
    starts = from_cells(radius, height, width) if border == "official" else list(range(height * width))
    found = []
    for o, (dy, dx) in enumerate(offsets(radius)):
        for start in starts:
            y, x = divmod(start, width)
            if 0 <= y + dy < height and 0 <= x + dx < width:
                found.append((o, start, (y + dy) * width + x + dx))
    return found


def degrees(radius: int, height: int, width: int, border: str = "official") -> np.ndarray:
    """Number of partners of every cell, (h, w)."""
    count = np.zeros(height * width, dtype=int)
    for _, start, stop in pairs(radius, height, width, border):
        count[start] += 1
        count[stop] += 1
    return count.reshape(height, width)


def pair_labels(labels: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bgpos, fgpos, neg, int (O, F), of one label map (h, w) with 255 = ignore."""
    height, width = labels.shape
    starts, flat = from_cells(radius, height, width), labels.ravel()
    shape = (len(offsets(radius)), len(starts))
    background, foreground, different = (np.zeros(shape, dtype=int) for _ in range(3))
    for o, (dy, dx) in enumerate(offsets(radius)):
        for f, start in enumerate(starts):
            first, second = flat[start], flat[start + dy * width + dx]
            if first == 255 or second == 255:
                continue
            if first != second:
                different[o, f] = 1
            elif first == 0:
                background[o, f] = 1
            else:
                foreground[o, f] = 1
    return background, foreground, different
