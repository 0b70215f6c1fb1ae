"""The loss of a step: every source's images, bundle by bundle (larvseg.md 1.8, 2.3 to 2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anyshot.larvseg.attention_loss import (
    AttentionRule,
    Directions,
    attention_costs,
    attention_directions,
)
from anyshot.larvseg.bank import Mining
from anyshot.larvseg.head import ActiveClasses, CosineHead, reindexed
from anyshot.larvseg.losses import Pairs, PooledLogits, image_loss, mean_pooling, pixel_loss
from anyshot.larvseg.networks import LarvSegNet
from anyshot.larvseg.options import Attention, Baseline, Source
from anyshot.larvseg.tables import IGNORE
from anyshot.ops.collectives import all_gather

Batch = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class SourcePlan:
    """How a source is learnt from. weight: of its loss; attention_weight: 0 = none; share: of the sum."""

    name: str
    with_masks: bool
    weight: float
    attention_weight: float
    share: float
    active: ActiveClasses

    @classmethod
    def of(
        cls, source: Source, *, sources: int, with_masks: bool, attentive: bool, active: ActiveClasses
    ) -> SourcePlan:
        """Of a source's options. An oracle's masks weigh as those of a pixel-labelled source do."""
        weight = 1.0 if with_masks and source.role == "image" else source.weight
        return cls(
            name=source.name,
            with_masks=with_masks,
            weight=weight,
            attention_weight=source.attention_weight if attentive and not with_masks else 0.0,
            share=1 / sources if source.share is None else source.share,
            active=active,
        )


def rule_of(options: Attention) -> AttentionRule:
    """The attention that the options describe."""
    return AttentionRule(
        order=options.order,
        warm_up=options.warm_up,
        background=options.background,
        gated_background=options.gated_background,
        mining=Mining(
            tokens=options.background_tokens,
            threshold=options.background_threshold,
            difference=options.background_difference,
        ),
        single_image=options.single_image,
    )


@dataclass(kw_only=True)
class _Bundle:
    """A source's images of one bundle: features (n, D, h, w), and what is known of them."""

    features: Tensor
    valid: Tensor
    labels: Tensor | None
    sets: list[list[int]]
    seed: int


def mixed_loss(
    model: LarvSegNet,
    wrapped: nn.Module,
    batch: Batch,
    *,
    plans: Sequence[SourcePlan],
    options: Baseline,
    rule: AttentionRule | None,
) -> dict[str, Tensor]:
    """The sum over sources of share x (weight x loss + attention_weight x attentive loss), and its parts.

    batch: of `MixedDataset`, bundles along axis 0. wrapped: what is called for the tokens. A source's losses
    are means over a bundle's pixels or pairs, averaged over the bundles; its bank is asked about all bundles
    of all devices before it is written.
    """
    images = [batch[f"{plan.name}.images"] for plan in plans]
    features = wrapped([one.flatten(0, 1) for one in images])
    total = features[0].new_zeros((), dtype=torch.float32)
    parts: dict[str, Tensor] = {}
    for plan, tokens in zip(plans, features, strict=True):
        bundles = _bundles(plan, tokens, batch)
        found = (
            {"pixels": _pixel_losses(model.head, plan, bundles, options)}
            if plan.with_masks
            else _image_losses(model, plan, bundles, options, rule)
        )
        for kind, value in found.items():
            weight = {"attention": plan.attention_weight, "warm": 0.0}.get(kind, plan.weight)
            total = total + plan.share * weight * value
            parts[f"{plan.name}_{kind}"] = value.detach()
    return {"loss": total, **parts}


def _bundles(plan: SourcePlan, features: Tensor, batch: Batch) -> list[_Bundle]:
    """The bundles of one source, each with its images."""
    valid, seeds = batch[f"{plan.name}.valid"], batch["seed"].tolist()
    each = valid.shape[1]
    masks = batch.get(f"{plan.name}.labels")
    if masks is None:
        present = batch[f"{plan.name}.present"].cpu()
        sets = [[row.nonzero()[:, 0].tolist() for row in bundle] for bundle in present]
    else:
        sets = [[[value for value in one.unique().tolist() if value != IGNORE]] for one in masks]
    return [
        _Bundle(
            features=features[number * each : (number + 1) * each],
            valid=valid[number],
            labels=None if masks is None else masks[number],
            sets=sets[number],
            seed=seeds[number],
        )
        for number in range(len(valid))
    ]


