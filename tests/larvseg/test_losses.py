"""Pooling and losses of LarvSeg against their plain versions (larvseg.md 2.3, 2.4, 5.2, 7.2 G9)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.errors import DataError
from anyshot.larvseg import losses as losses_module
from anyshot.larvseg.attention_loss import AttentionRule, attentive_loss
from anyshot.larvseg.head import ActiveClasses, reindexed
from anyshot.larvseg.losses import (
    Form,
    Pairs,
    adjoint_pooling,
    at_loss_resolution,
    image_loss,
    label_sets,
    mean_pooling,
    pair_costs,
    pixel_loss,
)
from anyshot.ops import upsampled
from tests.larvseg.small_heads import (
    BOTH,
    CLASSES,
    GRID,
    ROWS,
    SIZE,
    filled_bank,
    fresh,
    gradients,
    images,
    plainly,
    pooled_logits,
    same,
    same_gradients,
)
from tests.reference import larvseg_head as plain


@BOTH
@pytest.mark.parametrize("size", [(8, 10), (16, 20), (7, 13), (4, 5)])
def test_pooled_logits_are_those_of_the_upsampled_map(compact: bool, size: tuple[int, int]) -> None:
    """Any weights of the pixels, any factor, values and gradients; without the logits of the tokens, too."""
    head, active, features = fresh(), ActiveClasses(rows=torch.tensor(ROWS)), images(2)
    pooled = pooled_logits(head, features, active, compact=compact)
    maps = torch.rand(3, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = pooled(adjoint_pooling(maps, GRID), [1, 2])
    explicit = torch.stack(
        [
            (plain.enlarge(plainly(head).logits(features[b], ROWS), size) * one).sum(dim=(1, 2))
            for b, one in zip([0, 1, 1], maps, strict=True)
        ]
    )
    same(found, explicit, 1e-10)
    slope = torch.randn(3, len(ROWS), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    same_gradients(head, (found * slope).sum(), (explicit * slope).sum(), 1e-9)


@BOTH
@pytest.mark.parametrize("size", [(8, 10), (7, 13)])
def test_mean_pooling(compact: bool, size: tuple[int, int]) -> None:
    """Over all pixels, also where the factor is no integer, and over the valid ones."""
    head, active, features = fresh(), ActiveClasses(rows=torch.tensor(ROWS)), images(2)
    pooled = pooled_logits(head, features, active, compact=compact)
    maps = [plain.enlarge(plainly(head).logits(image, ROWS), size) for image in features]
    found = pooled(mean_pooling(GRID, size, images=2, like=features))
    same(found, torch.stack([one.mean(dim=(1, 2)) for one in maps]))
    valid = torch.rand(2, *size, generator=torch.Generator().manual_seed(2)) < 0.6
    found = pooled(mean_pooling(GRID, size, images=2, like=features, valid=valid))
    same(found, torch.stack([one[:, known].mean(dim=1) for one, known in zip(maps, valid, strict=True)]))
    nothing = mean_pooling(GRID, size, images=2, like=features, valid=torch.zeros_like(valid))
    assert not nothing.any()


def test_the_way_of_pooling_is_chosen_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few classes or tokens: plain; many of both, or a tensor beyond the limit: compact."""
    head, features = fresh(classes=40), images(1)
    few, many = (ActiveClasses(rows=torch.arange(number)) for number in (5, 40))
    assert not pooled_logits(head, features, few).compact
    assert pooled_logits(head, features, many).compact
    monkeypatch.setattr(losses_module, "PLAIN_LOGITS", 99)
    assert pooled_logits(head, features, few).compact


