"""Sections of `larvseg.py`: the bank with its attention, and pooled image-level losses (larvseg.md 2.4, 2.5,
5.2 items 1, 3, 4) against the plain forms of tests/reference."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from measuring import Item, compared, in_own_process, measured, use_threads
from torch import Tensor

from anyshot.larvseg.attention_loss import (
    AttentionRule,
    attention_directions,
    attention_maps,
    attention_scores,
)
from anyshot.larvseg.bank import CompactBank
from anyshot.larvseg.head import ActiveClasses, CosineHead
from anyshot.larvseg.losses import Pairs, PooledLogits, image_loss, mean_pooling
from tests.reference import larvseg_head as plain

CLASSES, TRAINED, FEW = 21_841, 847, 40
CHANNELS, CELLS, POOLED_CELLS = 768, 32, 20  # of ViT-B/16, at 512 px and at an ImageNet crop of 320 px
STEPS, SLOTS, TOKENS = 2, 20, 40  # of the bank: steps, slots per class, tokens per slot
SHOWN = 8  # images of a step
REGIONS, NOISE = 12, 0.5  # of an image: stripes of a class's own vector, noise relative to it
Row = dict[str, Any]


class ProductBank(plain.Bank):
    """The literal bank, with one product instead of a loop over the tokens and vectors of a class."""

    def response(self, units: Tensor, row: int) -> Tensor:
        flat = self.vectors[row].flatten(0, 1)
        return (units @ flat.T / flat.norm(dim=1)).mean(dim=1)


class Bag:
    """Images of regions of 12 classes each: units (B, P, D), class_units (G, D), label sets; M and k of the
    bank, grid of the tokens and size of the maps."""

    def __init__(self, small: bool, seed: int = 0) -> None:
        torch.manual_seed(0)
        classes, images, cells, channels = (20, 2, 4, 32) if small else (TRAINED, SHOWN, CELLS, CHANNELS)
        self.slots, self.tokens = (3, 4) if small else (SLOTS, TOKENS)
        self.grid, self.size = (cells, cells), (8 * cells, 8 * cells)
        self.class_units = F.normalize(torch.randn(classes, channels), dim=1)
        torch.manual_seed(seed)
        shown = torch.stack([torch.randperm(classes)[:REGIONS] for _ in range(images)])
        own = self.class_units[shown[:, torch.arange(cells * cells) * REGIONS // cells**2]]
        self.units = F.normalize(own + NOISE * F.normalize(torch.randn_like(own), dim=2), dim=2)
        self.sets = [sorted(row[: 1 if number % 2 else 3]) for number, row in enumerate(shown.tolist())]

    def vectors(self, row: int) -> Tensor:
        """What the bank holds of a class at first: unit vectors (M, k, D) around the class's own."""
        generator = torch.Generator().manual_seed(row)
        noise = torch.randn(self.slots, self.tokens, self.class_units.shape[1], generator=generator)
        return F.normalize(self.class_units[row] + F.normalize(noise, dim=2), dim=2)


def literal_bank(bag: Bag) -> ProductBank:
    classes, channels = bag.class_units.shape
    bank = ProductBank(torch.ones(classes, 1, 1, 1))
    bank.vectors = torch.empty(classes, bag.slots, bag.tokens, channels)
    for row in range(classes):
        bank.vectors[row] = bag.vectors(row)
    return bank


def compact_bank(bag: Bag) -> CompactBank:
    classes, channels = bag.class_units.shape
    bank = CompactBank(classes=classes, width=channels, slots=bag.slots, tokens=bag.tokens)
    for row in range(classes):
        bank.slots[row] = bag.vectors(row).mean(dim=1)
    bank.refresh()
    return bank


def literal_step(bank: ProductBank, bag: Bag) -> Tensor:
    """Attention maps (n, H', W') of all pairs, then the update."""
    rows, maps = range(len(bag.class_units)), []
    scores = bag.units @ bag.class_units.T
    for units, cosines, labels in zip(bag.units, scores, bag.sets, strict=True):
        for label in labels:
            other = plain.background(bank, units, cosines, rows, label, labels, plain.Rule())
            maps.append(plain.attention(bank.response(units, label) - other, bag.grid, bag.size))
    for units, cosines, labels in zip(bag.units, scores, bag.sets, strict=True):
        for label in labels:
            bank.enqueue(units, cosines[:, label], label)
    return torch.stack(maps)


def compact_step(bank: CompactBank, bag: Bag) -> Tensor:
    classes = len(bag.class_units)
    pairs, rule = Pairs.of(bag.sets, classes=classes), AttentionRule(order="two_phase", warm_up=0)
    directions = attention_directions(
        bank, units=bag.units, class_units=bag.class_units, rows=torch.arange(classes), pairs=pairs, rule=rule
    )
    scores = attention_scores(bag.units, directions.vectors, pairs)
    return attention_maps(scores, grid=bag.grid, size=bag.size)


