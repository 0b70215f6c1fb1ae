"""From proposals to classes: fused scores of several sizes, argmax by chunks (simformer.md 2.10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyshot.data.transforms import normalise, resize_image
from anyshot.nets.maskformer import Proposals
from anyshot.simformer.datasets import short_side_size
from anyshot.simformer.options import Scales

DIVISOR = 32  # px of which a side of the padded image is a multiple
ROUNDING = 1.0001  # of sums and resizing, by which a score may pass its bound
CHUNK = 16  # classes whose scores are held at the image's own size at a time


@dataclass(frozen=True)
class View:
    """Proposals of one size of an image: probabilities (Q, K) of the classes, (Q, h, w) of the pixels."""

    classes: Tensor
    pixels: Tensor


def proposals_of(model: nn.Module, pixels: Tensor) -> Proposals:
    """Proposals of the last layer for normalised images (B, 3, H, W) of any size.

    They are zero-padded to multiples of 32 px; mask logits are at stride 4 of the padded images.
    """
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (0, -width % DIVISOR, 0, -height % DIVISOR))
    found = model(padded, every_layer=False)
    assert isinstance(found, Proposals)
    return found


def views(
    model: nn.Module,
    image: np.ndarray,
    *,
    scales: Scales,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
) -> list[View]:
    """One view of an image (H, W, 3) uint8 per size, and one per mirrored size, mirrored back."""
    found = []
    for side in scales.short_sides:
        size = short_side_size(image.shape[0], image.shape[1], side, scales.longest)
        pixels = normalise(resize_image(image, *size), mean=mean, std=std).to(device)
        for mirror in (False, True)[: 1 + scales.mirror]:
            proposals = proposals_of(model, (pixels.flip(-1) if mirror else pixels)[None])
            logits = proposals.mask_logits[-1]
            whole = [4 * side for side in logits.shape[-2:]]
            masks = F.interpolate(logits, size=whole, mode="bilinear", align_corners=False)[0].sigmoid()
            masks = masks[:, : size[0], : size[1]]
            classes = proposals.class_logits[-1, 0].softmax(dim=-1)[:, :-1]
            found.append(View(classes, masks.flip(-1) if mirror else masks))
    return found


def segment(
    found: Sequence[View],
    height: int,
    width: int,
    *,
    allowed: Sequence[int] | None = None,
    chunk: int = CHUNK,
) -> np.ndarray:
    """Class index of every pixel, (H, W) uint8: the best mean score over the views.

    score[c, x] = sum over the proposals of P(c) P(mask at x), resized bilinearly to (H, W). Only `chunk`
    classes are held at that size at once; the map does not depend on it. Classes come by falling largest
    score; where no other can win at any pixel the rest is left out. allowed: class indices to choose among,
    None = all.
    """
    device = found[0].pixels.device
    count = found[0].classes.shape[1]
    every = (
        torch.arange(count, device=device)
        if allowed is None
        else torch.tensor(sorted(allowed), device=device)
    )
    bounds, order = _largest_scores(found, every, chunk).sort(descending=True, stable=True)
    best = torch.full((height, width), -1.0, device=device)
    winner = torch.zeros((height, width), dtype=torch.uint8, device=device)
    for begin in range(0, len(every), chunk):
        if begin and bounds[begin] * ROUNDING < best.min():
            break
        indices = every[order[begin : begin + chunk]].sort().values
        score, place = fused_scores(found, height, width, indices).max(dim=0)
        better = score > best
        best = torch.where(better, score, best)
        winner = torch.where(better, indices[place].to(torch.uint8), winner)
    return winner.cpu().numpy()


def _largest_scores(found: Sequence[View], indices: Tensor, chunk: int) -> Tensor:
    """Bounds (C,) on the scores of the classes `indices` (C,): resizing never exceeds the largest cell."""
    total = torch.zeros(len(indices), device=indices.device)
    for view in found:
        parts = (
            torch.einsum("qc,qhw->chw", view.classes[:, part], view.pixels).amax(dim=(1, 2))
            for part in indices.split(chunk)
        )
        total += torch.cat(list(parts))
    return total / len(found)


def fused_scores(found: Sequence[View], height: int, width: int, indices: Tensor) -> Tensor:
    """Mean scores (C, H, W) of the classes `indices` (C,) over the views, resized bilinearly to (H, W)."""
    total = torch.zeros((len(indices), height, width), device=indices.device)
    for view in found:
        scores = torch.einsum("qc,qhw->chw", view.classes[:, indices], view.pixels)
        total += F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    return total / len(found)
