"""Losses of the set of proposals, over all decoder layers at once (simformer.md 2.4, losses 1 to 3).

Mask losses are sums over maps at the resolution of the image, sixteen times the cells of a mask. A few maps
at a time are up-sampled, and their share of the gradient is taken at once, on the cells (simformer.md 5,
idea 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, softplus

from anyshot.nets.maskformer import Proposals
from anyshot.ops.precision import full, without_autocast
from anyshot.ops.upsampled import resize_weights
from anyshot.simformer.matching import POSITIVE, Matches
from anyshot.simformer.options import SetLosses
from anyshot.simformer.targets import Targets

UNION_FOCAL, UNION_DICE = 20.0, 1.0  # weights within the complementary loss, whatever those of the masks are
# up-sampled logits at a time: a few MiB stay in a CPU's cache, GPUs want long rows of work
CPU_LOGITS, GPU_LOGITS = 2**20, 2**24


@dataclass(frozen=True)
class Normalisers:
    """What the losses are divided by: float scalars.

    Each is a total over the batch of a whole optimiser step, divided by the number of parts times devices it
    is computed in; then the mean of the parts' losses is the loss of the batch.

    images: number of images. labels: of labels, with a mask or without. masks: of labels with a mask.
    incomplete: of images with at least one label without a mask.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor
    incomplete: Tensor

    @classmethod
    def of(cls, targets: Targets) -> Normalisers:
        """The counts of a batch that is computed at once, on one device."""
        bare = targets.novel.any(dim=1)
        masks, incomplete = int(targets.table[:, 2].sum()), int(bare.sum())
        counts = torch.tensor([len(bare), len(targets.table), masks, incomplete], dtype=torch.float32)
        return cls(*counts.to(bare.device))


def set_losses(
    proposals: Proposals,
    targets: Targets,
    matches: Matches,
    normalisers: Normalisers,
    options: SetLosses,
) -> dict[str, Tensor]:
    """`classification`, `focal`, `dice`, `complementary`: weighted, summed over layers (simformer.md 2.4).

    Without a label of its kind a loss is 0, and so are its gradients. A logit that is not a number makes the
    loss that depends on it not a number.
    """
    with without_autocast(proposals.class_logits):
        losses = {"classification": _classification(proposals, targets, matches, normalisers, options)}
        logits = full(proposals.mask_logits[matches.layer, matches.image, matches.query])
        masked = targets.table[matches.label, 2] == 1
        seen = ~targets.pad if options.ignore_padding else None
        rows = targets.table[:, 2].cumsum(dim=0)[matches.label[masked]] - 1  # of targets.masks
        focal, dice = mask_costs(logits[masked], targets.masks, rows, seen=seen, images=matches.image[masked])
        count = normalisers.masks.clamp(min=1)
        losses["focal"] = options.focal_weight * focal.sum() / count
        losses["dice"] = options.dice_weight * dice.sum() / count
        if options.complementary_weight == 0:
            losses["complementary"] = torch.zeros_like(losses["dice"])
            return losses
        bare = ~masked
        focal, dice = union_costs(
            logits[bare],
            uncovered(targets),
            matches.layer[bare] * len(targets.labels) + matches.image[bare],
            floor=options.complementary_floor,
            seen=seen,
        )
        total = (UNION_FOCAL * focal + UNION_DICE * dice).sum()
        images = 1e-5 + normalisers.incomplete.to(total)
        losses["complementary"] = options.complementary_weight * total / images
    return losses


def uncovered(targets: Targets) -> Tensor:
    """g (B, H, W) bool: pixels of the image that are in no mask (simformer.md 2.4, item 3)."""
    return (targets.labels >= targets.novel.shape[1]) & ~targets.pad


