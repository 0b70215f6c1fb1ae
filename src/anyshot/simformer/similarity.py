"""SimNet, which says whether two pixels show the same class, and the points it is asked about (simformer.md
2.5, 2.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from anyshot.ops.collectives import all_gather, device_rank
from anyshot.simformer.options import PairLosses
from anyshot.simformer.targets import CELL, Targets

Norm = Literal["batch", "layer"]


class ResidualBlock(nn.Module):
    """Two normalised layers beside a shortcut, added after the second ReLU (simformer.md 2.5).

    inputs, outputs: channels; a shortcut between different numbers is a layer with ReLU of its own.
    """

    def __init__(self, *, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        kind = nn.BatchNorm1d if norm == "batch" else nn.LayerNorm
        self.shortcut = nn.Linear(inputs, outputs) if inputs != outputs else None
        self.first, self.second = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)
        self.first_norm, self.second_norm = kind(outputs), kind(outputs)

    def forward(self, pairs: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        kept = pairs if self.shortcut is None else self.shortcut(pairs).relu_()
        return self._after(self.first(pairs), kept)

    def of_points(self, first: Tensor, second: Tensor) -> Tensor:
        """What the pairs of points (R, I, C) and (R, J, C) give, side by side as input: (R I J, outputs).

        W [a; b] = W_a a + W_b b: the layers see R (I + J) points instead of R I J pairs (simformer.md 5, idea
        5). Needs a block that changes the number of channels.
        """
        if self.shortcut is None:
            raise ValueError("pairs of points are the input of a block that changes the number of channels")
        hidden = _of_both(self.first, first, second)
        return self._after(hidden, _of_both(self.shortcut, first, second).relu_())

    def _after(self, hidden: Tensor, kept: Tensor) -> Tensor:
        hidden = self.first_norm(hidden).relu_()
        return self.second_norm(self.second(hidden)).relu_() + kept


def _of_both(layer: nn.Linear, first: Tensor, second: Tensor) -> Tensor:
    left, right = layer.weight.split([first.shape[2], second.shape[2]], dim=1)
    ours = nn.functional.linear(first, left, layer.bias)
    theirs = nn.functional.linear(second, right)
    return (ours[:, :, None] + theirs[:, None]).flatten(0, 2)


class SimilarityNet(nn.Module):
    """The chance that two pixel embeddings belong to one class; not symmetric in them (simformer.md 2.5).

    width: channels C of an embedding; depth: residual blocks; norm: of the pairs of a call, or of each alone.
    """

    normalised_alone = (
        True  # a call is a pair of images, also where a batch has more, on one device or several
    )

    def __init__(self, *, width: int, depth: int = 3, norm: Norm = "batch") -> None:
        super().__init__()
        first = ResidualBlock(inputs=2 * width, outputs=width, norm=norm)
        further = (ResidualBlock(inputs=width, outputs=width, norm=norm) for _ in range(depth - 1))
        self.first = first
        self.further = nn.Sequential(*further)
        self.head = nn.Linear(width, 2)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Points (R, I, C) and (R, J, C) -> (R, I, J), the chance that a pair shows one class.

        Batch norms take their statistics over all R I J pairs.
        """
        hidden = self.further(self.first.of_points(first, second))
        chances = self.head(hidden).softmax(dim=-1)[:, 1]
        return chances.view(len(first), first.shape[1], second.shape[1])


