"""The projection head of POP as a few matrix products, its losses and its pseudo labels (pop.md 2.2 to 2.4).

A classifier f without biases and with no activation but ReLU is positively homogeneous: f(t x) = t f(x) for
t >= 0. So the logit of a class, f of the projection a s of a feature onto the class's unit prototype s, is
relu(a) f(s) + relu(-a) f(-s): two numbers per class instead of a network per class and cell.

Everything is computed in float32, also under autocast, and in float64 where the input is float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.ops.precision import full, without_autocast
from anyshot.ops.upsampled import upsampled_argmax

IGNORE = 255
SHORTEST = 1e-12  # length below which a prototype has no direction (pop.md 2.2)


def pointwise(weight: Tensor, maps: Tensor) -> Tensor:
    """A 1x1 convolution without bias: weight (O, C), maps (B, C, h, w) or vectors (N, C) -> (B, O, h, w) or
    (N, O).

    It is one matrix product per image. A convolution would be slower on CPUs and, with cuDNN's TF32, exact
    to only three digits on GPUs.
    """
    with without_autocast(maps):
        maps = full(maps)
        weight = weight.to(maps.dtype)
        if maps.ndim == 2:
            return F.linear(maps, weight)
        flat = torch.bmm(weight.expand(len(maps), -1, -1), maps.flatten(2))
        return flat.unflatten(2, maps.shape[2:])


def unit_prototypes(prototypes: Tensor) -> Tensor:
    """Rows of (K, C) at unit length; a row of zeros stays one."""
    return F.normalize(full(prototypes), dim=1, eps=SHORTEST)


def projections(features: Tensor, units: Tensor) -> Tensor:
    """a_k = <s_k, q> of every cell: features (B, C, h, w), unit prototypes (K, C) -> (B, K, h, w)."""
    return pointwise(units, features)


def residual(features: Tensor, units: Tensor, a: Tensor) -> Tensor:
    """r = q - sum_k a_k s_k: features (B, C, h, w), unit prototypes (K, C), a (B, K, h, w) -> (B, C, h, w).

    What prototypes that are not orthogonal have in common is taken away twice, as published (pop.md 2.2).
    """
    return full(features) - pointwise(units.T, a)


def two_slopes(mlp: Callable[[Tensor], Tensor], units: Tensor) -> tuple[Tensor, Tensor]:
    """c+ = f(s) and c- = f(-s) of unit prototypes (K, C), both (K,).

    mlp: f, vectors (N, C) -> (N, 1), positively homogeneous.
    """
    with without_autocast(units):
        slopes = mlp(torch.cat([units, -units])).flatten()
    return slopes[: len(units)], slopes[len(units) :]


def foreground_logits(a: Tensor, c_plus: Tensor, c_minus: Tensor) -> Tensor:
    """z_k = relu(a_k) c+_k + relu(-a_k) c-_k: a (B, K, h, w), slopes (K,) -> (B, K, h, w).

    Where a_k is 0 all gradients are 0, as they are through the ReLUs of f.
    """
    return F.relu(a) * c_plus[:, None, None] + F.relu(-a) * c_minus[:, None, None]


def orthogonality(base: Tensor) -> Tensor:
    """Mean |cosine| over the K (K - 1) / 2 pairs of prototypes (K, C); scalar, 0 for one prototype
    (pop.md 2.3)."""
    with without_autocast(base):
        units = unit_prototypes(base)
        return _mean_of_pairs(units @ units.T, more=None)


def novel_orthogonality(novel: Tensor, base: Tensor) -> Tensor:
    """Mean |cosine| over the pairs of novel prototypes (Kn, C) and those of each with each base prototype
    (Kb, C); scalar (pop.md 2.4 item 4). No gradient reaches `base`."""
    with without_autocast(novel):
        units, fixed = unit_prototypes(novel), unit_prototypes(base.detach())
        return _mean_of_pairs(units @ units.T, more=units @ fixed.T)


def _mean_of_pairs(cosines: Tensor, *, more: Tensor | None) -> Tensor:
    """Mean of |.| over the entries above the diagonal of (K, K), and over all of `more`."""
    total, count = cosines.triu(diagonal=1).abs().sum(), len(cosines) * (len(cosines) - 1) // 2
    if more is not None:
        total, count = total + more.abs().sum(), count + more.numel()
    return total / max(count, 1)


def pseudo_labels(logits: Tensor, mask: Tensor, base_classes: int) -> Tensor:
    """Label the background of base images with what the novel classifier sees there (pop.md 2.4 item 2).

    Args:
        logits: background, then novel classes, (B, 1 + Kn, h, w).
        mask: 0 background, 1..Kb base classes, 255 ignored, (B, H, W), int64 or uint8.
        base_classes: Kb.

    Returns:
        A new mask (B, H, W) of the same type: where `mask` is 0, Kb + j if novel class j = 1..Kn has the
        largest logit after bilinear upsampling with aligned corners; elsewhere `mask`. It has no gradient.

    Raises:
        ValueError: there are more classes than masks of 8 bits have values.
    """
    if base_classes + logits.shape[1] > IGNORE:
        raise ValueError(
            f"{base_classes} base and {logits.shape[1] - 1} novel classes, but label {IGNORE} means ignored:"
            f" at most {IGNORE - 1} classes beside the background are possible"
        )
    best = upsampled_argmax(logits.detach(), mask.shape[-2], mask.shape[-1], align_corners=True)
    found = torch.where(best > 0, best + base_classes, 0).to(mask.dtype)
    return torch.where(mask == 0, found, mask)
