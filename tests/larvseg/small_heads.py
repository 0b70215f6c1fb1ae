"""A small head, images and a filled bank in float64, and what is compared of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anyshot.larvseg.bank import CompactBank
from anyshot.larvseg.head import ActiveClasses, CosineHead
from anyshot.larvseg.losses import (
    PooledLogits,
)
from tests.reference import larvseg_head as plain

WIDTH, CLASSES, GRID, SIZE = 6, 9, (4, 5), (8, 10)
ROWS = [7, 0, 3, 8, 2, 5]  # of V; rows 1, 4 and 6 are not used
BOTH = pytest.mark.parametrize("compact", [False, True])


def fresh(seed: int = 0, *, classes: int = CLASSES) -> CosineHead:
    torch.manual_seed(seed)
    head = CosineHead(width=WIDTH, classes=classes).double()
    with torch.no_grad():
        head.scale.fill_(1.3)
        head.shift.fill_(0.4)
    return head


def plainly(head: CosineHead) -> plain.Head:
    return plain.Head(head.feature_projection, head.class_projection, head.table, head.scale, head.shift)


def images(number: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, WIDTH, *GRID, generator=generator, dtype=torch.float64)


def pooled_logits(
    head: CosineHead, features: Tensor, active: ActiveClasses, *, compact: bool | None = None
) -> PooledLogits:
    return PooledLogits(
        head,
        units=head.units(features),
        class_units=head.class_units(active),
        counts=active.counts,
        compact=compact,
    )


def gradients(head: CosineHead, loss: Tensor) -> dict[str, Tensor]:
    names, weights = zip(*head.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(weight) if grad is None else grad
        for name, weight, grad in zip(names, weights, found, strict=True)
    }


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def same_gradients(head: CosineHead, found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    same(found, expected, tolerance)
    ours, theirs = gradients(head, found), gradients(head, expected)
    assert any(bool(grad.any()) for grad in theirs.values())
    for name, grad in ours.items():
        same(grad, theirs[name], tolerance)


def vectors(slots: int, tokens: int) -> Tensor:
    found = torch.randn(
        CLASSES, slots, tokens, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    return found / found.norm(dim=3, keepdim=True)


def filled_bank(slots: int = 3, tokens: int = 2) -> CompactBank:
    store = CompactBank(classes=CLASSES, width=WIDTH, slots=slots, tokens=tokens).double()
    store.slots.copy_(vectors(slots, tokens).mean(dim=2))
    store.refresh()
    return store
