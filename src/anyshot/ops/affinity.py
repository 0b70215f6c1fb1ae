"""Affinities of neighbouring cells and the loss that trains them (retab.md 2.8; PSA section 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyshot.ops.neighbours import Border, from_region, neighbour_offsets, valid_pairs

EPSILON = 1e-5


class _PairAffinity(torch.autograd.Function):
    """a = exp(-mean_c |f(i) - f(j)|) by slices: nothing of size (B, C, O, F) is ever held, backward
    recomputes."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, radius: int) -> Tensor:
        start, partners = _views(features, radius)
        affinity = torch.stack([(-(start - other).abs().mean(dim=1)).exp() for other in partners], dim=1)
        ctx.save_for_backward(features, affinity)
        ctx.radius = radius
        return affinity

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        features, affinity = ctx.saved_tensors
        scaled = (grads[0] * affinity).neg_().div_(features.shape[1])
        total = torch.zeros_like(features)
        start, partners = _views(features, ctx.radius)
        total_start, total_partners = _views(total, ctx.radius)
        for o, (other, total_other) in enumerate(zip(partners, total_partners, strict=True)):
            flow = (start - other).sign_().mul_(scaled[:, o].unsqueeze(1))
            total_start.add_(flow)
            total_other.sub_(flow)
        return total, None


def _views(features: Tensor, radius: int) -> tuple[Tensor, list[Tensor]]:
    """The from cells (B, C, F_h, F_w) and, per offset, their partners of the same shape, all views."""
    height, width = features.shape[-2:]
    rows, columns = from_region(radius, height, width)
    partners = [
        features[..., rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]
        for dy, dx in neighbour_offsets(radius)
    ]
    return features[..., rows, columns], partners


def pair_affinity(features: Tensor, *, radius: int) -> Tensor:
    """Affinities (B, O, F_h, F_w) in (0, 1] of the official pairs of features (B, C, h, w)."""
    return _PairAffinity.apply(features, radius)  # type: ignore[no-any-return]


def affinity_planes(features: Tensor, *, radius: int, border: Border = "official") -> Tensor:
    """Affinities of one image's features (C, h, w) as planes (O, h, w); 0 where there is no pair."""
    height, width = features.shape[-2:]
    offsets = neighbour_offsets(radius)
    planes = features.new_zeros(len(offsets), height, width, dtype=torch.float32)
    for o, (dy, dx) in enumerate(offsets):
        rows, columns = max(0, height - dy), slice(max(0, -dx), width - max(0, dx))
        if rows == 0 or columns.stop <= columns.start:
            continue
        start = features[:, :rows, columns]
        other = features[:, dy : dy + rows, columns.start + dx : columns.stop + dx]
        planes[o, :rows, columns] = (-(start - other).abs().float().mean(dim=0)).exp()
    valid = torch.from_numpy(valid_pairs(radius, height, width, border)).to(planes.device)
    return planes * valid


def pair_labels(labels: Tensor, *, radius: int, ignore: int = 255) -> tuple[Tensor, Tensor, Tensor]:
    """What each pair of a label map (B, h, w) teaches: both background, same foreground, different.

    Three bool tensors (B, O, F_h, F_w); pairs with an ignored end are in none of them.
    """
    start, partners = _views(labels.unsqueeze(1), radius)
    start = start.squeeze(1)
    other = torch.stack([partner.squeeze(1) for partner in partners], dim=1)
    start = start.unsqueeze(1)
    known = (start != ignore) & (other != ignore)
    equal = start == other
    return known & equal & (start == 0), known & equal & (start != 0), known & ~equal


def affinity_loss(
    affinity: Tensor,
    background: Tensor,
    foreground: Tensor,
    different: Tensor,
    *,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Balanced cross entropy over pairs (retab.md 2.8), sums over the whole global batch.

    All tensors have one shape; the masks come from `pair_labels`. Returns `loss` = background / 4 +
    foreground / 4 + different / 2 and its parts; an empty group adds 0.
    """
    affinity = affinity.float()
    positive, negative = -(affinity + EPSILON).log(), -(1.0 + EPSILON - affinity).log()
    groups = ((positive, background), (positive, foreground), (negative, different))
    sums = torch.stack(
        [(cost * mask).sum() for cost, mask in groups] + [mask.sum().float() for _, mask in groups]
    )
    if all_reduce_sum is not None:
        sums = all_reduce_sum(sums)
    parts = sums[:3] / (sums[3:] + EPSILON)
    return {
        "loss": parts[0] / 4 + parts[1] / 4 + parts[2] / 2,
        "background": parts[0].detach(),
        "foreground": parts[1].detach(),
        "different": parts[2].detach(),
    }


def merge_crf_labels(low: np.ndarray, high: np.ndarray, open_cells: np.ndarray | None) -> np.ndarray:
    """Label map of a novel sample from two CRF results on the grid, uint8 (h, w) (retab.md 2.8, G7).

    low, high: (K+1, h, w) probabilities with background first, `la` and `ha`. Foreground where `la` says so,
    background where `ha` says so (it wins), 255 elsewhere, in padding, and at boundary cells (open_cells
    False). The values are positions among the image's own labels, only their equality matters.
    """
    best_low, best_high = low.argmax(axis=0), high.argmax(axis=0)
    labels = best_low.astype(np.uint8)
    labels[best_low == 0] = 255
    labels[best_high == 0] = 0
    labels[np.maximum(low.max(axis=0), high.max(axis=0)) < EPSILON] = 255
    if open_cells is not None:
        labels[~np.asarray(open_cells, dtype=bool)] = 255
    return labels
