"""The compact bank and the attention against the literal bank (larvseg.md 2.5, 7.2 G9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.errors import ConfigError
from anyshot.larvseg import bank as bank_module
from anyshot.larvseg.attention_loss import AttentionRule, attentive_loss
from anyshot.larvseg.bank import CompactBank, Mining
from anyshot.larvseg.head import ActiveClasses
from anyshot.larvseg.losses import (
    Pairs,
)
from tests.larvseg.small_heads import (
    BOTH,
    CLASSES,
    GRID,
    ROWS,
    SIZE,
    WIDTH,
    filled_bank,
    fresh,
    gradients,
    images,
    plainly,
    pooled_logits,
    same,
    same_gradients,
    vectors,
)
from tests.reference import larvseg_head as plain


@dataclass(frozen=True)
class Case:
    ours: AttentionRule
    theirs: plain.Rule
    slots: int = 3
    tokens: int = 2
    valid_only: bool = False


def mining(threshold: float, difference: float) -> Mining:
    return Mining(tokens=4, threshold=threshold, difference=difference)


CASES = {
    "as released": Case(
        AttentionRule(order="released", mining=mining(-1, 1.0)), plain.Rule(topk=4, threshold=-1, mse=1.0)
    ),
    "two phases": Case(
        AttentionRule(order="two_phase", mining=mining(0.3, 0.5)),
        plain.Rule(topk=4, threshold=0.3, mse=0.5, two_phase=True),
        valid_only=True,
    ),
    "gated": Case(
        AttentionRule(order="released", gated_background=True, mining=mining(-1, 1.0)),
        plain.Rule(gated=True, topk=4, threshold=-1, mse=1.0),
        slots=2,
    ),
    "foreground": Case(AttentionRule(order="released", background=False), plain.Rule(background=False)),
    "single as released": Case(
        AttentionRule(order="released", warm_up=0, single_image=True, mining=mining(0.3, 1.0)),
        plain.Rule(warm_up=0, single_image=True, topk=4, threshold=0.3, mse=1.0),
        slots=1,
    ),
    "single, two phases": Case(
        AttentionRule(order="two_phase", warm_up=0, single_image=True, mining=mining(0.3, 1.0)),
        plain.Rule(warm_up=0, single_image=True, topk=4, threshold=0.3, mse=1.0, two_phase=True),
        slots=1,
    ),
}


def random_sets(generator: torch.Generator) -> list[list[int]]:
    """Two images with 0 to 3 of the first five classes of V."""
    numbers = torch.randint(0, 4, (2,), generator=generator).tolist()
    return [sorted(torch.randperm(5, generator=generator)[:number].tolist()) for number in numbers]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_compact_bank_is_the_literal_one(case: Case) -> None:
    """Over 12 steps of two images: loss, content, pointers and turns (larvseg.md 2.5, G9 c)."""
    head, active = fresh(), ActiveClasses(rows=torch.tensor(ROWS))
    ours, theirs = filled_bank(case.slots, case.tokens), plain.Bank(vectors(case.slots, case.tokens))
    generator = torch.Generator().manual_seed(6)
    losses = []
    for step in range(12):
        features, sets = images(2, seed=100 + step), random_sets(generator)
        valid = torch.rand(2, *SIZE, generator=generator) < 0.7 if case.valid_only else None
        with torch.no_grad():
            found = attentive_loss(
                pooled_logits(head, features, active, compact=step % 2 == 0),
                ours,
                Pairs.of(sets, classes=len(ROWS)),
                rows=active.rows,
                rule=case.ours,
                grid=GRID,
                size=SIZE,
                valid=valid,
            )
            expected = plain.attentive_loss(
                plainly(head), theirs, features, sets, ROWS, SIZE, case.theirs, valid
            )
        same(found.loss, expected)
        same(ours.slots, theirs.vectors.mean(dim=2))
        same(ours.means, theirs.vectors.mean(dim=(1, 2)))
        assert ours.pointer.tolist() == theirs.ptr
        assert ours.wraps.tolist() == theirs.full
        losses.append(float(found.loss))
    assert sum(loss > 0 for loss in losses) > 3


@BOTH
def test_gradients_of_the_attentive_loss(compact: bool) -> None:
    """They flow through the logits alone; rows that are not active have none, nor has the shift."""
    head, active, features = fresh(), ActiveClasses(rows=torch.tensor(ROWS)), images(2)
    sets = [[0, 2, 3], [4]]
    ours, theirs = filled_bank(), plain.Bank(vectors(3, 2))
    ours.wraps.fill_(1)
    theirs.full = [1] * CLASSES
    rule = AttentionRule(order="released", mining=mining(-1, 1.0))
    found = attentive_loss(
        pooled_logits(head, features, active, compact=compact),
        ours,
        Pairs.of(sets, classes=len(ROWS)),
        rows=active.rows,
        rule=rule,
        grid=GRID,
        size=SIZE,
    )
    plainer = plain.Rule(topk=4, threshold=-1, mse=1.0)
    expected = plain.attentive_loss(plainly(head), theirs, features, sets, ROWS, SIZE, plainer)
    same_gradients(head, found.loss, expected, 1e-9)
    grads = gradients(head, found.loss)
    assert abs(float(grads["shift"])) < 1e-15
    assert not grads["table"][[1, 4, 6]].any()
    assert float(found.warm) == 1


def test_the_warm_up() -> None:
    """M = 2: the first two writes of a class do not count, the third is the first with a full ring."""
    head, active = fresh(), ActiveClasses(rows=torch.tensor(ROWS))
    store = filled_bank(slots=2)
    shares = []
    for step in range(4):
        found = attentive_loss(
            pooled_logits(head, images(1, seed=step), active),
            store,
            Pairs.of([[3] if step == 3 else [1]], classes=len(ROWS)),
            rows=active.rows,
            rule=AttentionRule(order="released", warm_up=1),
            grid=GRID,
            size=SIZE,
        )
        assert (float(found.loss.detach()) > 0) == (float(found.warm) > 0)
        shares.append(float(found.warm))
    assert shares == [0, 0, 1, 0]
    assert store.wraps.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert store.pointer.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_mining_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """G9 e: one class at a time."""
    head, active = fresh(), ActiveClasses(rows=torch.tensor(ROWS))
    units, classes = head.units(images(1))[0].detach(), head.class_units(active).detach()
    whole = bank_module.candidate_scores(units, classes, tokens=4)
    monkeypatch.setattr(bank_module, "CHUNK", 1)
    same(bank_module.candidate_scores(units, classes, tokens=4), whole, 1e-14)


def test_a_response_without_variance_correlates_with_nothing() -> None:
    """All tokens equal: the difference is 2 (P - 1) / P, not NaN."""
    units = F.normalize(torch.ones(20, WIDTH, dtype=torch.float64), dim=1)
    found = bank_module.response_differences(filled_bank(), units, 0, torch.tensor([1, 2]))
    same(found, torch.full((2,), 2 * 19 / 20, dtype=torch.float64))


def test_writing_many_at_once_is_writing_one_after_the_other() -> None:
    """A class more often than it has slots, others in between."""
    rows = torch.tensor([2, 5, 2, 2, 2, 0, 2, 5])
    new = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    at_once, single = filled_bank(), filled_bank()
    for start in (0, 3):
        at_once.enqueue(rows[start:], new[start:])
        for row, vector in zip(rows[start:], new[start:], strict=True):
            single.enqueue(row[None], vector[None])
    for name, buffer in single.named_buffers():
        assert torch.equal(at_once.get_buffer(name), buffer), name
    assert at_once.wraps.tolist() == [0, 0, 2, 0, 0, 1, 0, 0, 0]


def gathering(devices: list[list[Tensor]]) -> Iterator[Callable[[Tensor], Tensor]]:
    """all_gather of each device in turn, from what every device sends, in order."""
    for _ in devices:
        calls = iter(zip(*devices, strict=True))
        yield lambda _tensor, calls=calls: torch.stack(list(next(calls)))  # type: ignore[misc]


def test_banks_of_several_devices_stay_equal() -> None:
    """Three devices bring 2, 0 and 3 writes: each bank gets all of them in order of rank."""
    rows = torch.tensor([1, 4, 1, 1, 8])
    new = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    shares = [slice(0, 2), slice(2, 2), slice(2, 5)]
    sent = []
    for share in shares:
        padded_rows, padded = torch.zeros(3, dtype=torch.int64), torch.zeros(3, WIDTH, dtype=torch.float64)
        number = len(rows[share])
        padded_rows[:number], padded[:number] = rows[share], new[share]
        sent.append([torch.tensor([number]), padded_rows, padded])
    expected = filled_bank()
    expected.enqueue(rows, new)
    for share, gather in zip(shares, gathering(sent), strict=True):
        store = filled_bank()
        store.enqueue(rows[share], new[share], all_gather=gather)
        for name, buffer in expected.named_buffers():
            assert torch.equal(store.get_buffer(name), buffer), name


def test_a_bank_survives_a_checkpoint() -> None:
    store = filled_bank()
    store.enqueue(torch.tensor([3, 3, 3, 1]), torch.ones(4, WIDTH, dtype=torch.float64))
    other = CompactBank(classes=CLASSES, width=WIDTH, slots=3, tokens=2, seed=9).double()
    other.load_state_dict(store.state_dict())
    assert set(store.state_dict()) == {"slots", "means", "pointer", "wraps"}
    assert all(torch.equal(other.get_buffer(name), buffer) for name, buffer in store.named_buffers())


def test_a_half_precision_bank() -> None:
    """Slots rounded to float16, means in float32 and exactly those of what is stored."""
    store = CompactBank(classes=CLASSES, width=WIDTH, slots=3, tokens=2, half=True)
    whole = CompactBank(classes=CLASSES, width=WIDTH, slots=3, tokens=2)
    new = F.normalize(torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(7)), dim=1)
    for one in (store, whole):
        one.enqueue(torch.tensor([0, 0, 0, 0, 4]), new)
    assert store.slots.dtype == torch.float16
    assert store.means.dtype == torch.float32
    assert torch.equal(store.means, store.slots.float().mean(dim=1))
    assert 0 < float((store.means - whole.means).abs().max()) < 5e-4


def test_a_fresh_bank_holds_means_of_random_unit_vectors() -> None:
    """k = 1: unit vectors. k = 40: squared length 1 / k on the mean, and its spread that of drawn vectors."""
    single = CompactBank(classes=50, width=8, slots=4, tokens=1)
    same(single.slots.norm(dim=2), torch.ones(50, 4), 1e-6)
    assert single.pointer.tolist() == single.wraps.tolist() == [0] * 50
    many = CompactBank(classes=1000, width=8, slots=4, tokens=40, seed=1)
    drawn = F.normalize(torch.randn(4000, 40, 8, generator=torch.Generator().manual_seed(2)), dim=2).mean(1)
    squares, expected = many.slots.flatten(0, 1).norm(dim=1) ** 2, drawn.norm(dim=1) ** 2
    assert float(squares.mean()) == pytest.approx(1 / 40, rel=0.03)
    assert float(squares.std()) == pytest.approx(float(expected.std()), rel=0.08)
    assert float(many.slots.mean(dim=(0, 1)).abs().max()) < 0.006
    again = CompactBank(classes=1000, width=8, slots=4, tokens=40, seed=1)
    assert torch.equal(again.slots, many.slots)
    assert torch.equal(many.means, many.slots.mean(dim=1))


def test_bad_banks() -> None:
    with pytest.raises(ConfigError, match="is empty"):
        CompactBank(classes=3, width=4, slots=0, tokens=1)
    head, active = fresh(), ActiveClasses(rows=torch.tensor(ROWS))

    def run(store: CompactBank, rule: AttentionRule, sets: list[list[int]], **more: object) -> None:
        attentive_loss(
            pooled_logits(head, images(1), active),
            store,
            Pairs.of(sets, classes=len(ROWS)),
            rows=active.rows,
            rule=rule,
            grid=GRID,
            size=SIZE,
            **more,  # type: ignore[arg-type]
        )

    released, both = AttentionRule(order="released"), [[0, 1]]
    with pytest.raises(ConfigError, match="21 tokens of an image are to enter the bank, but it has 20"):
        run(filled_bank(tokens=21), released, both)
    with pytest.raises(ConfigError, match="mined with the 21 best tokens"):
        run(filled_bank(), AttentionRule(order="released", mining=Mining(tokens=21)), [[0]])
    with pytest.raises(ConfigError, match="a bank with 1 slot, not 3"):
        run(filled_bank(), AttentionRule(order="released", warm_up=0, single_image=True), both)
    with pytest.raises(ConfigError, match="order `two_phase`"):
        run(filled_bank(), released, both, all_gather=torch.clone)
