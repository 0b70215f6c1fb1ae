"""The random walk with the dense matrix of all cells, as published (retab.md 2.9, 2.10)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike

from tests.reference.neighbours import Pair

STAGES = ("plain", "stage1", "stage2")


def affinity_matrix(
    planes: np.ndarray,
    pairs: Iterable[Pair],
    *,
    stage: str = "plain",
    open_cells: np.ndarray | None = None,
    dtype: DTypeLike = np.float64,
) -> np.ndarray:
    """A (n, n): diagonal 1, A_ij = A_ji = a_ij of every pair that the stage keeps, all else 0.

    Stage 1 keeps pairs of two non-boundary cells. Stage 2 keeps entry A_ij where column j is a boundary cell.
    """
    cells = planes.shape[1] * planes.shape[2]
    flat = planes.reshape(len(planes), cells)
    m = np.ones(cells, dtype=bool) if open_cells is None else open_cells.ravel()
    matrix = np.zeros((cells, cells), dtype=dtype)
    for o, i, j in pairs:
        if stage == "plain" or (stage == "stage1" and m[i] and m[j]):
            matrix[i, j] = matrix[j, i] = flat[o, i]
        elif stage == "stage2":
            if not m[j]:
                matrix[i, j] = flat[o, i]
            if not m[i]:
                matrix[j, i] = flat[o, i]
    np.fill_diagonal(matrix, 1)
    return matrix


def transition(matrix: np.ndarray, beta: float) -> np.ndarray:
    """B = A^beta elementwise; T_ij = B_ij / sum_i B_ij: columns sum to 1."""
    powered = matrix**beta
    return powered / powered.sum(axis=0, keepdims=True)


def power(matrix: np.ndarray, logt: int) -> np.ndarray:
    """D = T^(2^logt) by logt squarings."""
    for _ in range(logt):
        matrix = matrix @ matrix
    return matrix


def walk(
    scores: np.ndarray,
    planes: np.ndarray,
    pairs: Iterable[Pair],
    *,
    beta: float,
    logt: int,
    stage: str = "plain",
    open_cells: np.ndarray | None = None,
    dtype: DTypeLike = np.float64,
) -> np.ndarray:
    """out = x @ D for scores (C, h, w)."""
    matrix = affinity_matrix(planes, pairs, stage=stage, open_cells=open_cells, dtype=dtype)
    x = scores.reshape(len(scores), -1).astype(dtype)
    return (x @ power(transition(matrix, beta), logt)).reshape(scores.shape)
