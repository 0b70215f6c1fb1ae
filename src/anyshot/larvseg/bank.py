"""The bank of features of earlier images, of which only means matter (larvseg.md 2.5, "Exact compact form").

The published bank holds M x k unit vectors per class and takes the mean of their cosines with a token. That
is the token's product with their mean, so a slot of ours holds the mean of its k vectors: M x D numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from anyshot.errors import ConfigError
from anyshot.larvseg.losses import Pairs
from anyshot.ops.precision import full, without_autocast

CHUNK = 2**22  # cosines of tokens and classes that are held at once, and numbers of a fresh bank


class CompactBank(nn.Module):
    """Per class of the vocabulary a ring of M slots, each the mean of k unit vectors (larvseg.md 2.5).

    classes: G, rows of the class table. width: D. slots: M. tokens: k, taken from an image for a label. half:
    keep slots in float16, half the memory; the means stay in float32 and are those of what is stored. seed:
    of the first content, means of k random unit vectors. All of it is in buffers, so checkpoints hold it.
    """

    slots: Tensor  # (G, M, D)
    means: Tensor  # (G, D): m_c, the mean over the slots
    pointer: Tensor  # (G,) int64, the slot that is written next
    wraps: Tensor  # (G,) int64, how often the last slot was written, `full`

    def __init__(
        self, *, classes: int, width: int, slots: int, tokens: int, half: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        if min(classes, width - 1, slots, tokens) < 1:
            raise ConfigError(
                f"a bank of {classes} classes x {slots} slots x {tokens} tokens x {width} channels is empty: "
                f"at least 1 class, slot and token and 2 channels are needed"
            )
        self.tokens = tokens
        kind = torch.float16 if half else torch.float32
        self.register_buffer("slots", _random_slots(classes, slots, tokens, width, kind, seed))
        self.register_buffer("means", torch.empty(classes, width))
        self.register_buffer("pointer", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("wraps", torch.zeros(classes, dtype=torch.int64))
        self.refresh()

    @property
    def size(self) -> int:
        """M, slots of a class."""
        return self.slots.shape[1]

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the means of all slots anew, after the slots were set from outside."""
        for part in torch.arange(len(self.slots), device=self.slots.device).split(_rows(self.slots[0])):
            self.means[part] = self.slots[part].to(self.means).mean(dim=1)

    @torch.no_grad()
    def enqueue(
        self, rows: Tensor, vectors: Tensor, *, all_gather: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Write vectors (n, D), means of k unit vectors each, to the next slots of the classes `rows` (n,).

        In order: a class that occurs twice fills two slots. all_gather: (...) -> (devices, ...), the same
        tensor of every device in order of rank; then the writes of all devices come one after the other, and
        all banks stay equal. Every device has to call, with n = 0 if it has nothing. `wraps` counts the
        writes to the last slot, once per M.
        """
        if all_gather is not None:
            rows, vectors = _gathered(rows, vectors, all_gather)
        same = rows[:, None] == rows
        before, after = same.tril(-1).sum(dim=1), same.triu(1).sum(dim=1)
        last = after < self.size  # a longer run overwrites its own beginning
        places = (self.pointer[rows] + before) % self.size
        self.slots[rows[last], places[last]] = vectors[last].to(self.slots)
        touched, number = rows.unique(return_counts=True)
        reached = self.pointer[touched] + number
        self.wraps[touched] += reached // self.size
        self.pointer[touched] = reached % self.size
        self.means[touched] = self.slots[touched].to(self.means).mean(dim=1)


def _rows(one: Tensor) -> int:
    """How many of such tensors make up a chunk."""
    return max(1, CHUNK // one.numel())


def _random_slots(classes: int, slots: int, tokens: int, width: int, kind: torch.dtype, seed: int) -> Tensor:
    """Means of `tokens` random unit vectors (classes, slots, width), without drawing the vectors.

    Their sum has a random direction. Its length grows as that of a walk: a random unit vector lies along the
    sum so far with t, (t + 1) / 2 from Beta((D - 1) / 2, (D - 1) / 2), and r^2 becomes r^2 + 2 r t + 1.
    """
    generator, lengths = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    filled = torch.empty(classes, slots, width, dtype=kind)
    for part in filled.split(_rows(filled[0])):
        directions = torch.randn(part.shape, generator=generator)
        length = np.zeros(part.shape[:2])
        for _ in range(tokens):
            along = 2 * lengths.beta((width - 1) / 2, (width - 1) / 2, length.shape) - 1
            length = np.sqrt(length**2 + 2 * length * along + 1)
        scale = torch.from_numpy(length / tokens).float() / directions.norm(dim=2)
        part.copy_(directions * scale[..., None])
    return filled


def _gathered(rows: Tensor, vectors: Tensor, all_gather: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Rows and vectors of all devices, in order of rank; devices may bring different numbers of them."""
    numbers = all_gather(rows.new_tensor([len(rows)])).flatten().tolist()
    longest = max(numbers)
    padded_rows = rows.new_zeros(longest)
    padded_rows[: len(rows)] = rows
    padded = vectors.new_zeros(longest, vectors.shape[1])
    padded[: len(rows)] = vectors
    every_rows = all_gather(padded_rows).reshape(len(numbers), longest)
    every = all_gather(padded).reshape(len(numbers), longest, -1)
    kept = [slice(number) for number in numbers]
    return (
        torch.cat([part[which] for part, which in zip(every_rows, kept, strict=True)]),
        torch.cat([part[which] for part, which in zip(every, kept, strict=True)]),
    )


@torch.no_grad()
def best_tokens(units: Tensor, class_units: Tensor, pairs: Pairs, *, tokens: int) -> Tensor:
    """Mean of the `tokens` tokens of a pair's image with the largest cosines with its label (2.5 step 6).

    units (B, P, D), class_units (N, D) -> (n, D). Raises ConfigError where an image has fewer tokens.
    """
    if tokens > units.shape[1]:
        raise ConfigError(
            f"{tokens} tokens of an image are to enter the bank, but it has {units.shape[1]}: lower the "
            f"number or enlarge the crop"
        )
    found = [units.new_zeros(0, units.shape[2])]
    with without_autocast(units):
        for image, labels in zip(units, pairs.sets, strict=True):
            scores = image @ class_units[list(labels)].T
            found.append(image[scores.topk(tokens, dim=0).indices].mean(dim=0))
    return torch.cat(found)


def attention_direction(
    bank: CompactBank, row: int, background: Tensor | None, *, warm_up: int | None = None
) -> Tensor:
    """d (D,) with e_p = x_p.d + constant: m_y - mean m_c of the background (larvseg.md 2.5 steps 2 to 4).

    row: of the class y; background: rows (c,) of the classes c, None for none at all. warm_up: those whose
    last slot was written less often do not count (None: all count, as published). Where no class is left, the
    background is 1 - f: d = 2 m_y.
    """
    own = bank.means[row]
    if background is None:
        return own
    counted = bank.wraps[background] >= (0 if warm_up is None else warm_up)
    number = counted.sum()
    mean = (counted.to(own.dtype) @ bank.means[background]) / number.clamp(min=1)
    return torch.where(number > 0, own - mean, 2 * own)


@dataclass(frozen=True, kw_only=True)
class Mining:
    """Which classes make up the background of an image with one label (larvseg.md 2.5 step 3).

    tokens, threshold: candidates are the classes whose `tokens` largest cosines have a mean above `threshold`
    (`background_topk`, `background_thresh`). difference: of them those stay whose standardised response
    differs by more from the label's, mean square over the tokens, 0 to about 4 (`background_mse_thresh`).
    """

    tokens: int = 5
    threshold: float = 0.2
    difference: float = 1.0


@torch.no_grad()
def candidate_scores(units: Tensor, class_units: Tensor, *, tokens: int) -> Tensor:
    """Mean of the largest `tokens` cosines of each class (N,), of one image's units (P, D), in chunks."""
    if tokens > len(units):
        raise ConfigError(
            f"the background is mined with the {tokens} best tokens of a class, but an image has "
            f"{len(units)}: lower the number or enlarge the crop"
        )
    with without_autocast(units):
        return torch.cat(
            [
                (units @ part.T).topk(tokens, dim=0).values.mean(dim=0)
                for part in class_units.split(max(1, CHUNK // len(units)))
            ]
        )


@torch.no_grad()
def response_differences(bank: CompactBank, units: Tensor, row: int, others: Tensor) -> Tensor:
    """Mean squared difference (c,) of the standardised responses to class `row` and to the classes `others`.

    From the covariance S of the tokens, without response maps: 2 (P - 1) / P (1 - rho), rho = m_y S m_c /
    sqrt(m_y S m_y m_c S m_c) (larvseg.md 2.5 step 3, 5.2 item 4). units (P, D). A response that varies by
    rounding alone correlates with nothing: rho = 0.
    """
    with without_autocast(units):
        units = full(units)
        centred = units - units.mean(dim=0)
        covariance = centred.T @ centred / len(units)
        own, means = bank.means[row].to(units), bank.means[others].to(units)
        along = covariance @ own
        own_variance, variances = own @ along, ((means @ covariance) * means).sum(dim=1)
        varied = torch.minimum(own_variance, variances) > (16 * torch.finfo(units.dtype).eps) ** 2
        correlation = (means @ along) * (own_variance * variances).where(varied, 1).rsqrt() * varied
    return 2 * (len(units) - 1) / len(units) * (1 - correlation)


@torch.no_grad()
def mined_background(
    bank: CompactBank, units: Tensor, class_units: Tensor, *, label: int, rows: Tensor, mining: Mining
) -> Tensor:
    """Rows (c,) of the classes that are the background of one image with one label (larvseg.md 2.5 step 3).

    units (P, D), class_units (N, D), label: position in V, rows (N,): of the class table, on the host. May
    be empty.
    """
    found = candidate_scores(units, class_units, tokens=mining.tokens) > mining.threshold
    found[label] = False
    others = rows[found.nonzero()[:, 0].to(rows.device)]
    if not len(others):
        return others
    kept = response_differences(bank, units, int(rows[label]), others) > mining.difference
    return others[kept.to(rows.device)]