class BalanceWindow(nn.Module):
    """How many similar and dissimilar pairs of points the last pairs of images had (simformer.md 2.5).

    length: pairs of images looked back on, the current one included. The window starts with one entry 1 / 1.
    It is a buffer, so that a continued training goes on with it.
    """

    rows: Tensor  # (length, 2) int64: dissimilar, similar; the newest last, 0 where none was yet

    def __init__(self, *, length: int = 25) -> None:
        super().__init__()
        rows = torch.zeros(length, 2, dtype=torch.int64)
        rows[-1] = 1
        self.register_buffer("rows", rows)

    @torch.no_grad()
    def update(self, counts: Tensor) -> Tensor:
        """Count pairs of images: (pairs, 2) dissimilar and similar pairs of points -> (pairs, 2), the weights
        w_0 of the dissimilar and w_1 of the similar ones.

        w_0 = n_1 / (n_0 + n_1) and w_1 = n_0 / (n_0 + n_1), so that both sorts weigh the same; n are the sums
        of the window that ends with the pair. Several devices' pairs are counted in the order of the whole
        batch, so that every pair has the window that one device would have for it. Each device has the same
        number of pairs, and gets the weights of its own.
        """
        length, own = len(self.rows), len(counts)
        every = torch.cat([self.rows, all_gather(counts.to(self.rows)).flatten(0, 1)])
        windows = every.unfold(0, length, 1)[1:].sum(dim=-1).float()
        self.rows.copy_(every[-length:])
        windows = windows[device_rank() * own :][:own]
        return windows.flip(1) / windows.sum(dim=1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class CoarseLabels:
    """Labels at every 4th row and column of images, on the host: (images, cells) each.

    labels: uint8. base: bool, cells of a base class. pad: bool, cells beyond the image.
    """

    labels: Tensor
    base: Tensor
    pad: Tensor

    @classmethod
    def of(cls, targets: Targets, novel: Tensor) -> CoarseLabels:
        """The cells of a batch. novel: (K,) bool; a novel class in the label map counts as no base class."""
        labels = targets.labels[:, ::CELL, ::CELL].flatten(1).cpu()
        known = torch.cat([~novel.cpu(), torch.zeros(1, dtype=torch.bool)])
        base = known[labels.long().clamp(max=len(novel))]
        return cls(labels, base, targets.pad[:, ::CELL, ::CELL].flatten(1).cpu())

    def pair(self, number: int) -> CoarseLabels:
        """The two images of a pair."""
        both = slice(2 * number, 2 * number + 2)
        return CoarseLabels(self.labels[both], self.base[both], self.pad[both])


def similarity_points(pair: CoarseLabels, options: PairLosses, generator: torch.Generator) -> Tensor:
    """Cells (2, J) of a pair of images that SimLoss compares, the same number in both (simformer.md 2.5).

    `focus_share` of them show a base class that both images have, drawn evenly, or any base class if they
    have none in common; the others lie neither there nor in the padding. None is drawn twice, except that a
    region with too few cells is made up for from all other cells, where the second draw may meet the first.
    """
    count = min(options.points, pair.labels.shape[1])
    focused = round(count * options.focus_share)
    shown = [set(labels[base].unique().tolist()) for labels, base in zip(pair.labels, pair.base, strict=True)]
    shared = sorted(shown[0] & shown[1])
    region = pair.base
    if shared:
        region = pair.labels == shared[int(torch.randint(len(shared), (), generator=generator))]
    points = [
        torch.cat([_drawn(inside, focused, generator), _drawn(~inside & ~pad, count - focused, generator)])
        for inside, pad in zip(region, pair.pad, strict=True)
    ]
    return torch.stack(points)


def novel_points(pair: CoarseLabels, count: int, generator: torch.Generator) -> Tensor | None:
    """Cells (2, count) of a pair of images that may be novel: neither base nor padding (simformer.md 2.6).

    From a region with fewer cells some are drawn more than once; None where an image has no such cell.
    """
    points = []
    for base, pad in zip(pair.base, pair.pad, strict=True):
        cells = (~base & ~pad).nonzero()[:, 0]
        if not len(cells):
            return None
        if len(cells) < count:
            points.append(cells[torch.randint(len(cells), (count,), generator=generator)])
        else:
            points.append(cells[torch.randperm(len(cells), generator=generator)[:count]])
    return torch.stack(points)


def _drawn(region: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` different cells, evenly from the region (cells,) bool; if it is too small, all and others."""
    keys = torch.rand(len(region), generator=generator) + region
    return keys.topk(count).indices
