"""The index of the largest score along any dimension."""

import pytest
import torch

from anyshot.ops.argmax import argmax


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_torchs_argmax(dim: int, dtype: torch.dtype) -> None:
    scores = torch.randn(7, 9, 65, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(argmax(scores, dim), scores.argmax(dim=dim))


def test_the_first_of_equal_scores() -> None:
    """Also in the lengths that a CPU works through at once, and in their rest."""
    scores = torch.randint(0, 3, (5, 64, 67), generator=torch.Generator().manual_seed(0)).float()
    for dim in range(3):
        found = argmax(scores, dim)
        best = scores.amax(dim=dim, keepdim=True)
        first = (scores == best).int().cumsum(dim=dim).eq(0).sum(dim=dim)
        assert torch.equal(found, first)


def test_it_takes_parts_of_a_larger_tensor() -> None:
    scores = torch.randn(4, 10, 12, generator=torch.Generator().manual_seed(1))[:, 2:7, ::2]
    assert torch.equal(argmax(scores, 0), scores.contiguous().argmax(dim=0))