def _classification(
    proposals: Proposals, targets: Targets, matches: Matches, normalisers: Normalisers, options: SetLosses
) -> Tensor:
    """Cross entropy of all proposals. The weights of their targets sum to a number that counts alone give."""
    logits = full(proposals.class_logits)
    queries, nothing = logits.shape[2], logits.shape[3] - 1
    truth = torch.full(logits.shape[:3], nothing, dtype=torch.int64, device=logits.device)
    truth[matches.layer, matches.image, matches.query] = targets.table[matches.label, 1]
    weights = logits.new_ones(nothing + 1)
    weights[nothing] = options.no_object_weight
    total = cross_entropy(logits.flatten(0, 2), truth.flatten(), weight=weights, reduction="sum")
    labels, images = normalisers.labels.to(total), normalisers.images.to(total)
    return total / (labels + (images * queries - labels) * options.no_object_weight)


def mask_costs(
    logits: Tensor,
    masks: Tensor,
    rows: Tensor,
    *,
    seen: Tensor | None = None,
    images: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Focal and Dice loss of each of P masks, up-sampled bilinearly: (P,) each (simformer.md 2.4, item 2).

    logits (P, h, w); masks (M, H, W) bool; rows (P,): which of them is meant. seen: (B, H, W) bool, pixels
    that count, with images (P,), where a mask is from. Memory does not grow with P times H times W. Second
    derivatives do not exist.
    """

    def costs(maps: Tensor, slopes: Tensor | None) -> tuple[Tensor, Tensor]:
        resize = _Resize(maps, masks)
        focal, dice = maps.new_zeros(len(maps)), maps.new_zeros(len(maps))
        for part in _parts(maps, masks):
            visible = None if seen is None or images is None else seen[images[part]]
            found = _pixel_costs(resize.up(maps[part]), masks[rows[part]], visible, slopes is not None)
            focal[part], dice[part] = found.focal, found.dice
            if slopes is not None and found.slopes is not None:
                slopes[:, part] = resize.back(found.slopes)
        return focal, dice

    return _Costs.apply(logits, torch.arange(len(logits), device=logits.device), costs)


def union_costs(
    logits: Tensor, truth: Tensor, groups: Tensor, *, floor: float | None, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Focal and Dice loss of the largest mask logit of each group: (G,) each (simformer.md 2.4, item 3).

    logits (P, h, w), up-sampled bilinearly; groups (P,): layer * B + image, rows of the same number are one
    group; truth (B, H, W) bool, what an image's union should be; floor: tau, below which it is not looked at;
    seen: (B, H, W) bool, pixels that count. The gradient of a pixel goes to its largest logit alone.
    """
    keys, members, sizes = groups.unique(return_inverse=True, return_counts=True)
    order = members.argsort(stable=True)
    layout = list(zip(keys.tolist(), order.split(sizes.tolist()), strict=True))

    def costs(maps: Tensor, slopes: Tensor | None) -> tuple[Tensor, Tensor]:
        resize = _Resize(maps, truth)
        focal, dice = maps.new_zeros(len(layout)), maps.new_zeros(len(layout))
        for number, (key, rows) in enumerate(layout):
            image = slice(key % len(truth), key % len(truth) + 1)
            large, best = resize.up(maps[rows]).max(dim=0, keepdim=True)
            union = large if floor is None else large.clamp(min=floor)
            visible = None if seen is None else seen[image]
            found = _pixel_costs(union, truth[image], visible, slopes is not None)
            focal[number], dice[number] = found.focal[0], found.dice[0]
            if slopes is not None and found.slopes is not None:
                if floor is not None:
                    found.slopes.mul_(large > floor)
                shared = found.slopes.new_zeros(2, len(rows), *truth.shape[1:])
                shared.scatter_(1, best.expand(2, *best.shape), found.slopes)
                slopes[:, rows] = resize.back(shared)
        return focal, dice

    return _Costs.apply(logits, members, costs)


class _Pixels(NamedTuple):
    """Costs (n,) of n maps, and the slopes (2, n, H, W) of both."""

    focal: Tensor
    dice: Tensor
    slopes: Tensor | None


def _pixel_costs(maps: Tensor, truth: Tensor, seen: Tensor | None, sloped: bool) -> _Pixels:
    """Focal loss, a mean over pixels, and Dice loss of logits (n, H, W) against truth (n, H, W) bool.

    With z = x outside of a mask and -x inside, sigma(z) is how wrong a pixel is, and its focal cost is
    weight sigma(z)^2 softplus(z) either way.
    """
    inside = truth.to(maps.dtype)
    sign = 1 - 2 * inside
    turned = maps * sign
    wrong, cost = turned.sigmoid(), softplus(turned)
    weight = ((1 - POSITIVE) - (1 - 2 * POSITIVE) * inside).mul_(wrong).mul_(wrong)
    chance = torch.addcmul(inside, sign, wrong)  # sigma(x)
    pixels: Tensor | float = float(maps[0].numel()) if len(maps) else 1.0
    if seen is not None:
        weight, chance, inside = weight * seen, chance * seen, inside * seen
        pixels = seen.sum(dim=(1, 2)).clamp(min=1).to(maps.dtype)
    focal = (weight * cost).sum(dim=(1, 2)) / pixels
    overlap = 2 * (chance * inside).sum(dim=(1, 2)) + 1
    size = chance.sum(dim=(1, 2)) + inside.sum(dim=(1, 2)) + 1
    dice = 1 - overlap / size
    if not sloped:
        return _Pixels(focal, dice, None)
    slopes = maps.new_empty(2, *maps.shape)
    right = 1 - wrong
    torch.mul(right, cost, out=slopes[0]).mul_(2).add_(wrong).mul_(weight).mul_(sign)
    slopes[0].div_(pixels[:, None, None] if isinstance(pixels, Tensor) else pixels)
    torch.mul(inside, (-2 / size)[:, None, None], out=slopes[1]).add_((overlap / size**2)[:, None, None])
    slopes[1].mul_(wrong).mul_(right)
    if seen is not None:
        slopes[1].mul_(seen)
    return _Pixels(focal, dice, slopes)


class _Resize:
    """Bilinear up-sampling from the cells of `small` to the pixels of `large`, and its transpose."""

    def __init__(self, small: Tensor, large: Tensor) -> None:
        self.size = (large.shape[-2], large.shape[-1])
        self.rows, self.columns = (
            resize_weights(cells, pixels, align_corners=False, like=small).to(small.device)
            for cells, pixels in zip(small.shape[-2:], self.size, strict=True)
        )

    def up(self, maps: Tensor) -> Tensor:
        """(n, h, w) -> (n, H, W)."""
        return interpolate(maps[:, None], size=self.size, mode="bilinear", align_corners=False)[:, 0]

    def back(self, slopes: Tensor) -> Tensor:
        """Slopes of the pixels (..., H, W) -> slopes of the cells (..., h, w).

        As two products it is faster than torch's own, and on GPUs always the same.
        """
        return self.rows.T @ (slopes @ self.columns)


def _parts(maps: Tensor, large: Tensor) -> Iterator[slice]:
    budget = CPU_LOGITS if maps.device.type == "cpu" else GPU_LOGITS
    step = max(1, budget // large[0].numel()) if len(large) else 1
    for start in range(0, len(maps), step):
        yield slice(start, min(start + step, len(maps)))


class _Costs(torch.autograd.Function):
    """Costs of groups of maps; their slopes on the cells are known as soon as the costs are.

    compute(maps (P, h, w), slopes (2, P, h, w) to be filled, or None) -> focal and Dice cost (G,) of groups;
    members (P,): the group of each map.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, members: Tensor, compute: Callable[..., tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        slopes = logits.new_zeros(2, *logits.shape) if ctx.needs_input_grad[0] else None
        costs = compute(logits.detach(), slopes)
        if slopes is not None:
            ctx.save_for_backward(slopes, members)
        return costs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slopes, members = ctx.saved_tensors
        of_focal, of_dice = (grad[members][:, None, None] for grad in grads)
        return slopes[0] * of_focal + slopes[1] * of_dice, None, None
