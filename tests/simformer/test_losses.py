"""Matching and set losses: what must always hold (simformer.md 7.3), and fast against plain versions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from anyshot.errors import ConfigError, DataError
from anyshot.nets.maskformer import Proposals
from anyshot.simformer.criterion import Normalisers, mask_costs, set_losses, union_costs
from anyshot.simformer.matching import match, matching_costs
from anyshot.simformer.options import Matching, SetLosses
from anyshot.simformer.targets import Targets
from tests.reference import simformer_losses as plain
from tests.simformer.loss_batches import CELLS, LAYERS, QUERIES, image_part, random_batch, slopes


def labels_of(targets: Targets) -> list[plain.Labels]:
    return [plain.labels_of(own, bare) for own, bare in zip(targets.labels, targets.novel, strict=True)]


def losses_of(
    proposals: Proposals, targets: Targets, options: SetLosses | None = None, whole: Targets | None = None
) -> dict[str, Tensor]:
    matches = match(proposals, targets, Matching())
    return set_losses(proposals, targets, matches, Normalisers.of(whole or targets), options or SetLosses())


# --- matching ---


def test_matcher_equals_the_plain_one() -> None:
    """100 random images."""
    for seed in range(25):
        proposals, targets = random_batch(seed, dtype=torch.float32)
        found = match(proposals, targets, Matching())
        costs = matching_costs(proposals, targets, Matching())
        first = 0
        for image, labels in enumerate(labels_of(targets)):
            for layer in range(LAYERS):
                logits = proposals.class_logits[layer, image], proposals.mask_logits[layer, image]
                expected = plain.costs(logits[0].double(), logits[1].double(), labels).detach()
                torch.testing.assert_close(costs[image][layer].double(), expected, atol=1e-5, rtol=1e-5)
                own = (found.layer == layer) & (found.image == image)
                pairs = zip(found.query[own].tolist(), (found.label[own] - first).tolist(), strict=True)
                assert list(pairs) == plain.assign(expected)
            first += len(labels)
        assert len(found.label) == LAYERS * len(targets.table)


def test_mask_that_vanishes_in_the_grid_is_matched_by_its_cells() -> None:
    """6.2 item 6."""
    proposals, targets = random_batch()
    labels = torch.full_like(targets.labels, 255)
    labels[:, 5:7, 5:7] = 2  # in cell (1, 1), not at its corner
    small = dataclasses.replace(targets, labels=labels)
    found = matching_costs(proposals, small, Matching())[0][0].double()
    cell = torch.zeros(CELLS, CELLS, dtype=torch.float64)
    cell[1, 1] = 1
    of_mask = 20 * plain.focal(proposals.mask_logits[0, 0, 0], cell)
    of_mask = of_mask + plain.dice(proposals.mask_logits[0, 0, 0], cell)
    of_class = proposals.class_logits[0, 0, 0].softmax(dim=0)[2]
    torch.testing.assert_close(found[0, 0], (of_mask - of_class).detach())


def test_logits_that_underflow() -> None:
    """6.2 item 7: labels without masks cost only their class, whatever the mask."""
    proposals, targets = random_batch(dtype=torch.float32)
    low = proposals._replace(mask_logits=torch.full_like(proposals.mask_logits, -100.0))
    costs = matching_costs(low, targets, Matching())
    assert all(cost.isfinite().all() for cost in costs)
    chance = proposals.class_logits.softmax(dim=-1)[:, 1, :, 4]
    torch.testing.assert_close(costs[1][..., -1], -chance)
    assert all(math.isfinite(part.item()) for part in losses_of(low, targets).values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_matcher_takes_any_number(value: float) -> None:
    proposals, targets = random_batch()
    with torch.no_grad():
        proposals.mask_logits[:, :, 3, 2, 2] = value
        proposals.class_logits[:, 1] = value
    found = match(proposals, targets, Matching())
    assert len(found.label) == LAYERS * len(targets.table)


def test_losses_of_no_number_are_none() -> None:
    """One query is not a number: it is matched, so the loss shows it and the training stops."""
    for spoilt in ("mask_logits", "class_logits"):
        proposals, targets = random_batch()
        with torch.no_grad():
            getattr(proposals, spoilt)[1, 2, 5] = math.nan
        found = losses_of(proposals, targets)
        assert math.isnan(sum(part.item() for part in found.values()))


def test_too_many_labels() -> None:
    proposals, targets = random_batch()
    few = proposals._replace(class_logits=proposals.class_logits[:, :, :5])
    with pytest.raises(ConfigError, match=r"6 classes.*5 queries.*network.queries"):
        match(few, targets, Matching())


def test_class_that_is_novel_and_has_a_mask() -> None:
    """Duplicate labels, and so novel pixels in a label map, are rejected."""
    proposals, targets = random_batch()
    leaking = dataclasses.replace(targets, labels=targets.labels.clone())
    leaking.labels[1, :3, :3] = 4
    with pytest.raises(DataError, match="image 1 of the batch labels class 4"):
        match(proposals, leaking, Matching())


# --- set losses ---

SET_OPTIONS = [
    SetLosses(),
    SetLosses(complementary_floor=None),
    SetLosses(ignore_padding=True),
    SetLosses(no_object_weight=0.1, focal_weight=20, complementary_weight=0.2, complementary_floor=-0.5),
]


@pytest.mark.parametrize("options", SET_OPTIONS)
def test_set_losses_equal_the_plain_ones(options: SetLosses) -> None:
    """Values and gradients."""
    proposals, targets = random_batch(images=2)
    found = losses_of(proposals, targets, options)
    expected = plain.set_losses(
        proposals.class_logits,
        proposals.mask_logits,
        labels_of(targets),
        targets.pad,
        weight=options.complementary_weight,
        floor=options.complementary_floor,
        ignore_padding=options.ignore_padding,
    )
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-10, rtol=1e-10)
        logits = proposals.class_logits if name == "classification" else proposals.mask_logits
        (ours,), (theirs,) = slopes(value, [logits]), slopes(expected[name], [logits])
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8)


def test_set_losses_in_single_precision() -> None:
    proposals, targets = random_batch(dtype=torch.float32)
    exact = Proposals(*(part.detach().double() for part in proposals))
    for name, value in losses_of(exact, targets).items():
        found = losses_of(proposals, targets)[name]
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(value.item(), rel=1e-4)


def map_costs(pairs: int, seen: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """logits, masks, rows, seen, images."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(pairs, 3, 2, generator=generator, dtype=torch.float64)
    masks = torch.rand(2, 12, 8, generator=generator) < 0.4
    rows = torch.arange(pairs) % 2
    visible = torch.rand(2, 12, 8, generator=generator) < 0.7 if seen else None
    return logits.requires_grad_(), masks, rows, visible, rows.flip(0)


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_mask_costs_by_finite_differences(chunk: int, seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyshot.simformer.criterion.CPU_LOGITS", chunk)
    logits, masks, rows, visible, images = map_costs(3, seen)
    found = mask_costs(logits, masks, rows, seen=visible, images=images)
    large = plain.enlarge(logits, 12, 8)
    for number, (focal, dice) in enumerate(zip(*found, strict=True)):
        kept = torch.ones_like(masks[0]) if visible is None else visible[images[number]]
        x, t = large[number][kept], masks[rows[number]][kept].double()
        assert focal.item() == pytest.approx(plain.focal(x, t).item(), rel=1e-10)
        assert dice.item() == pytest.approx(plain.dice(x, t).item(), rel=1e-10)
    assert torch.autograd.gradcheck(
        lambda values: mask_costs(values, masks, rows, seen=visible, images=images), (logits,)
    )


@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("floor", [None, -0.3])
def test_union_costs_by_finite_differences(floor: float | None, seen: bool) -> None:
    logits, masks, _, visible, _ = map_costs(5, seen)
    groups = torch.tensor([2, 1, 2, 0, 2])  # layer 1 of image 0, layer 0 of both images
    assert torch.autograd.gradcheck(
        lambda values: union_costs(values, masks, groups, floor=floor, seen=visible), (logits,)
    )


def test_costs_of_extreme_logits() -> None:
    """Wholly right and wholly wrong maps, where sigmas are 0 and 1 exactly."""
    masks = torch.ones(1, 8, 8, dtype=torch.bool)
    logits = torch.tensor([200.0, -200.0])[:, None, None].expand(2, 2, 2).clone().requires_grad_()
    focal, dice = mask_costs(logits, masks, torch.tensor([0, 0]))
    assert focal.tolist() == pytest.approx([0, 0.25 * 200])
    assert dice.tolist() == pytest.approx([0, 1 - 1 / 65])
    (slope,) = slopes(focal.sum() + dice.sum(), [logits])
    assert slope is not None
    # a step of one logit is a step of a quarter of the map, 1 / 4 of its mean cost
    assert slope.flatten().tolist() == pytest.approx([0] * 4 + [-0.25 / 4] * 4)


def test_where_the_gradients_of_set_losses_go() -> None:
    proposals, targets = random_batch()
    matches = match(proposals, targets, Matching())
    bare = targets.table[matches.label, 2] == 0
    options = SetLosses(complementary_weight=0)
    found = set_losses(proposals, targets, matches, Normalisers.of(targets), options)
    (of_classes,) = slopes(found["classification"], [proposals.class_logits])
    assert of_classes is not None
    assert (of_classes != 0).flatten(3).any(dim=-1).all()
    (of_masks,) = slopes(found["focal"] + found["dice"], [proposals.mask_logits])
    assert of_masks is not None
    matched = torch.zeros(LAYERS, len(targets.labels), QUERIES, dtype=torch.bool)
    matched[matches.layer[~bare], matches.image[~bare], matches.query[~bare]] = True
    assert torch.equal((of_masks != 0).flatten(3).any(dim=-1), matched)
    assert not matched[matches.layer[bare], matches.image[bare], matches.query[bare]].any()
    full = set_losses(proposals, targets, matches, Normalisers.of(targets), SetLosses())
    (of_union,) = slopes(full["complementary"], [proposals.mask_logits])
    assert of_union is not None
    assert not of_union[matched].any()
    for name, part in found.items():
        assert torch.equal(part, full[name] if name != "complementary" else torch.zeros_like(part))


def test_without_novel_labels() -> None:
    """The complementary loss is exactly 0, the rest is MaskFormer's."""
    proposals, targets = random_batch(images=2)
    base = dataclasses.replace(targets, novel=torch.zeros_like(targets.novel))
    found = losses_of(proposals, base)
    expected = plain.set_losses(
        proposals.class_logits, proposals.mask_logits, labels_of(base), base.pad, weight=0
    )
    assert found["complementary"].item() == 0
    for name in ("classification", "focal", "dice"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-10, rtol=1e-10)


def test_without_any_mask() -> None:
    """And without any label: only the classification is left, and gradients are 0, not missing."""
    proposals, targets = random_batch()
    void = dataclasses.replace(targets, labels=torch.full_like(targets.labels, 255))
    found = losses_of(proposals, void)
    assert found["focal"].item() == found["dice"].item() == 0
    assert found["complementary"].item() > 0
    nothing = dataclasses.replace(void, novel=torch.zeros_like(targets.novel))
    found = losses_of(proposals, nothing)
    total = torch.stack(list(found.values())).sum()
    uniform = proposals.class_logits.log_softmax(dim=-1)[..., -1].mean() * -LAYERS
    torch.testing.assert_close(total, uniform)
    (slope,) = slopes(total, [proposals.mask_logits])
    assert slope is not None
    assert not slope.any()


def test_order_of_the_labels() -> None:
    """Classes in another order of indices, so labels in another order: all losses are the same."""
    proposals, targets = random_batch()
    order = torch.tensor([2, 0, 3, 1, 5, 4])  # new index of each class
    mapping = torch.cat([order, torch.full((250,), 255)])
    logits = proposals.class_logits.clone()
    logits[..., order] = proposals.class_logits[..., :-1]
    novel = torch.zeros_like(targets.novel)
    novel[:, order] = targets.novel
    renamed = Targets(labels=mapping[targets.labels.long()].to(torch.uint8), novel=novel, pad=targets.pad)
    expected, found = (
        losses_of(proposals, targets),
        losses_of(proposals._replace(class_logits=logits), renamed),
    )
    assert not torch.equal(renamed.table, targets.table)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch(parts: int) -> None:
    """The mean over the parts is the loss of the batch, and so are the gradients, also of uneven parts."""
    proposals, targets = random_batch(images=8)
    targets.novel[:2] = False
    targets.labels[2:6][targets.labels[2:6] == 1] = 255
    whole = losses_of(proposals, targets)
    counts = Normalisers.of(targets)
    share = Normalisers(**{name: value / parts for name, value in vars(counts).items()})
    size = 8 // parts
    sums: dict[str, Tensor] = {}
    for first in range(0, 8, size):
        cut, own = image_part(proposals, targets, slice(first, first + size))
        found = set_losses(cut, own, match(cut, own, Matching()), share, SetLosses())
        sums = {name: sums.get(name, 0) + value / parts for name, value in found.items()}
    # the complementary loss divides by 1e-5 + the images it counts, so by 1e-5 more for each part
    expected = 1e-5 * parts
    for name, value in whole.items():
        torch.testing.assert_close(sums[name], value, atol=1e-6, rtol=expected)
        for ours, theirs in zip(
            slopes(sums[name], [*proposals[:2]]), slopes(value, [*proposals[:2]]), strict=True
        ):
            assert (ours is None) == (theirs is None)
            if ours is not None and theirs is not None:
                torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=expected)
