"""The category-wise attentive classifier: image-level loss of logits pooled by attention (larvseg.md 2.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.errors import ConfigError
from anyshot.larvseg.bank import (
    CompactBank,
    Mining,
    attention_direction,
    best_tokens,
    mined_background,
)
from anyshot.larvseg.losses import Form, Pairs, PooledLogits, adjoint_pooling, pair_costs, quotient
from anyshot.ops.precision import full, without_autocast

Order = Literal["released", "two_phase"]
Gather = Callable[[Tensor], Tensor]

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class AttentionRule:
    """How the attention of a pair (image, label) is found (larvseg.md 2.5).

    order: `released` goes from pair to pair, so that a label's background may already hold the same image's
    tokens of a lower label; `two_phase` looks at all pairs with the bank as it was and writes then (several
    images), or writes all labels of an image and looks then (single image).
    warm_up: turns of a class's ring before its pairs count; 0 for the single-image variant.
    background: subtract the response to other classes. gated_background: only of those past warm-up; as
    published they are not asked and may be random. mining: the background of images with one label.
    single_image: the seeds are the image's own best tokens; needs a bank with one slot.
    """

    order: Order
    warm_up: int = 1
    background: bool = True
    gated_background: bool = False
    mining: Mining = field(default_factory=Mining)
    single_image: bool = False


class Directions(NamedTuple):
    """Of each pair: d (n, D), so that its response is x_p.d; warm (n,) bool, its class is past warm-up."""

    vectors: Tensor
    warm: Tensor


@torch.no_grad()
def attention_directions(
    bank: CompactBank,
    *,
    units: Tensor,
    class_units: Tensor,
    rows: Tensor,
    pairs: Pairs,
    rule: AttentionRule,
    all_gather: Gather | None = None,
) -> Directions:
    """Ask the bank about every pair, and write every pair's best tokens to it (larvseg.md 2.5 steps 1-3, 6).

    units (B, P, D), class_units (N, D), rows (N,) of the class table, on the host. all_gather as in
    `CompactBank.enqueue`, for order `two_phase` with several images only. Raises ConfigError for a rule that
    contradicts the bank or the gathering, or where an image has too few tokens.
    """
    _require_agreement(bank, rule, all_gather)
    units, class_units = full(units.detach()), full(class_units.detach())
    seeds = best_tokens(units, class_units, pairs, tokens=bank.tokens)
    own_rows = rows.to(units.device)[pairs.label]
    vectors = units.new_empty(len(pairs), units.shape[2])
    warm = torch.zeros_like(pairs.label, dtype=torch.bool)
    listed = pairs.listed
    for group in _groups(pairs, rule):
        if rule.single_image:
            bank.enqueue(own_rows[group], seeds[group])
        warm[group] = bank.wraps[own_rows[group]] >= rule.warm_up
        for pair in group:
            image, label = listed[pair]
            others = [other for other in pairs.sets[image] if other != label]
            background = None
            if rule.background and others:
                background = rows[others]
            elif rule.background:
                background = mined_background(
                    bank, units[image], class_units, label=label, rows=rows, mining=rule.mining
                )
            gate = rule.warm_up if rule.gated_background else None
            vectors[pair] = attention_direction(bank, int(rows[label]), background, warm_up=gate)
        if not rule.single_image:
            bank.enqueue(own_rows[group], seeds[group], all_gather=all_gather)
    return Directions(vectors, warm)


def _require_agreement(bank: CompactBank, rule: AttentionRule, all_gather: Gather | None) -> None:
    if rule.single_image and bank.size != 1:
        raise ConfigError(
            f"attention within a single image has a bank with 1 slot, not {bank.size}: the others would hold "
            f"earlier images"
        )
    if all_gather is not None and (rule.single_image or rule.order == "released"):
        raise ConfigError(
            "banks of several devices are kept equal with order `two_phase` and several images only: choose "
            "them, or leave every device its own bank"
        )


def _groups(pairs: Pairs, rule: AttentionRule) -> list[list[int]]:
    """Pairs between which the bank changes."""
    every = list(range(len(pairs)))
    if rule.order == "released":
        return [[pair] for pair in every]
    if not rule.single_image:
        return [every]
    images = [image for image, _ in pairs.listed]
    return [[pair for pair in every if images[pair] == image] for image in sorted(set(images))]


@torch.no_grad()
def attention_scores(units: Tensor, vectors: Tensor, pairs: Pairs) -> Tensor:
    """LN over the tokens of the responses x_p.d: (n, P), mean 0, variance 1 (larvseg.md 2.5 step 4)."""
    with without_autocast(units):
        parts = [
            part @ full(image).T for part, image in zip(vectors.split(pairs.numbers), units, strict=True)
        ]
        responses = torch.cat(parts)
        return F.layer_norm(responses, responses.shape[1:], eps=LAYER_NORM_EPS)


@torch.no_grad()
def attention_maps(scores: Tensor, *, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """a (n, H', W') in (0, 1) at loss resolution `size`, of scores (n, P) on the grid (h, w) of tokens."""
    if not len(scores):
        return scores.new_empty(0, *size)
    maps = scores.unflatten(1, grid)[:, None]
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[:, 0].sigmoid()


@torch.no_grad()
def attention_pooling(maps: Tensor, *, grid: tuple[int, int], valid: Tensor | None = None) -> Tensor:
    """Weights (n, P) of mean_q a_q z_q over all pixels, not divided by the sum of a (larvseg.md 2.5 step 5).

    maps: a (n, H', W'). valid: (n, H', W') bool of each pair's image, the mean over these pixels instead.
    """
    if valid is None:
        return adjoint_pooling(maps, grid) / (maps.shape[1] * maps.shape[2])
    number = valid.flatten(1).sum(dim=1).clamp(min=1)
    return adjoint_pooling(maps * valid, grid) / number[:, None]


class AttentiveLoss(NamedTuple):
    """loss: L_ca / lambda. warm: share of the pairs past warm-up, which alone add to it."""

    loss: Tensor
    warm: Tensor


def attentive_loss(
    pooled: PooledLogits,
    bank: CompactBank,
    pairs: Pairs,
    *,
    rows: Tensor,
    rule: AttentionRule,
    grid: tuple[int, int],
    size: tuple[int, int],
    form: Form = "ce",
    valid: Tensor | None = None,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
    all_gather: Gather | None = None,
) -> AttentiveLoss:
    """CA loss of a batch of images with label sets, mean over all pairs; writes the bank (larvseg.md 2.5).

    pooled: of the batch, whose classes are the rows `rows` (N,) of the class table. grid (h, w): of the
    tokens; size (H', W'): loss resolution, px. valid: (B, H', W') bool, pool over these pixels only.
    Gradients flow through the logits alone. A pair that is not warm costs 0 and still counts in the mean.
    """
    directions = attention_directions(
        bank,
        units=pooled.units,
        class_units=pooled.class_units,
        rows=rows,
        pairs=pairs,
        rule=rule,
        all_gather=all_gather,
    )
    costs = attention_costs(pooled, pairs, directions, grid=grid, size=size, form=form, valid=valid)
    number = costs.new_tensor(len(pairs))
    warm = quotient(directions.warm.sum().to(costs), number, all_reduce_sum)
    return AttentiveLoss(quotient(costs.sum(), number, all_reduce_sum), warm)


def attention_costs(
    pooled: PooledLogits,
    pairs: Pairs,
    directions: Directions,
    *,
    grid: tuple[int, int],
    size: tuple[int, int],
    form: Form = "ce",
    valid: Tensor | None = None,
) -> Tensor:
    """What each pair costs (n,) by logits pooled with its attention, 0 before the warm-up (larvseg.md 2.5
    steps 4, 5). Arguments as those of `attentive_loss`; gradients flow through the logits alone."""
    scores = attention_scores(pooled.units.detach(), directions.vectors, pairs)
    maps = attention_maps(scores, grid=grid, size=size)
    known = None if valid is None else valid[pairs.image]
    logits = pooled(attention_pooling(maps, grid=grid, valid=known), pairs.numbers)
    return torch.where(directions.warm, pair_costs(logits, pairs, form=form, counts=pooled.counts), 0)
