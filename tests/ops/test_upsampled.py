"""Tiled cross entropy and argmax of upsampled logits against torch's own, which hold the upsampled map."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from anyshot.ops import upsampled
from anyshot.ops.losses import pixel_cross_entropy
from anyshot.ops.upsampled import upsampled_argmax, upsampled_cross_entropy

sides = st.tuples(st.integers(1, 9), st.integers(1, 9))


def case(
    cells: tuple[int, int], size: tuple[int, int], seed: int = 0, classes: int = 4
) -> tuple[Tensor, Tensor]:
    """logits (2, classes, *cells) float64 with gradient, labels (2, *size), some of them 255."""
    torch.manual_seed(seed)
    logits = torch.randn(2, classes, *cells, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, classes, (2, *size))
    return logits, torch.where(torch.rand(labels.shape) < 0.3, 255, labels)


def by_torch(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    large = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=align_corners)
    total = F.cross_entropy(large, labels, ignore_index=255, reduction="sum")
    return total / (labels != 255).sum().clamp(min=1)


@settings(deadline=None, max_examples=60)
@given(cells=sides, size=st.tuples(st.integers(1, 20), st.integers(1, 20)), align_corners=st.booleans(),
       tile=st.sampled_from([1, 100, 2**20]), seed=st.integers(0, 2**31))  # fmt: skip
def test_cross_entropy_equals_torch(
    cells: tuple[int, int], size: tuple[int, int], align_corners: bool, tile: int, seed: int
) -> None:
    """Values and gradients, in tiles of one row, of some rows, and in one."""
    logits, labels = case(cells, size, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampled, "CPU_TILE", tile)
        found = upsampled_cross_entropy(logits, labels, align_corners=align_corners)
        best = upsampled_argmax(logits, *size, align_corners=align_corners)
    expected = by_torch(logits, labels, align_corners)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    (one,), (other,) = torch.autograd.grad(3 * found, logits), torch.autograd.grad(3 * expected, logits)
    torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)
    large = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    # not the indices: two classes may tie up to rounding
    torch.testing.assert_close(large.gather(1, best[:, None])[:, 0], large.amax(dim=1), atol=1e-12, rtol=0)


def test_float32_is_that_of_the_house() -> None:
    logits, labels = case((5, 7), (33, 40))
    small = logits.detach().float().requires_grad_()
    large = F.interpolate(small, size=(33, 40), mode="bilinear", align_corners=True)
    expected = pixel_cross_entropy(large, labels)
    found = upsampled_cross_entropy(small, labels.to(torch.uint8), align_corners=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, small), torch.autograd.grad(expected, small))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = case((5, 7), (33, 40))
    half = logits.detach().to(dtype).requires_grad_()
    expected = upsampled_cross_entropy(half.float(), labels, align_corners=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = upsampled_cross_entropy(half, labels, align_corners=True)
        best = upsampled_argmax(half, 33, 40, align_corners=True)
    assert torch.equal(found, expected)
    assert torch.equal(best, upsampled_argmax(half.float(), 33, 40, align_corners=True))
    found.backward()
    assert half.grad is not None
    assert half.grad.dtype == dtype


def test_nothing_but_ignored_pixels() -> None:
    logits, labels = case((3, 3), (6, 6))
    loss = upsampled_cross_entropy(logits, torch.full_like(labels, 255), align_corners=True)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_sums_of_devices() -> None:
    """Two devices of which each adds the other's sums have the mean over both."""
    logits, labels = case((3, 4), (8, 9))
    totals = [by_torch(logits[i : i + 1], labels[i : i + 1], True) * (labels[i] != 255).sum() for i in (0, 1)]
    other = torch.stack([totals[1], (labels[1] != 255).sum().double()]).detach()
    found = upsampled_cross_entropy(
        logits[:1], labels[:1], align_corners=True, all_reduce_sum=lambda sums: sums + other
    )
    torch.testing.assert_close(found, by_torch(logits, labels, True))


def test_no_gradient_where_none_is_wanted() -> None:
    logits, labels = case((3, 4), (8, 9))
    with torch.no_grad():
        assert not upsampled_cross_entropy(logits, labels, align_corners=True).requires_grad
    fixed = upsampled_cross_entropy(logits.detach(), labels, align_corners=True)
    assert not fixed.requires_grad


def test_labels_out_of_range_are_not_passed_over() -> None:
    logits, labels = case((3, 4), (8, 9))
    with pytest.raises(IndexError, match="out of bounds"):
        upsampled_cross_entropy(logits, labels.masked_fill(labels == 255, 4), align_corners=True)


def test_padding_changes_nothing() -> None:
    logits, labels = case((5, 7), (33, 40))
    labels[:, 20:], labels[0, :, 13:] = 255, 255
    expected = by_torch(logits, labels, True)
    found = upsampled_cross_entropy(logits, labels, align_corners=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(expected, logits))
