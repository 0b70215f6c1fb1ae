"""Pixel loss and image-level losses of LarvSeg (larvseg.md 2.3, 2.4), without the tensors pixels x classes.

Pooling over the pixels of upsampled logits is linear: it is a weighted sum over the tokens, whose weights
have no class axis (larvseg.md 5.2 items 1, 2), and of that sum the class vectors can be taken out (item 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.errors import DataError
from anyshot.larvseg.head import CosineHead, class_moments, cosine_deviations, require_ignore
from anyshot.ops.precision import full, without_autocast
from anyshot.ops.upsampled import resize_weights, upsampled_cross_entropy

Divisor = Literal["all", "valid"]
Form = Literal["ce", "bce"]

PLAIN_LOGITS = 2**24  # tokens x classes of a batch that are held at most, 64 MiB


def at_loss_resolution(labels: Tensor, rate: int) -> Tensor:
    """Every `rate`-th row and column of (B, H, W), as nearest resizing of the published code (2.3)."""
    if labels.shape[1] % rate or labels.shape[2] % rate:
        raise DataError(f"labels of {tuple(labels.shape[1:])} px cannot be reduced {rate} times: crop or pad")
    return labels[:, ::rate, ::rate]


def label_sets(labels: Tensor, *, ignore: int = 255) -> list[list[int]]:
    """Y_b of label maps (B, H, W): their distinct values but `ignore`, ascending (larvseg.md 1.3)."""
    return [[value for value in image.unique().tolist() if value != ignore] for image in labels]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The n pairs (image, label) of a batch, images in order, the labels of an image ascending (2.4, 2.5).

    image, label: (n,) int64; label: position in V. present: (B, N) bool, the label sets. sets: the same on
    the host.
    """

    image: Tensor
    label: Tensor
    present: Tensor
    sets: tuple[tuple[int, ...], ...]

    @property
    def numbers(self) -> list[int]:
        """How many labels each image has."""
        return [len(labels) for labels in self.sets]

    @property
    def listed(self) -> list[tuple[int, int]]:
        """(image, label) of each pair, on the host."""
        return [(number, label) for number, labels in enumerate(self.sets) for label in labels]

    @classmethod
    def of(
        cls, sets: Sequence[Iterable[int]], *, classes: int, device: torch.device | str | None = None
    ) -> Pairs:
        """From the labels of each image, positions among `classes`. Raises DataError for one beyond them."""
        ordered = tuple(tuple(sorted({int(label) for label in one})) for one in sets)
        for number, one in enumerate(ordered):
            if one and not 0 <= one[0] <= one[-1] < classes:
                raise DataError(
                    f"image {number} of the batch has labels {one[0]} to {one[-1]}, but {classes} classes "
                    f"are active: give positions among the active classes"
                )
        flat = [(number, label) for number, one in enumerate(ordered) for label in one]
        image, label = torch.tensor(flat, dtype=torch.int64).reshape(-1, 2).T
        present = torch.zeros(len(ordered), classes, dtype=torch.bool)
        present[image, label] = True
        return cls(image=image.to(device), label=label.to(device), present=present.to(device), sets=ordered)

    def __len__(self) -> int:
        return len(self.image)


class PooledLogits:
    """sum_p w_p z_pn of a batch for any weights over the tokens, with gradient (larvseg.md 5.2 item 3).

    units (B, P, D), class_units (N, D), counts (N,) or None as `CosineHead.logits`, whose scale and shift are
    used. Made once for a batch, it serves all losses. compact: without any logits of tokens, from mean and
    covariance of the class vectors, O(N D^2 + B P D^2) work and O(N D) memory; otherwise with z (B, P, N),
    O(B P N D). Both are exact; None takes the plain way where it is the shorter one and z is small.
    """

    def __init__(
        self,
        head: CosineHead,
        *,
        units: Tensor,
        class_units: Tensor,
        counts: Tensor | None = None,
        compact: bool | None = None,
    ) -> None:
        self.units, self.class_units, self.counts = units, class_units, counts
        self.scale, self.shift = head.scale, head.shift
        tokens, classes, width = units.shape[0] * units.shape[1], len(class_units), units.shape[2]
        if compact is None:
            shorter = tokens * classes > width * (tokens + classes)
            compact = shorter or tokens * classes > PLAIN_LOGITS
        self.compact = compact
        if compact:
            with without_autocast(units):
                moments = class_moments(class_units, counts)
                self._mean = moments.mean
                self._sources = units / cosine_deviations(units, moments)[..., None]
        else:
            self._sources = head.logits(units, class_units, counts)

    def __call__(self, weights: Tensor, numbers: Sequence[int] | None = None) -> Tensor:
        """weights (n, P) over the tokens, `numbers` rows for each image in turn (None: 1) -> (n, N)."""
        with without_autocast(weights):
            parts = weights.split([1] * len(self.units) if numbers is None else list(numbers))
            pooled = torch.cat([part @ source for part, source in zip(parts, self._sources, strict=True)])
            if not self.compact:
                return pooled
            centred = pooled @ self.class_units.T - (pooled @ self._mean)[:, None]
            return self.scale * centred + self.shift * weights.sum(dim=1, keepdim=True)