@pytest.mark.parametrize("divisor", ["all", "valid"])
def test_the_pixel_loss_is_the_plain_one(divisor: losses_module.Divisor) -> None:
    head, active, features = fresh(), ActiveClasses(rows=torch.tensor(ROWS)), images(2)
    labels = torch.randint(0, len(ROWS), (2, *SIZE), generator=torch.Generator().manual_seed(4))
    labels[0, :3] = -1
    loss = pixel_loss(head(features, active), labels, divisor=divisor, ignore=-1)
    logits = torch.stack([plainly(head).logits(image, ROWS) for image in features])
    expected = plain.pixel_loss(logits, labels, ignore=-1, valid_only=divisor == "valid")
    same_gradients(head, loss, expected, 1e-10)
    assert abs(float(gradients(head, loss)["shift"])) < 1e-15
    unused = [row for row in range(CLASSES) if row not in ROWS]
    assert not gradients(head, loss)["table"][unused].any()


def test_the_pixel_loss_does_not_depend_on_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """G9 e."""
    logits = fresh()(images(2), ActiveClasses(rows=torch.tensor(ROWS))).detach()
    labels = torch.randint(0, len(ROWS), (2, *SIZE), generator=torch.Generator().manual_seed(4))
    whole = pixel_loss(logits, labels)
    monkeypatch.setattr(upsampled, "CPU_TILE", 1)
    same(pixel_loss(logits, labels), whole, 1e-14)


def test_losses_are_summed_over_devices() -> None:
    """Total and number alike: as if both images were on one device."""
    logits = fresh()(images(2), ActiveClasses(rows=torch.tensor(ROWS))).detach()
    labels = torch.randint(0, len(ROWS), (2, *SIZE), generator=torch.Generator().manual_seed(4))
    labels[0, :5] = 255
    sums: list[Tensor] = []

    def note(values: Tensor) -> Tensor:
        sums.append(values)
        return sum(sums, torch.zeros_like(values))

    pixel_loss(logits[:1], labels[:1], divisor="valid", all_reduce_sum=note)
    both = pixel_loss(logits[1:], labels[1:], divisor="valid", all_reduce_sum=note)
    same(both, pixel_loss(logits, labels, divisor="valid"))


@BOTH
def test_image_losses_are_the_plain_ones(compact: bool) -> None:
    """Cross entropy, and binary cross entropy over the valid pixels; several labels, one, none."""
    head, active, features = fresh(), ActiveClasses(rows=torch.tensor(ROWS)), images(3)
    sets = [[4, 1, 2], [], [3]]
    pairs = Pairs.of(sets, classes=len(ROWS))
    assert pairs.listed == [(0, 1), (0, 2), (0, 4), (2, 3)]
    pooled = pooled_logits(head, features, active, compact=compact)
    logits = torch.stack([plainly(head).logits(image, ROWS) for image in features])
    loss = image_loss(pooled(mean_pooling(GRID, SIZE, images=3, like=features)), pairs)
    same_gradients(head, loss, plain.image_loss(logits, sets, SIZE), 1e-9)
    assert abs(float(gradients(head, loss)["shift"])) < 1e-15
    valid = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(2)) < 0.6
    weights = mean_pooling(GRID, SIZE, images=3, like=features, valid=valid)
    binary = image_loss(pooled(weights), pairs, form="bce")
    same_gradients(head, binary, plain.image_loss_bce(logits, sets, valid), 1e-9)
    assert abs(float(gradients(head, binary)["shift"])) > 1e-3


@pytest.mark.parametrize("form", ["ce", "bce"])
@BOTH
def test_a_batch_without_labels_costs_nothing(compact: bool, form: Form) -> None:
    """0, not NaN; every parameter has a gradient, and it is 0."""
    head, active, features = fresh(), ActiveClasses(rows=torch.tensor(ROWS)), images(2)
    pairs = Pairs.of([[], []], classes=len(ROWS))
    pooled = pooled_logits(head, features, active, compact=compact)
    store = filled_bank()
    before = store.slots.clone()
    baseline = image_loss(pooled(mean_pooling(GRID, SIZE, images=2, like=features)), pairs, form=form)
    rule = AttentionRule(order="two_phase")
    found = attentive_loss(pooled, store, pairs, rows=active.rows, rule=rule, grid=GRID, size=SIZE, form=form)
    assert baseline.tolist() == found.loss.tolist() == found.warm.tolist() == 0
    (baseline + found.loss).backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in head.parameters())
    assert torch.equal(store.slots, before)


