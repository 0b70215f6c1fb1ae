"""The classifier and its inference in full, in the words of larvseg.md 2.2 and 2.9: pixels x classes held."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5


def cosines(features: Tensor, classes: Tensor) -> Tensor:
    """s (N, h, w) of unit features (D, h, w) and unit classes (N, D)."""
    return torch.einsum("nd,dhw->nhw", classes, features)


def spread(features: Tensor, classes: Tensor) -> Tensor:
    """sigma (h, w) = sqrt(v + 1e-5), v the biased variance of a token's cosines over the classes."""
    return (cosines(features, classes).var(dim=0, unbiased=False) + EPSILON).sqrt()


def normalised(features: Tensor, classes: Tensor, *, gamma: float, beta: float) -> Tensor:
    """z (N, h, w) = gamma (s - mean) / sigma + beta."""
    s = cosines(features, classes)
    return gamma * (s - s.mean(dim=0)) / spread(features, classes) + beta


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w) -> (N, *size), bilinear."""
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


def averaged(windows: Sequence[tuple[int, int, Tensor]], height: int, width: int) -> Tensor:
    """Mean (N, height, width) of windows (top, left, logits (N, H, W)) where they overlap."""
    first = windows[0][2]
    total = first.new_zeros(len(first), height, width)
    count = first.new_zeros(height, width)
    for top, left, logits in windows:
        rows, columns = logits.shape[1:]
        total[:, top : top + rows, left : left + columns] += logits
        count[top : top + rows, left : left + columns] += 1
    return total / count