def adjoint_pooling(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weights (n, P) over the tokens with sum_p w_p z_p = sum_q maps_q (upsampled z)_q (larvseg.md 5.2 item
    2).

    maps (n, H', W') at loss resolution; grid (h, w) of the tokens; any factor between them.
    """
    with without_autocast(maps):
        maps = full(maps)
        rows, columns = (
            resize_weights(cells, size, align_corners=False, like=maps).to(maps.device)
            for cells, size in zip(grid, maps.shape[1:], strict=True)
        )
        return (rows.T @ maps @ columns).flatten(1)


def mean_pooling(
    grid: tuple[int, int], size: tuple[int, int], *, images: int, like: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Weights (B, P) of the mean over all pixels at loss resolution `size`, or over those `valid`.

    valid: (B, H', W') bool; an image without a valid pixel has weights 0. The mean over all pixels is that
    over all tokens where the factor is an integer (larvseg.md 5.2 item 1).
    """
    if valid is not None:
        number = valid.flatten(1).sum(dim=1).clamp(min=1)
        return adjoint_pooling(valid.to(like.dtype) / number[:, None, None], grid)
    rows, columns = (
        resize_weights(cells, length, align_corners=False, like=like).mean(dim=0)
        for cells, length in zip(grid, size, strict=True)
    )
    return (rows[:, None] * columns).flatten().to(like).expand(images, -1)


def pixel_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    counts: Tensor | None = None,
    divisor: Divisor = "all",
    ignore: int = 255,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """L_seg of logits (B, N, h, w), bilinearly resized to labels (B, H', W') in tiles (larvseg.md 2.3).

    labels: positions in V at loss resolution, or `ignore`. divisor: all pixels, as published, or the valid
    ones. counts (N,): log sum_n k_n e^z_n - z_y (1.4). `all_reduce_sum` adds sums and pixels over the
    devices. Raises DataError where `ignore` is a class.
    """
    require_ignore(ignore, logits.shape[1])
    valid = labels != ignore
    known = valid.sum()
    biases = None if counts is None else counts.to(logits.device, full(logits).dtype).log()
    biased = logits if biases is None else full(logits) + biases[:, None, None]
    total = upsampled_cross_entropy(biased, labels, align_corners=False, ignore=ignore) * known
    if biases is not None:
        total = total + biases[labels[valid].long()].sum()
    number = known if divisor == "valid" else torch.full_like(known, labels.numel())
    return quotient(total, number, all_reduce_sum)


def pair_costs(pooled: Tensor, pairs: Pairs, *, form: Form = "ce", counts: Tensor | None = None) -> Tensor:
    """What the pooled logits (n, N) of each pair cost, (n,); the image's other labels do not take part.

    ce: log sum over V without Y_b \\ {y} of e^z, less z_y (larvseg.md 2.4). bce: mean binary cross entropy of
    the same classes with y as the only positive one; how attention and binary cross entropy meet is not
    specified, this is ours. counts (N,): each class counts k_n times.
    """
    others = pairs.present[pairs.image].clone()
    every = torch.arange(len(pairs), device=pooled.device)
    others[every, pairs.label] = False
    copies = pooled.new_ones(pooled.shape[1]) if counts is None else counts.to(pooled)
    if form == "ce":
        competing = (pooled + copies.log()).masked_fill(others, -torch.inf)
        return competing.logsumexp(dim=1) - pooled[every, pairs.label]
    truth = torch.zeros_like(pooled)
    truth[every, pairs.label] = 1
    weights = copies * ~others
    costs = F.binary_cross_entropy_with_logits(pooled, truth, reduction="none")
    return (costs * weights).sum(dim=1) / weights.sum(dim=1)


def image_loss(
    pooled: Tensor,
    pairs: Pairs,
    *,
    form: Form = "ce",
    counts: Tensor | None = None,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """L_img / lambda of the pooled logits (B, N) of each image; 0 without a label (larvseg.md 2.4).

    ce: mean over all pairs. bce: mean over the images that have a label of the mean over the classes of the
    binary cross entropy with all labels positive; published with pooling over the pixels not ignored.
    """
    if form == "ce":
        costs = pair_costs(pooled[pairs.image], pairs, counts=counts)
        return quotient(costs.sum(), costs.new_tensor(len(costs)), all_reduce_sum)
    truth = pairs.present.to(pooled.dtype)
    costs = F.binary_cross_entropy_with_logits(pooled, truth, reduction="none")
    copies = pooled.new_ones(pooled.shape[1]) if counts is None else counts.to(pooled)
    labelled = pairs.present.any(dim=1)
    means = (costs @ (copies / copies.sum())) * labelled
    return quotient(means.sum(), labelled.sum(), all_reduce_sum)


def quotient(total: Tensor, number: Tensor, all_reduce_sum: Callable[[Tensor], Tensor] | None) -> Tensor:
    """total / number, both summed over the devices if wanted; 0 / 0 = 0."""
    sums = torch.stack([total, number.to(total)])
    if all_reduce_sum is not None:
        sums = all_reduce_sum(sums)
    return sums[0] / sums[1].clamp(min=1)