def test_the_binary_cost_of_a_pair() -> None:
    """By hand: y = 1 positive, 0 and 3 negative, the co-label 2 left out; with multiplicities 1, 2, 1, 3."""
    z = torch.tensor([[0.0, 0.5, 2.0, -1.0]], dtype=torch.float64).expand(2, -1)
    pairs = Pairs.of([[1, 2]], classes=4)
    costs = [F.softplus(z[0, 0]), F.softplus(-z[0, 1]), F.softplus(z[0, 3])]
    same(pair_costs(z, pairs, form="bce")[0], torch.stack(costs).mean())
    weighted = (costs[0] + 2 * costs[1] + 3 * costs[2]) / 6
    same(pair_costs(z, pairs, form="bce", counts=torch.tensor([1, 2, 1, 3]))[0], weighted)


@BOTH
def test_multiplicities_are_copied_columns(compact: bool) -> None:
    """G9 a: names that share a row, in the logits and in every loss, with gradients."""
    head, features = fresh(), images(2)
    counts = torch.tensor([1, 5, 2, 1, 1, 3])
    merged = ActiveClasses(rows=torch.tensor(ROWS), counts=counts)
    copied = ActiveClasses(rows=torch.tensor(ROWS).repeat_interleave(counts))
    first = counts.cumsum(0) - counts
    narrow, wide = head(features, merged), head(features, copied)
    same(narrow, wide[:, first])
    labels = torch.randint(0, len(ROWS), (2, *SIZE), generator=torch.Generator().manual_seed(4))
    labels[1, 5:] = 255
    far = torch.where(labels == 255, 255, first[labels.clamp(max=5)])
    loss = pixel_loss(narrow, labels, counts=counts)
    same_gradients(head, loss, pixel_loss(wide, far), 1e-11)
    weights = mean_pooling(GRID, SIZE, images=2, like=features)
    ours = pooled_logits(head, features, merged, compact=compact)(weights)
    theirs = pooled_logits(head, features, copied, compact=compact)(weights)
    pairs, once = (
        Pairs.of([[3], [0, 4]], classes=len(ROWS)),
        Pairs.of([[8], [0, 9]], classes=len(copied)),
    )
    same_gradients(head, image_loss(ours, pairs, counts=counts), image_loss(theirs, once), 1e-11)
    binary = image_loss(ours, pairs, form="bce", counts=counts)
    same_gradients(head, binary, image_loss(theirs, once, form="bce"), 1e-11)


def test_label_sets_and_loss_resolution() -> None:
    labels = torch.tensor([[[3, 9, 1, 9], [9, 9, 9, 9]], [[-1, 9, -1, 9], [9, 9, 9, 9]]])
    small = at_loss_resolution(labels, 2)
    assert small.tolist() == [[[3, 1]], [[-1, -1]]]
    assert label_sets(small, ignore=-1) == [[1, 3], []]


def test_bad_labels() -> None:
    with pytest.raises(DataError, match="image 1 of the batch has labels 0 to 6, but 6 classes"):
        Pairs.of([[1], [0, 6]], classes=6)
    with pytest.raises(DataError, match="the label to ignore, 255, is one of the 300 classes"):
        pixel_loss(torch.zeros(1, 300, 2, 2), torch.zeros(1, 4, 4, dtype=torch.int64))
    with pytest.raises(DataError, match="the label to ignore, 255"):
        reindexed(torch.zeros(1), torch.tensor([0]), classes=847)
    with pytest.raises(DataError, match="cannot be reduced 2 times"):
        at_loss_resolution(torch.zeros(1, 5, 4), 2)
