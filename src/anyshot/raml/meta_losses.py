"""Losses of the meta channels, none of them with a product per channel pair or channel (raml.md 2.3; 5 items
1-3).

Channels are sigmoids resized to the image, (B, K + M, H, W) in [0, 1]: first K known classes, then M meta.
All sums are float32, also under autocast.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# `fixed` split loss of a channel that is nowhere on: -log(1e-6) = 13.8 instead of infinity
FLOOR = 1e-6


def known_loss(channels: Tensor, target: Tensor, known: int) -> Tensor:
    """Half-Dice plus binary cross entropy of the known channels, mean over the K classes; scalar.

    channels (B, K + M, H, W); target (B, H, W) closed labels 0..K-1, all else (void, novel) is negative for
    every class and counts in the mean. Half-Dice is 1 - (<c, t> + 1) / (|c|^2 + |t|^2 + 1) per image: without
    the factor 2 a perfect match costs 1/2. Logarithms stop at -100.
    """
    with torch.autocast(channels.device.type, enabled=False):
        masks = channels[:, :known].float().clamp(0, 1)  # resizing may round a weighted mean above 1
        numbers = torch.arange(known, device=target.device, dtype=target.dtype)[:, None, None]
        truth = (target[:, None] == numbers).to(masks.dtype)
        cells = truth.sum(dim=(2, 3))
        overlap = (_inner(masks, truth) + 1) / (_inner(masks, masks) + cells + 1)
        return (1 - overlap).mean() + F.binary_cross_entropy(masks, truth)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    """Inner products (B, C) of maps (B, C, H, W), without a map-sized product."""
    return torch.einsum("bcn,bcn->bc", first.flatten(2), second.flatten(2))


def split_loss(
    channels: Tensor,
    known: int,
    *,
    coverage: float = 0.02,
    form: Literal["official", "paper", "fixed"] = "official",
) -> Tensor:
    """Penalty for meta channels that cover less than the share `coverage` of all pixels of the batch; scalar.

    channels (B, K + M, H, W). Mean over the M meta channels of -log(min(mean / coverage, 1)); a channel that
    is nowhere on makes it infinite (`official`). `fixed` adds a floor of 1e-6, so that it stays finite and a
    dying channel still has a gradient. `paper` is the printed -log(max(coverage * sum, 1)), which has no
    lower bound and pulls every channel up without end.
    """
    meta = channels[:, known:].float()
    if form == "paper":
        return -(coverage * meta.sum(dim=(0, 2, 3))).clamp(min=1).log().mean()
    covered = (meta.mean(dim=(0, 2, 3)) / coverage).clamp(max=1)
    if form == "fixed":
        covered = (covered + FLOOR) / (1 + FLOOR)
    return -covered.log().mean()


class _Gram(torch.autograd.Function):
    """Z Z^T per sample; its backward is one product (dG + dG^T) Z and keeps nothing but Z."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.save_for_backward(maps)
        return torch.bmm(maps, maps.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        return torch.bmm(grads[0] + grads[0].transpose(1, 2), maps)


def inter_loss(channels: Tensor, *, form: Literal["official", "paper"] = "official") -> Tensor:
    """Mean overlap (<p, q> + 1) / (|p|^2 + |q|^2 + 1) of different channels of an image; scalar.

    channels (B, C, H, W), C >= 2. `official` is the mean over the C (C - 1) ordered pairs and the batch,
    `paper` the sum over pairs i < j, mean over the batch. All inner products come from one Gram matrix per
    image. Two empty channels count as full overlap, as published.
    """
    with torch.autocast(channels.device.type, enabled=False):
        gram = _Gram.apply(channels.float().flatten(2))
        norms = gram.diagonal(dim1=1, dim2=2)
        overlap = (gram + 1) / (norms[:, :, None] + norms[:, None, :] + 1)
        above = overlap.triu(diagonal=1).sum(dim=(1, 2))
    if form == "paper":
        return above.mean()
    count = channels.shape[1]
    return above.mean() * 2 / (count * (count - 1))


def reconstruction_loss(
    channels: Tensor, images: Tensor, *, form: Literal["official", "paper"] = "official"
) -> Tensor:
    """Difference between images (B, 3, H, W) and images weighted by the sum of all channels; scalar.

    channels (B, C, H, W). The difference is x (sum - 1), so x^2 summed over colours is all that is needed of
    the images (normalised, as the network gets them). `official` is the mean square over B * 3 * H * W;
    `paper` the Euclidean norm, here [our reading] per image and averaged over the batch.
    """
    excess = channels.float().sum(dim=1) - 1
    energy = images.float().square().sum(dim=1)
    if form == "paper":
        return torch.linalg.vector_norm(excess * energy.sqrt(), dim=(1, 2)).mean()
    return (excess.square() * energy).sum() / images.numel()