def _classes(plan: SourcePlan, bundle: _Bundle, count: int | None) -> tuple[ActiveClasses, Tensor | None]:
    """The classes that a bundle tells apart, and their positions in the source's list; None: all."""
    if count is None:
        return plan.active, None
    present = [position for one in bundle.sets for position in one]
    generator = torch.Generator().manual_seed(bundle.seed)
    return plan.active.sampled(present, count=count, generator=generator)


def _pixel_losses(
    head: CosineHead, plan: SourcePlan, bundles: Sequence[_Bundle], options: Baseline
) -> Tensor:
    """Mean over the bundles of the loss of masks (larvseg.md 2.3)."""
    losses = []
    for bundle in bundles:
        active, kept = _classes(plan, bundle, options.sampled_classes)
        assert bundle.labels is not None
        labels = bundle.labels
        if kept is not None:
            labels = reindexed(labels, kept, classes=len(plan.active), ignore=IGNORE)
        logits = head(bundle.features, active)
        losses.append(
            pixel_loss(logits, labels, counts=active.counts, divisor=options.divisor, ignore=IGNORE)
        )
    return torch.stack(losses).mean()


def _image_losses(
    model: LarvSegNet,
    plan: SourcePlan,
    bundles: Sequence[_Bundle],
    options: Baseline,
    rule: AttentionRule | None,
) -> dict[str, Tensor]:
    """Means over the bundles: `labels` (larvseg.md 2.4), `attention` (2.5), share of pairs past warm-up."""
    directions = None
    if rule is not None and plan.attention_weight:
        directions = _directions(model, plan, bundles, rule)
    plain, attended, warm = [], [], []
    for number, bundle in enumerate(bundles):
        active, kept = _classes(plan, bundle, options.sampled_classes)
        sets = bundle.sets if kept is None else _reindexed_sets(bundle.sets, kept)
        pairs = Pairs.of(sets, classes=len(active), device=bundle.features.device)
        pooled = PooledLogits(
            model.head,
            units=model.head.units(bundle.features),
            class_units=model.head.class_units(active),
            counts=None if active.counts is None else active.counts.to(bundle.features.device),
        )
        grid = (bundle.features.shape[2], bundle.features.shape[3])
        size = (bundle.valid.shape[1], bundle.valid.shape[2])
        valid = bundle.valid if options.pooling == "valid" else None
        weights = mean_pooling(grid, size, images=len(bundle.features), like=pooled.units, valid=valid)
        plain.append(image_loss(pooled(weights), pairs, form=options.form, counts=pooled.counts))
        if directions is not None:
            own = directions[number]
            costs = attention_costs(pooled, pairs, own, grid=grid, size=size, form=options.form, valid=valid)
            attended.append(costs.sum() / max(1, len(pairs)))
            warm.append(own.warm.float().sum() / max(1, len(pairs)))
    found = {"labels": torch.stack(plain).mean()}
    if directions is not None:
        found |= {"attention": torch.stack(attended).mean(), "warm": torch.stack(warm).mean()}
    return found


def _reindexed_sets(sets: Sequence[Sequence[int]], kept: Tensor) -> list[list[int]]:
    """Labels of images as positions among the kept classes (kept,)."""
    places = {position: place for place, position in enumerate(kept.tolist())}
    return [[places[position] for position in one] for one in sets]


@torch.no_grad()
def _directions(
    model: LarvSegNet, plan: SourcePlan, bundles: Sequence[_Bundle], rule: AttentionRule
) -> list[Directions]:
    """What the bank says about the pairs of all bundles, by bundle; the bank is written after that.

    All classes of the source may be background, also where a bundle tells only some of them apart.
    """
    assert model.bank is not None
    features = torch.cat([bundle.features for bundle in bundles])
    sets = [one for bundle in bundles for one in bundle.sets]
    shared = rule.order == "two_phase" and not rule.single_image
    found = attention_directions(
        model.bank,
        units=model.head.units(features),
        class_units=model.head.class_units(plan.active),
        rows=plan.active.rows,
        pairs=Pairs.of(sets, classes=len(plan.active), device=features.device),
        rule=rule,
        all_gather=all_gather if shared else None,
    )
    numbers = [sum(len(one) for one in bundle.sets) for bundle in bundles]
    return [
        Directions(vectors, warm)
        for vectors, warm in zip(found.vectors.split(numbers), found.warm.split(numbers), strict=True)
    ]