def _bank_steps(literal: bool, bags: list[Bag]) -> tuple[float, list[Tensor]]:
    """Seconds of the fastest step, the maps of the last one, and the means of all classes after it (G, D)."""
    bank: Any = literal_bank(bags[0]) if literal else compact_bank(bags[0])
    best = float("inf")
    for bag in bags:
        begin = time.perf_counter()
        maps = literal_step(bank, bag) if literal else compact_step(bank, bag)
        best = min(best, time.perf_counter() - begin)
    means = torch.stack([row.mean(dim=(0, 1)) for row in bank.vectors]) if literal else bank.means
    return best, [maps, means]


def _bank(literal: bool, small: bool, threads: int) -> tuple[float, float, list[Tensor]]:
    """Seconds of a step, peak MiB with the bank, and the results."""
    use_threads(threads)
    _bank_steps(literal, [Bag(True)])  # libraries load and set up their workspaces at the first call
    bags = [Bag(small, seed=step) for step in range(STEPS)]
    _, peak, (seconds, found) = measured(lambda: _bank_steps(literal, bags), runs=1)
    return seconds, peak, found


def bank_rows(small: bool, threads: int) -> list[Row]:
    reference, reference_peak, expected = in_own_process(_bank, True, small, threads)
    seconds, peak, found = in_own_process(_bank, False, small, threads)
    apart = max((ours - theirs).abs().max().item() for ours, theirs in zip(found, expected, strict=True))
    return [
        {"item": f"bank, {len(found[1])} classes", "ratio": reference / seconds, "max_abs_difference": apart,
         "seconds": seconds, "reference_seconds": reference, "peak_mib": peak,
         "reference_peak_mib": reference_peak, "classes": len(found[1])},
    ]  # fmt: skip


Pooling = tuple[CosineHead, Tensor, list[list[int]]]


def pooling_data(classes: int, images: int, small: bool) -> Pooling:
    """A head, features (B, D, h, w), and two labels per image."""
    torch.manual_seed(0)
    channels, cells = (32, 5) if small else (CHANNELS, POOLED_CELLS)
    features = torch.randn(images, channels, cells, cells, requires_grad=True)
    labels = torch.stack([torch.randperm(classes)[:2] for _ in range(images)])
    return CosineHead(width=channels, classes=classes), features, labels.tolist()


def _with_gradients(loss: Tensor, head: CosineHead, features: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, [features, *head.parameters()])]


def _active(head: CosineHead) -> ActiveClasses:
    return ActiveClasses(rows=torch.arange(len(head.table)))


def plain_pooling(head: CosineHead, features: Tensor, sets: list[list[int]]) -> list[Tensor]:
    size = (8 * features.shape[2], 8 * features.shape[3])
    return _with_gradients(plain.image_loss(head(features, _active(head)), sets, size), head, features)


def short_pooling(
    head: CosineHead, features: Tensor, sets: list[list[int]], *, compact: bool | None = None
) -> list[Tensor]:
    grid = (features.shape[2], features.shape[3])
    units, class_units = head.units(features), head.class_units(_active(head))
    pooled = PooledLogits(head, units=units, class_units=class_units, compact=compact)
    weights = mean_pooling(grid, (8 * grid[0], 8 * grid[1]), images=len(units), like=units)
    loss = image_loss(pooled(weights), Pairs.of(sets, classes=len(class_units)))
    return _with_gradients(loss, head, features)


def pooling_differences(expected: list[Tensor], found: list[Tensor]) -> dict[str, float]:
    """Of the losses; of all gradients the length of the difference relative to that of the gradient."""
    ours, theirs = (torch.cat([grad.flatten() for grad in way[1:]]) for way in (found, expected))
    return {
        "max_abs_difference": (expected[0] - found[0]).abs().item(),
        "gradient_difference": ((ours - theirs).norm() / theirs.norm()).item(),
    }


def _short_alone(classes: int, images: int, small: bool, threads: int) -> tuple[float, float]:
    use_threads(threads)
    short_pooling(*pooling_data(FEW, 1, True))
    data = pooling_data(classes, images, small)
    seconds, peak, _ = measured(lambda: short_pooling(*data), runs=2)
    return seconds, peak


def pooling_rows(small: bool, threads: int) -> list[Row]:
    rows = []
    some, many = (FEW, 2 * FEW) if small else (TRAINED, CLASSES)
    for classes, images, compact in ((some, SHOWN, None), (many, 1, True)):
        short = partial(short_pooling, compact=compact)
        item = Item(partial(pooling_data, classes, images), plain_pooling, short)
        name = f"pooling, {classes:,} classes, images: {images}"
        runs, differences = (2, 3), pooling_differences
        rows.append(compared(name, item, small=small, threads=threads, runs=runs, differences=differences))
    seconds, peak = in_own_process(_short_alone, many, SHOWN, small, threads)
    needed = 4 * SHOWN * many * (8 * POOLED_CELLS) ** 2 / 2**20
    name = f"pooling, {many:,} classes, images: {SHOWN}"
    return [*rows, {"item": name, "seconds": seconds, "peak_mib": peak, "plain_mib": needed}]
