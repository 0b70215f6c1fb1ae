"""Losses as free functions of logits and targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def multilabel_soft_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over batch and classes of the binary cross entropy (retab.md 2.3). logits, targets in {0, 1}: (B,
    C)."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float())


def boundary_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    background: int = 0,
    boundary: int = 255,
    ignore: int = 254,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Balanced contour loss (retab.md 2.6). logits (B, H, W) of "boundary", labels (B, H, W) class indices.

    Positives are the pixels labelled `boundary`; negatives are background and objects, half the weight each:
    L = mean_B softplus(-z) + 1/2 mean_G softplus(z) + 1/2 mean_O softplus(z); an empty group adds 0. Pixels
    labelled `ignore` (padding under `pad_label: 255`) are in no group.
    """
    logits = logits.float()
    positive, negative = F.softplus(-logits), F.softplus(logits)
    contour = labels == boundary
    ground = labels == background
    objects = ~(contour | ground | (labels == ignore))
    groups = ((positive, contour), (negative, ground), (negative, objects))
    sums = torch.stack(
        [(cost * mask).sum() for cost, mask in groups] + [mask.sum().float() for _, mask in groups]
    )
    if all_reduce_sum is not None:
        sums = all_reduce_sum(sums)
    parts = sums[:3] / sums[3:].clamp(min=1)
    return {
        "loss": parts[0] + parts[1] / 2 + parts[2] / 2,
        "boundary": parts[0].detach(),
        "background": parts[1].detach(),
        "object": parts[2].detach(),
    }


def pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore: int = 255,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean cross entropy over the pixels that are not `ignore`. logits (B, C, H, W), labels (B, H, W).

    0 when every pixel is ignored (and gradients are 0, not NaN).
    """
    total = F.cross_entropy(logits.float(), labels.long(), ignore_index=ignore, reduction="sum")
    sums = torch.stack([total, (labels != ignore).sum().float()])
    if all_reduce_sum is not None:
        sums = all_reduce_sum(sums)
    return sums[0] / sums[1].clamp(min=1)
