"""The factorised head, its losses and pseudo labels against the plain ones on random inputs (pop.md 2.2 to
2.4): values and gradients in float64, and inputs at the edge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyshot.ops.projections import (
    novel_orthogonality,
    orthogonality,
    pointwise,
    pseudo_labels,
    unit_prototypes,
)
from anyshot.pop.head import PixelMlp, PrototypeHead
from tests.reference import pop_head as plain

CLOSE = {"atol": 1e-10, "rtol": 1e-10}
sizes = st.integers(1, 7)
numbers = st.integers(0, 2**31)


def random_head(
    channels: int, base: int, novel: int, seed: int, background: Any = "residual"
) -> PrototypeHead:
    """A float64 head whose prototypes are neither of unit length nor orthogonal."""
    torch.manual_seed(seed)
    head = PrototypeHead(channels=channels, base=base, novel=novel, background=background).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    return head


def matrices(mlp: PixelMlp) -> list[Tensor]:
    return [weight[:, :, 0, 0] for weight in mlp.parameters()]


def plain_logits(head: PrototypeHead, features: Tensor) -> Tensor:
    if not head.novel:
        return plain.stage_1_logits(features, head.base_emb, matrices(head.classifier))
    return plain.stage_2_logits(
        features,
        head.base_emb,
        head.novel_emb,
        matrices(head.classifier),
        matrices(head.classifier_n),
        whole=head.background == "feature",
    )


def with_gradients(head: PrototypeHead, logits: Tensor, features: Tensor) -> list[Tensor]:
    """The logits, and the gradients of a weighted sum of them for the features and all parameters."""
    weights = torch.randn(logits.shape, dtype=logits.dtype, generator=torch.Generator().manual_seed(1))
    leaves = [features, *head.parameters()]
    slopes = torch.autograd.grad((weights * logits).sum(), leaves, allow_unused=True)
    return [logits, *(torch.zeros_like(x) if s is None else s for x, s in zip(leaves, slopes, strict=True))]


@settings(deadline=None, max_examples=60)
@given(batch=st.integers(1, 3), channels=sizes, base=sizes, novel=st.integers(0, 4), height=sizes,
       width=sizes, seed=numbers)  # fmt: skip
def test_factorised_is_plain(
    batch: int, channels: int, base: int, novel: int, height: int, width: int, seed: int
) -> None:
    """Any sizes, K = 1 and more prototypes than channels among them."""
    head = random_head(channels, base, novel, seed)
    features = torch.randn(batch, channels, height, width, dtype=torch.float64).requires_grad_()
    found = with_gradients(head, head(features), features)
    expected = with_gradients(head, plain_logits(head, features), features)
    assert found[0].shape == (batch, 1 + base + novel, height, width)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_published_width() -> None:
    """512 channels, 60 base and 20 novel classes, on a small odd grid."""
    torch.manual_seed(0)
    head = PrototypeHead(channels=512, base=60).with_novel(20).double()
    features = torch.randn(1, 512, 3, 5, dtype=torch.float64).requires_grad_()
    found = with_gradients(head, head(features), features)
    expected = with_gradients(head, plain_logits(head, features), features)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_ablation_sees_the_whole_feature() -> None:
    head = random_head(5, 3, 2, 0, "feature")
    features = torch.randn(2, 5, 4, 3, dtype=torch.float64).requires_grad_()
    found = with_gradients(head, head(features), features)
    expected = with_gradients(head, plain_logits(head, features), features)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    other = random_head(5, 3, 2, 0)(features)
    assert torch.equal(other[:, 1:], head(features)[:, 1:])
    assert not torch.allclose(other[:, :1], head(features)[:, :1])
    first = random_head(5, 3, 0, 0, "feature")
    torch.testing.assert_close(first(features)[:, :1], first.classifier(features), **CLOSE)


def test_parts_are_the_forward_pass() -> None:
    """5.3 item 4: the base share can be computed once, without gradient."""
    head = random_head(6, 4, 3, 0)
    head.freeze_base()
    features = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    part = head.base_part(features)
    assert not part.logits.requires_grad
    assert not part.rest.requires_grad
    background, novel = head.novel_part(features, part.rest)
    assert torch.equal(torch.cat([background, part.logits, novel], dim=1), head(features))


@settings(deadline=None, max_examples=30)
@given(channels=sizes, factor=st.floats(0, 1e6), seed=numbers)
def test_classifier_is_homogeneous(channels: int, factor: float, seed: int) -> None:
    torch.manual_seed(seed)
    mlp = PixelMlp(channels=channels).double()
    vectors = torch.randn(4, channels, dtype=torch.float64)
    torch.testing.assert_close(mlp(factor * vectors), factor * mlp(vectors), atol=1e-9, rtol=1e-9)


def test_vectors_and_maps_agree() -> None:
    torch.manual_seed(0)
    mlp = PixelMlp(channels=5).double()
    maps = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    vectors = maps.permute(0, 2, 3, 1).reshape(-1, 5)
    torch.testing.assert_close(mlp(vectors).reshape(2, 1, 3, 4), mlp(maps), **CLOSE)
    torch.testing.assert_close(torch.nn.Sequential.forward(mlp, maps), mlp(maps), **CLOSE)
    torch.testing.assert_close(mlp(maps.to(memory_format=torch.channels_last)), mlp(maps), **CLOSE)
    assert list(mlp.state_dict()) == ["0.weight", "2.weight", "4.weight"]


def finite(head: PrototypeHead, features: Tensor) -> Tensor:
    """The logits; they, the losses and all gradients are finite."""
    logits = head(features)
    loss = logits.sum() + orthogonality(head.base_emb)
    if head.novel:
        loss = loss + novel_orthogonality(head.novel_emb, head.base_emb)
    loss.backward()
    assert torch.isfinite(logits).all()
    for leaf in (features, *head.parameters()):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
    return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_features_of_length_zero(dtype: torch.dtype) -> None:
    head = random_head(4, 3, 2, 0).to(torch.float64 if dtype == torch.float64 else torch.float32)
    logits = finite(head, torch.zeros(1, 4, 2, 3, dtype=dtype, requires_grad=True))
    assert not logits.any()


def test_prototypes_of_length_zero() -> None:
    head = random_head(4, 3, 2, 0)
    with torch.no_grad():
        head.base_emb[1] = 0
        head.novel_emb[0] = 0
    logits = finite(head, torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True))
    assert not logits[:, 2].any()
    assert not logits[:, 4].any()
    assert not unit_prototypes(head.base_emb)[1].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    """Inputs in half precision, and autocast around the head."""
    head = random_head(16, 5, 3, 0).float()
    with torch.no_grad():
        features = torch.randn(2, 16, 4, 5).to(dtype)
        expected = head(features.float())
        assert torch.equal(head(features), expected)
        with torch.autocast("cpu", dtype=dtype):
            found = head(features)
            assert torch.equal(orthogonality(head.base_emb), _outside(orthogonality, head.base_emb))
            pair = (head.novel_emb, head.base_emb)
            assert torch.equal(novel_orthogonality(*pair), _outside(novel_orthogonality, *pair))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    features.requires_grad_()
    head(features).sum().backward()
    assert features.grad is not None
    assert features.grad.dtype == dtype


def _outside(loss: Any, *prototypes: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return loss(*prototypes)


def test_a_head_in_half_precision() -> None:
    head = random_head(8, 3, 2, 0).to(torch.bfloat16)
    with torch.no_grad():
        logits = head(torch.randn(1, 8, 2, 2))
    assert logits.dtype == torch.float32


@settings(deadline=None, max_examples=30)
@given(channels=st.integers(2, 7), base=st.integers(2, 6), novel=sizes, seed=numbers)
def test_losses_are_plain(channels: int, base: int, novel: int, seed: int) -> None:
    torch.manual_seed(seed)
    known = torch.randn(base, channels, dtype=torch.float64).requires_grad_()
    new = torch.randn(novel, channels, dtype=torch.float64).requires_grad_()
    for found, expected in (
        (orthogonality(known), plain.orthogonality(known)),
        (novel_orthogonality(new, known), plain.novel_orthogonality(new, known)),
    ):
        torch.testing.assert_close(found, expected, **CLOSE)
        slopes = [torch.autograd.grad(loss, [known, new], allow_unused=True) for loss in (found, expected)]
        for one, other in zip(*slopes, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, **CLOSE)


def test_one_prototype_has_no_pairs() -> None:
    alone = torch.randn(1, 4).requires_grad_()
    loss = orthogonality(alone)
    loss.backward()
    assert loss.item() == 0
    assert alone.grad is not None
    assert not alone.grad.any()


@settings(deadline=None, max_examples=30)
@given(batch=st.integers(1, 2), novel=st.integers(1, 5), cells=st.tuples(sizes, sizes),
       size=st.tuples(st.integers(1, 12), st.integers(1, 12)), seed=numbers)  # fmt: skip
def test_pseudo_labels_are_plain(
    batch: int, novel: int, cells: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(batch, 1 + novel, *cells, dtype=torch.float64).requires_grad_()
    mask = torch.tensor([0, 0, 1, 2, 255])[torch.randint(0, 5, (batch, *size))]
    found = pseudo_labels(logits, mask, 2)
    assert torch.equal(found, plain.pseudo_labels(logits.detach(), mask, 2))
    assert torch.equal(pseudo_labels(logits, mask.to(torch.uint8), 2), found.to(torch.uint8))
    assert not found.requires_grad


def test_labels_never_reach_the_ignored_value() -> None:
    logits, mask = torch.zeros(1, 5, 2, 2), torch.zeros(1, 3, 3, dtype=torch.uint8)
    assert not pseudo_labels(logits, mask, 250).any()
    with pytest.raises(ValueError, match="251 base and 4 novel classes, but label 255 means ignored"):
        pseudo_labels(logits, mask, 251)


def test_new_prototypes() -> None:
    """2.1: rows orthonormal, drawn by the generator alone; f is copied, the old head is left as it is."""
    torch.manual_seed(0)
    head = PrototypeHead(channels=8, base=3)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    state = torch.get_rng_state()
    first, second, third = (
        head.with_novel(4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.novel_emb, second.novel_emb)
    assert not torch.equal(first.novel_emb, third.novel_emb)
    torch.testing.assert_close(first.novel_emb @ first.novel_emb.T, torch.eye(4))
    torch.testing.assert_close(head.base_emb @ head.base_emb.T, torch.eye(3))
    for mlp in (first.classifier, first.classifier_n):
        assert all(
            torch.equal(a, b) for a, b in zip(mlp.parameters(), head.classifier.parameters(), strict=True)
        )
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_new_head_has_type_and_kind_of_the_old() -> None:
    head = PrototypeHead(channels=4, base=2, background="feature").double().with_novel(3)
    assert (head.base, head.novel, head.background) == (2, 3, "feature")
    assert {parameter.dtype for parameter in head.parameters()} == {torch.float64}
    assert all(parameter.requires_grad for parameter in head.parameters())
    head.freeze_base()
    trained = {name for name, value in head.named_parameters() if value.requires_grad}
    assert trained == {"novel_emb", *(f"classifier_n.{index}.weight" for index in (0, 2, 4))}


def test_impossible_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="0 base and 0 novel classes: at least 1 and 0"):
        PrototypeHead(channels=4, base=0)
    head = PrototypeHead(channels=4, base=2)
    with pytest.raises(ValueError, match="0 novel classes for a head that has 0"):
        head.with_novel(0)
    with pytest.raises(ValueError, match="1 novel classes for a head that has 2"):
        head.with_novel(2).with_novel(1)


def test_pointwise_is_a_convolution() -> None:
    torch.manual_seed(0)
    weight, maps = torch.randn(3, 5), torch.randn(2, 5, 4, 6)
    expected = torch.nn.functional.conv2d(maps, weight[:, :, None, None])
    torch.testing.assert_close(pointwise(weight, maps), expected)
    torch.testing.assert_close(pointwise(weight, maps[:, :, 0, 0]), expected[:, :, 0, 0])
