"""Random walk on the affinity graph of an image, without the dense matrix (retab.md 2.9, 2.10; PSA eq. 4-6).

The published code squares the transition matrix T of all n cells `logt` times and multiplies the scores with
the result. Here T stays sparse (at most 69 entries a column at radius 5) and is applied to the few score rows
only: x T^(2^logt). Associativity makes this the same number. The power itself is expanded in Chebyshev
polynomials, whose coefficients are those of a fair coin walk: T^s = sum_k P(|2B - s| = k) C_k(T), B
binomial(s, 1/2). The tail beyond degree d weighs less than 2 exp(-d^2 / 2s), so 256 steps need about 100
products, to rounding the same result.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy import sparse
from scipy.stats import binom
from torch import Tensor

from anyshot.ops.neighbours import neighbour_offsets, valid_pairs

Method = Literal["chebyshev", "iterated", "dense"]
# weight of the Chebyshev terms that are left out; the coupling block of stage 2 multiplies it by degree ** 2
TAIL = 1e-11


@lru_cache(maxsize=256)
def _pattern(radius: int, height: int, width: int) -> tuple[np.ndarray, ...]:
    """Flat ends of all pairs that can exist on a grid, and where their affinity lies in the planes."""
    valid = valid_pairs(radius, height, width, "full")
    plane = np.flatnonzero(valid)
    cells = height * width
    steps = np.array([dy * width + dx for dy, dx in neighbour_offsets(radius)], dtype=np.int64)
    start = plane % cells
    stop = start + steps[plane // cells]
    return plane, start.astype(np.int32), stop.astype(np.int32)


def transition_matrix(
    planes: np.ndarray,
    *,
    radius: int,
    beta: float,
    open_cells: np.ndarray | None = None,
    stage: Literal["plain", "stage1", "stage2"] = "plain",
) -> sparse.csr_array:
    """Transposed transition matrix T' (n, n): row j holds the weights with which cell j averages its
    neighbours.

    planes: affinities (O, h, w) in [0, 1], 0 where there is no pair; open_cells: bool (h, w), True where a
    cell is no boundary. `stage1` joins open cells only; `stage2` lets boundary cells take from any neighbour
    and keeps open cells as they are; `plain` joins all. Rows sum to 1. Raises ValueError when a stage lacks
    `open_cells`.
    """
    height, width = planes.shape[1:]
    cells = height * width
    plane, start, stop = _pattern(radius, height, width)
    weight = planes.reshape(-1)[plane].astype(np.float64) ** beta
    into_start = into_stop = weight > 0
    if stage != "plain":
        if open_cells is None:
            raise ValueError(f"stage {stage!r} needs the map of open cells")
        is_open = np.asarray(open_cells, dtype=bool).reshape(-1)
        if stage == "stage1":
            into_start = into_stop = (weight > 0) & is_open[start] & is_open[stop]
        else:
            into_start, into_stop = (weight > 0) & ~is_open[start], (weight > 0) & ~is_open[stop]
    diagonal = np.arange(cells, dtype=np.int32)
    rows = np.concatenate([diagonal, start[into_start], stop[into_stop]])
    columns = np.concatenate([diagonal, stop[into_start], start[into_stop]])
    values = np.concatenate([np.ones(cells), weight[into_start], weight[into_stop]])
    values /= np.bincount(rows, weights=values, minlength=cells)[rows]
    return sparse.coo_array((values, (rows, columns)), shape=(cells, cells)).tocsr()


@lru_cache(maxsize=32)
def chebyshev_coefficients(steps: int) -> np.ndarray:
    """Coefficients c_k with t^steps = sum_k c_k C_k(t) on [-1, 1], cut where the rest weighs less than
    TAIL."""
    heads = np.arange(steps + 1)
    probability = binom.pmf(heads, steps, 0.5)
    coefficients = np.bincount(np.abs(2 * heads - steps), weights=probability, minlength=steps + 1)
    rest = np.cumsum(coefficients[::-1])[::-1]
    degree = int(np.flatnonzero(rest > TAIL).max(initial=0))
    return coefficients[: degree + 1]


def _torch_csr(matrix: sparse.csr_array) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # torch calls its CSR support beta; the tests hold it to scipy's
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            matrix.shape,
        )


def _apply_chebyshev(matrix: Tensor, columns: Tensor, steps: int) -> Tensor:
    coefficients = chebyshev_coefficients(steps)
    before, now = columns, matrix @ columns
    total = float(coefficients[0]) * before
    if len(coefficients) > 1:
        total.add_(now, alpha=float(coefficients[1]))
    for coefficient in coefficients[2:]:
        before, now = now, (matrix @ now).mul_(2).sub_(before)
        if coefficient:
            total.add_(now, alpha=float(coefficient))
    return total


def apply_power(
    scores: np.ndarray, matrix: sparse.csr_array, *, logt: int, method: Method = "chebyshev"
) -> np.ndarray:
    """Scores (C, n) after 2**logt steps, float32 (C, n).

    `chebyshev`: about sqrt(50 * 2**logt) sparse products; `iterated`: 2**logt of them; `dense`: squares the n
    x n matrix as published (float32). Channels that are all zero stay zero and are not computed.
    """
    steps = 2**logt
    active = np.flatnonzero(np.abs(scores).sum(axis=1) > 0)
    out = np.zeros(scores.shape, dtype=np.float32)
    if not len(active):
        return out
    if method == "dense":
        power = matrix.toarray().astype(np.float32)
        for _ in range(logt):
            power = power @ power
        out[active] = scores[active].astype(np.float32) @ power.T
        return out
    sparse_matrix = _torch_csr(matrix)
    width = -len(active) % 8  # zero columns up to a multiple of 8: the sparse product then uses full vectors
    columns = torch.from_numpy(np.pad(scores[active].T.astype(np.float32), ((0, 0), (0, width))))
    if method == "chebyshev" and len(chebyshev_coefficients(steps)) <= steps:
        columns = _apply_chebyshev(sparse_matrix, columns, steps)
    else:
        for _ in range(steps):
            columns = sparse_matrix @ columns
    out[active] = columns.numpy()[:, : len(active)].T
    return out


def walk(
    scores: np.ndarray,
    planes: np.ndarray,
    *,
    radius: int,
    beta: float = 8.0,
    logt: int = 8,
    open_cells: np.ndarray | None = None,
    stage: Literal["plain", "stage1", "stage2"] = "plain",
    method: Method = "chebyshev",
) -> np.ndarray:
    """Propagate scores (C, h, w) over the graph of `planes` (O, h, w); float32 (C, h, w). See
    `transition_matrix`."""
    matrix = transition_matrix(planes, radius=radius, beta=beta, open_cells=open_cells, stage=stage)
    flat = scores.reshape(len(scores), matrix.shape[0])
    return apply_power(flat, matrix, logt=logt, method=method).reshape(scores.shape)
