"""Resampling between image and grid, sample by sample (retab.md 2.4, 2.9, 2.10)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def upsample_line(values: Sequence[float], factor: int) -> list[float]:
    """1-D bilinear with half-pixel centres: sample i lies at (i + 1/2) / factor - 1/2."""
    out = []
    for i in range(len(values) * factor):
        position = min(max((i + 0.5) / factor - 0.5, 0.0), len(values) - 1.0)
        left = math.floor(position)
        right = min(left + 1, len(values) - 1)
        share = position - left
        out.append((1 - share) * values[left] + share * values[right])
    return out


def pool_line(values: Sequence[float], size: int) -> list[float]:
    """1-D means of blocks of `size`; the line is extended by zeros to whole blocks."""
    line = list(values) + [0.0] * (-len(values) % size)
    return [sum(line[start : start + size]) / size for start in range(0, len(line), size)]


def _by_axis(plane: np.ndarray, along: Callable[[list[float]], list[float]]) -> np.ndarray:
    rows = np.array([along(row.tolist()) for row in plane])
    return np.array([along(column.tolist()) for column in rows.T]).T


def upsample(maps: np.ndarray, factor: int, height: int, width: int) -> np.ndarray:
    """(C, h, w) bilinear by `factor`, cropped to (C, height, width), float64."""
    full = np.array([_by_axis(plane, lambda line: upsample_line(line, factor)) for plane in maps])
    return full[:, :height, :width]


def pool(maps: np.ndarray, size: int = 8) -> np.ndarray:
    """(C, H, W) zero-padded right and bottom, averaged over size x size blocks, float64."""
    return np.array([_by_axis(plane, lambda line: pool_line(line, size)) for plane in maps])


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest resize with source index floor(i * H / h) = i * H // h."""
    out = np.zeros((height, width), dtype=mask.dtype)
    for i in range(height):
        for j in range(width):
            out[i, j] = mask[i * mask.shape[0] // height, j * mask.shape[1] // width]
    return out


def normalise_cam(total: np.ndarray) -> np.ndarray:
    """cam_k = M_k / (max M_k + 1e-5), no minimum is subtracted."""
    return np.array([plane / (plane.max() + 1e-5) for plane in total])


def background(cams: np.ndarray, alpha: float) -> np.ndarray:
    """bg = (1 - max_k cam_k)^alpha."""
    return (1 - np.max(cams, axis=0)) ** alpha
