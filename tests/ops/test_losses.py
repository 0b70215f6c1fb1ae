"""Losses that need no neighbours: golden case G8, padding, reductions."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, multilabel_soft_margin_loss

from anyshot.ops.losses import boundary_loss, multilabel_soft_margin, pixel_cross_entropy
from tests.reference import affinity as reference

LOGITS = torch.tensor([[[2, -1, 0], [0.5, -2, 1]]])
LABELS = torch.tensor([[[255, 0, 3], [255, 0, 0]]], dtype=torch.uint8)
EXPECTED = {"loss": 0.9393180, "boundary": 0.3005025, "background": 0.5844838, "object": 0.6931472}


def numbers(parts: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in parts.items()}


def test_boundary_loss_of_the_golden_case() -> None:
    """G8."""
    assert numbers(boundary_loss(LOGITS, LABELS)) == pytest.approx(EXPECTED, abs=1e-5)
    assert reference.boundary_loss(LOGITS.numpy(), LABELS.numpy()) == pytest.approx(EXPECTED, abs=1e-5)


def test_boundary_loss_without_positives() -> None:
    """G8: no 255 pixel counted; the others weigh as before."""
    labels = LABELS.masked_fill(LABELS == 255, 254)
    parts = numbers(boundary_loss(LOGITS, labels))
    assert parts["loss"] == pytest.approx(0.6388155, abs=1e-5)
    assert parts["boundary"] == 0


def test_padding_of_254_is_in_no_group() -> None:
    """P3, `pad_label: 255`: padding changes neither the loss nor any gradient."""
    padded_logits = torch.cat([LOGITS, torch.full((1, 2, 3), 9.0)], dim=1).requires_grad_()
    padded_labels = torch.cat([LABELS, torch.full((1, 2, 3), 254, dtype=torch.uint8)], dim=1)
    parts = boundary_loss(padded_logits, padded_labels)
    assert numbers(parts) == pytest.approx(EXPECTED, abs=1e-5)
    parts["loss"].backward()
    assert not padded_logits.grad[:, 2:].any()  # type: ignore[index]
    background = boundary_loss(padded_logits, padded_labels.masked_fill(padded_labels == 254, 0))
    assert background["loss"] > parts["loss"] + 1


@pytest.mark.parametrize("seed", range(3))
def test_boundary_loss_equals_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(2, 6, 7)).astype(np.float32)
    labels = rng.choice(np.array([0, 0, 1, 7, 254, 255], dtype=np.uint8), size=(2, 6, 7))
    ours = boundary_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert numbers(ours) == pytest.approx(reference.boundary_loss(logits, labels), rel=1e-5)


def test_boundary_loss_is_finite_at_large_logits() -> None:
    logits = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    loss = boundary_loss(logits, torch.tensor([[[0, 255]]], dtype=torch.uint8))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(1.5e4)
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_boundary_loss_sums_over_devices() -> None:
    """The six sums are what devices exchange: the loss of a batch does not depend on how it is cut."""
    rng = np.random.default_rng(5)
    logits = torch.from_numpy(rng.normal(size=(3, 4, 5)))
    labels = torch.from_numpy(rng.choice([0, 1, 255], size=(3, 4, 5)))
    sums: list[torch.Tensor] = []

    def keep(values: torch.Tensor) -> torch.Tensor:
        sums.append(values)
        return values

    for part in (slice(0, 1), slice(1, 3)):
        boundary_loss(logits[part], labels[part], all_reduce_sum=keep)
    cut = boundary_loss(logits[:1], labels[:1], all_reduce_sum=lambda _: sums[0] + sums[1])["loss"]
    torch.testing.assert_close(cut, boundary_loss(logits, labels)["loss"])


def test_multilabel_soft_margin() -> None:
    """Mean over batch and classes of the binary cross entropy, which is what torch's loss of that name is."""
    logits = torch.tensor([[2.0, -1.0, 0.0], [0.5, 30.0, -30.0]])
    targets = torch.tensor([[1, 0, 1], [0, 0, 1]])
    expected = multilabel_soft_margin_loss(logits, targets.float())
    torch.testing.assert_close(multilabel_soft_margin(logits, targets), expected)
    assert multilabel_soft_margin(torch.zeros(4, 20), torch.ones(4, 20)).item() == pytest.approx(np.log(2))


def test_pixel_cross_entropy() -> None:
    logits = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.from_numpy(
        np.random.default_rng(0).choice([0, 1, 4, 255], size=(2, 3, 4)).astype(np.uint8)
    )
    expected = cross_entropy(logits, labels.long(), ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), expected)


def test_pixel_cross_entropy_of_nothing() -> None:
    """A crop that is all ignored gives 0 and no NaN gradient."""
    logits = torch.randn(1, 3, 2, 2).requires_grad_()
    loss = pixel_cross_entropy(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()  # type: ignore[union-attr]
