"""The golden cases G1 to G5 and G9 a of larvseg.md 7.2, for the fast and the plain versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from anyshot.larvseg.attention_loss import (
    AttentionRule,
    attention_directions,
    attention_maps,
    attention_pooling,
    attention_scores,
    attentive_loss,
)
from anyshot.larvseg.bank import CompactBank, Mining, candidate_scores, response_differences
from anyshot.larvseg.head import ActiveClasses, CosineHead, class_moments, class_normalised
from anyshot.larvseg.losses import (
    Pairs,
    PooledLogits,
    at_loss_resolution,
    image_loss,
    label_sets,
    mean_pooling,
    pair_costs,
    pixel_loss,
)
from tests.reference import larvseg_head as plain

WEAK, PIXEL = [0, 1, 2, 3, 4], [2, 5, 0]
GRID, SIZE = (4, 4), (8, 8)
RELEASED = AttentionRule(order="released")


def close(found: Tensor | float, expected: object, tolerance: float = 1e-6) -> None:
    found = torch.as_tensor(found, dtype=torch.float64)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=tolerance, rtol=0)


def grid_of(*sizes: int) -> list[Tensor]:
    return list(torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in sizes), indexing="ij"))


def features() -> Tensor:
    d, y, x = grid_of(4, 4, 4)
    return (0.6 * (d + 1) * (y + 1) + 0.35 * (x + 1) * (d + 2)).sin()[None]


def head() -> CosineHead:
    """The shared inputs of 7.2, float64."""
    made = CosineHead(width=4, classes=6).double()
    i, j = grid_of(4, 4)
    c, d = grid_of(6, 4)
    with torch.no_grad():
        made.feature_projection.copy_((0.9 * (i + 1) * (j + 1)).cos())
        made.class_projection.copy_((0.8 * (i + 1) + 1.7 * (j + 1)).sin() * (0.3 * (i + 1) * (j + 2)).cos())
        made.table.copy_((1.1 * (c + 1) * (d + 1)).sin() + 0.1 * c)
        made.scale.fill_(1.5)
        made.shift.fill_(-0.25)
    return made


def plain_head() -> plain.Head:
    made = head()
    weights = (made.feature_projection, made.class_projection, made.table, made.scale, made.shift)
    return plain.Head(*(weight.detach() for weight in weights))


def active(rows: list[int]) -> ActiveClasses:
    return ActiveClasses(rows=torch.tensor(rows))


def literal(slots: int = 2, tokens: int = 2) -> Tensor:
    """Q of G4, or its first slots and vectors; unit vectors (6, M, k, 4)."""
    c, i, j, d = grid_of(6, 2, 2, 4)
    vectors = (0.5 * (c + 1) * (d + 1) + 0.8 * i + 1.9 * j).cos()[:, :slots, :tokens]
    return vectors / vectors.norm(dim=3, keepdim=True)


def bank(slots: int = 2, tokens: int = 2, full: int = 1) -> CompactBank:
    made = CompactBank(classes=6, width=4, slots=slots, tokens=tokens).double()
    made.slots.copy_(literal(slots, tokens).mean(dim=2))
    made.wraps.fill_(full)
    made.refresh()
    return made


def plain_bank(slots: int = 2, tokens: int = 2, full: int = 1) -> plain.Bank:
    made = plain.Bank(literal(slots, tokens))
    made.full = [full] * 6
    return made


def weak_labels() -> Tensor:
    """Labels of G3 at loss resolution (1, 8, 8)."""
    labels = torch.where(torch.arange(16) < 8, 1, 3).expand(16, 16).clone()
    labels[:4, :4] = 255
    return at_loss_resolution(labels[None], 2)


def attend(
    rule: AttentionRule, store: CompactBank, sets: list[list[int]], weight: float = 0.1, compact: bool = False
) -> Tensor:
    """lambda L_ca of the weak set."""
    model = head()
    pooled = PooledLogits(
        model,
        units=model.units(features()),
        class_units=model.class_units(active(WEAK)),
        compact=compact,
    )
    pairs = Pairs.of(sets, classes=5)
    return (
        weight
        * attentive_loss(
            pooled, store, pairs, rows=torch.tensor(WEAK), rule=rule, grid=GRID, size=SIZE
        ).loss.detach()
    )


def attend_plainly(rule: plain.Rule, store: plain.Bank, sets: list[list[int]]) -> Tensor:
    return 0.1 * plain.attentive_loss(plain_head(), store, features(), sets, WEAK, SIZE, rule)


def test_the_classifier() -> None:
    """G1."""
    model = head()
    units, classes = model.units(features()), model.class_units(active(WEAK))
    close(units[0, 0].detach(), [0.6376372, -0.7589915, -0.1026923, -0.0824921])
    scores = (units @ classes.T)[0].detach()
    close(scores[0], [-0.1791347, 0.8848678, 0.5601900, -0.6644687, 0.2322870])
    close(scores.sum(), -0.7336668)
    logits = model(features(), active(WEAK)).detach()
    for z in (logits[0].flatten(1).T, plain_head().logits(features()[0], WEAK).flatten(1).T):
        close(z[0], [-1.2018853, 1.7262968, 0.8327690, -2.5375459, -0.0696346])
        close(z[14], [-0.8103675, 0.1800437, -1.2952188, -1.7796847, 2.4552272])
        close(z.sum(), -20.0)
        close(z.abs().sum(), 105.6878540)
    for z in (model(features(), active(PIXEL))[0].detach(), plain_head().logits(features()[0], PIXEL)):
        close(z.flatten(1)[:, 0], [0.9454701, 0.6697753, -2.3652454])


def test_the_pixel_loss() -> None:
    """G2."""
    block = torch.arange(16) // 4
    labels = (block[:, None] + block) % 3
    labels[12:] = 255
    small = at_loss_resolution(labels[None], 2)
    logits = head()(features(), active(PIXEL)).detach()
    close(pixel_loss(logits, small), 1.3504724)
    close(pixel_loss(logits, small, divisor="valid"), 1.8006298)
    close(plain.pixel_loss(logits, small), 1.3504724)
    close(plain.pixel_loss(logits, small, valid_only=True), 1.8006298)


@pytest.mark.parametrize("compact", [False, True])
def test_the_image_loss(compact: bool) -> None:
    """G3; without and with the logits of the tokens."""
    model = head()
    sets = label_sets(weak_labels())
    assert sets == [[1, 3]]
    units, classes = model.units(features()), model.class_units(active(WEAK))
    pooled = PooledLogits(model, units=units, class_units=classes, compact=compact)
    logits = pooled(mean_pooling(GRID, SIZE, images=1, like=units)).detach()
    close(logits[0], [-0.3770355, -0.1796305, -0.2082185, -0.1771236, -0.3079920])
    pairs = Pairs.of(sets, classes=5)
    close(pair_costs(logits[pairs.image], pairs), [1.3007937, 1.2989701])
    close(0.1 * image_loss(logits, pairs), 0.1299882)
    close(0.1 * plain.image_loss(model(features(), active(WEAK)).detach(), sets, SIZE), 0.1299882)
    close(model(features(), active(WEAK))[0].detach().mean(dim=(1, 2)), logits[0].tolist())
    alone = [image_loss(logits, Pairs.of([[label]], classes=5)) for label in (1, 3)]
    close(0.1 * torch.stack(alone).mean(), 0.1540916)


def test_the_attention_of_two_labels() -> None:
    """G4: bank, responses, attention, pooled logits, what is written."""
    model, store, pairs = head(), bank(), Pairs.of([[1, 3]], classes=5)
    close(store.means[1], [-0.2457106, -0.3839433, -0.1691803, 0.2011263])
    close(store.means[3], [-0.3642128, 0.2277132, 0.1746886, -0.3731054])
    units, classes = model.units(features()).detach(), model.class_units(active(WEAK)).detach()
    found = attention_directions(
        store, units=units, class_units=classes, rows=torch.tensor(WEAK), pairs=pairs, rule=RELEASED
    )
    scores = attention_scores(units, found.vectors, pairs)
    close(scores[:, [0, 14]], [[1.4282393, 0.8374966], [-1.8022301, -0.4138767]])
    maps = attention_maps(scores, grid=GRID, size=SIZE)
    close(
        torch.stack([maps[:, 0, 0], maps[:, 7, 7], maps.mean(dim=(1, 2))], dim=1),
        [[0.8066268, 0.7185389, 0.5004538], [0.1415798, 0.3484307, 0.5014501]],
    )
    for compact in (False, True):
        pooled = PooledLogits(model, units=units, class_units=classes, compact=compact)
        logits = pooled(attention_pooling(maps, grid=GRID), [2]).detach()
        close(logits[0], [-0.2938631, 0.0516737, -0.1425752, -0.3457682, 0.1049655])
        close(logits[1], [-0.0895760, -0.2426815, -0.1287242, 0.1354365, -0.3012674])
        close(pair_costs(logits, pairs), [1.2770459, 1.1670554])
    torch.testing.assert_close(store.slots[1, 0], units[0, [0, 1]].mean(dim=0))
    torch.testing.assert_close(store.slots[3, 0], units[0, [6, 3]].mean(dim=0))
    assert store.pointer.tolist() == [0, 1, 0, 1, 0, 0]
    assert store.wraps.tolist() == [1] * 6


@pytest.mark.parametrize("compact", [False, True])
def test_the_attentive_loss_and_its_variants(compact: bool) -> None:
    """G4: official order, a class that is not warm, single image; foreground only, without the bug."""
    both = [[1, 3]]
    close(attend(RELEASED, bank(), both, compact=compact), 0.1222051)
    cold = bank()
    cold.wraps[3] = 0
    close(attend(RELEASED, cold, both, compact=compact), 0.0638523)
    single = AttentionRule(order="released", warm_up=0, single_image=True)
    close(attend(single, bank(1, 1, full=0), both, compact=compact), 0.1225506)
    alone = attend(replace(RELEASED, background=False), bank(), both, compact=compact)
    assert abs(float(alone) - 0.1342312) > 1e-3
    rule = plain.Rule(background=False)
    torch.testing.assert_close(alone, attend_plainly(rule, plain_bank(), both), atol=1e-12, rtol=0)


def test_the_plain_attentive_loss() -> None:
    """G4 and G5, the literal bank."""
    both, one = [[1, 3]], [[1]]
    store = plain_bank()
    close(attend_plainly(plain.Rule(), store, both), 0.1222051)
    assert store.ptr == [0, 1, 0, 1, 0, 0]
    cold = plain_bank()
    cold.full[3] = 0
    close(attend_plainly(plain.Rule(), cold, both), 0.0638523)
    single = plain.Rule(warm_up=0, single_image=True)
    close(attend_plainly(single, plain_bank(1, 1, full=0), both), 0.1225506)
    for threshold, mse, expected in [(0.2, 1.0, 0.1476796), (0.45, 3.2, 0.1452533), (0.99, 1.0, 0.1493507)]:
        close(attend_plainly(plain.Rule(threshold=threshold, mse=mse), plain_bank(), one), expected)


def test_the_singleton_axis_bug_is_the_loss_of_halved_logits() -> None:
    """G4: attention 1/2 everywhere gives the number that a correct implementation must not give."""
    model, pairs = head(), Pairs.of([[1, 3]], classes=5)
    pooled = model(features(), active(WEAK)).mean(dim=(2, 3)) / 2
    close(0.1 * image_loss(pooled.detach(), pairs), 0.1342312)


@pytest.mark.parametrize("compact", [False, True])
def test_gradients_of_the_image_losses(compact: bool) -> None:
    """G4: of L_img + L_ca, both times 0.1, with respect to shift, scale and the class that is not active."""
    model, pairs = head(), Pairs.of([[1, 3]], classes=5)
    units, classes = model.units(features()), model.class_units(active(WEAK))
    pooled = PooledLogits(model, units=units, class_units=classes, compact=compact)
    baseline = image_loss(pooled(mean_pooling(GRID, SIZE, images=1, like=units)), pairs)
    rows = torch.tensor(WEAK)
    ca = attentive_loss(pooled, bank(), pairs, rows=rows, rule=RELEASED, grid=GRID, size=SIZE).loss
    (0.1 * (baseline + ca)).backward()
    grads = {name: weight.grad for name, weight in model.named_parameters()}
    assert all(grad is not None for grad in grads.values())
    close(grads["shift"], 0.0, 1e-15)  # type: ignore[arg-type]
    close(grads["scale"], -0.0157, 1e-4)  # type: ignore[arg-type]
    table = grads["table"]
    assert table is not None
    assert not table[5].any()
    assert table[:5].any(dim=1).all()


@pytest.mark.parametrize("compact", [False, True])
def test_background_mining(compact: bool) -> None:
    """G5."""
    model, store = head(), bank()
    units, classes = model.units(features())[0].detach(), model.class_units(active(WEAK)).detach()
    close(candidate_scores(units, classes, tokens=5), [0.4169535, 0.5351001, 0.5317378, 0.9304514, 0.8999856])
    differences = response_differences(store, units, 1, torch.tensor([0, 2, 3, 4]))
    close(differences, [3.373516, 0.244023, 3.075960, 3.361615])
    for threshold, mse, expected in [(0.2, 1.0, 0.1476796), (0.45, 3.2, 0.1452533), (0.99, 1.0, 0.1493507)]:
        rule = replace(RELEASED, mining=Mining(threshold=threshold, difference=mse))
        close(attend(rule, bank(), [[1]], compact=compact), expected)
    pooled = model(features(), active(WEAK)).mean(dim=(2, 3)).detach()
    close(0.2 * image_loss(pooled, Pairs.of([[1]], classes=5)), 0.3084339)


def test_merged_duplicates() -> None:
    """G9 a: multiplicities and copied columns."""
    z, counts, truth = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64), torch.tensor([1, 5, 2]), 1
    copied = z.repeat_interleave(counts)
    close(pair_costs(z[None], Pairs.of([[truth]], classes=3), counts=counts)[0], 2.9865693)
    close(copied.logsumexp(dim=0) - copied[truth], 2.9865693)
    close((z * counts).sum() / 8, -0.125)
    moments = class_moments(z[:, None], counts)
    close(moments.mean[0], -0.125, 1e-12)
    close(moments.covariance[0, 0], 0.604375, 1e-12)
    normal = class_normalised(z, counts)
    close(normal, ((z + 0.125) / (0.604375 + 1e-5) ** 0.5).tolist(), 1e-12)
