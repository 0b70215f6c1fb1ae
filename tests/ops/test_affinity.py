"""Affinities, pair labels, their loss and the labels of novel samples: G2, G3, G7 and the plain versions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyshot.ops.affinity import (
    affinity_loss,
    affinity_planes,
    merge_crf_labels,
    pair_affinity,
    pair_labels,
)
from anyshot.ops.neighbours import Border, from_region
from tests.reference import affinity as reference
from tests.reference import neighbours as pairs_of

GRIDS = [(1, 1), (2, 3), (5, 5), (9, 9), (10, 13)]


def features_of(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_pair_labels_of_the_golden_case() -> None:
    """G2: rows are offsets, columns the from cells 1, 2, 5, 6."""
    labels = torch.tensor([[[0, 0, 1, 1], [0, 255, 1, 2], [0, 0, 2, 2]]], dtype=torch.uint8)
    background, foreground, different = (
        group[0].flatten(1).int().tolist() for group in pair_labels(labels, radius=2)
    )
    assert background == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert foreground == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert different == [[1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 0, 1]]
    assert [int(np.sum(group)) for group in (background, foreground, different)] == [1, 2, 7]


def test_affinity_of_the_golden_case() -> None:
    """G3: four pixels in a row, pairs (0,1), (1,2), (2,3), (0,2)."""
    features = torch.tensor([[[0, 0, 1, 3]], [[0, 0.2, 1, 1]]], dtype=torch.float64)
    neighbours = affinity_planes(features, radius=2, border="full")[0, 0]
    assert neighbours[:3].tolist() == pytest.approx([0.9048374, 0.4065697, 0.3678794], abs=1e-6)
    assert affinity_planes(features, radius=3, border="full")[1, 0, 0].item() == pytest.approx(0.3678794)


def test_loss_of_the_golden_case() -> None:
    """G3: the three parts and their sum; an empty group adds exactly 0."""
    affinity = torch.tensor([0.9048374, 0.4065697, 0.3678794, 0.3678794])
    masks = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]], dtype=torch.bool)
    expected = {"loss": 0.5201059, "background": 0.0999879, "foreground": 0.9999628, "different": 0.4902365}
    found = {name: value.item() for name, value in affinity_loss(affinity, *masks).items()}
    assert found == pytest.approx(expected, abs=1e-5)
    assert reference.affinity_loss(affinity.numpy(), *masks.numpy()) == pytest.approx(expected, abs=1e-5)

    none = torch.zeros(4, dtype=torch.bool)
    empty = affinity_loss(affinity, none, masks[1], none)
    assert empty["background"] == 0
    assert empty["different"] == 0
    assert empty["loss"].item() == pytest.approx(0.9999628 / 4, abs=1e-5)


def test_identical_pair_that_should_differ() -> None:
    """G3 and P21: a = 1 in the negative group costs -ln(1e-5), and its gradient is finite."""
    affinity = torch.ones(1, requires_grad=True)
    none, one = torch.zeros(1, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    parts = affinity_loss(affinity, none, none, one)
    # 1 + 1e-5 has no exact float32 neighbour: 1.0013e-5 remains
    assert parts["different"].item() == pytest.approx(11.512925, abs=5e-3)
    parts["loss"].backward()
    assert affinity.grad is not None
    assert torch.isfinite(affinity.grad).all()


@pytest.mark.parametrize(("height", "width"), GRIDS)
@pytest.mark.parametrize("radius", [2, 3, 5])
def test_pair_affinity_equals_gathering(height: int, width: int, radius: int) -> None:
    features = features_of(height, 2, 6, height, width)
    ours = pair_affinity(features, radius=radius)
    rows, columns = from_region(radius, height, width)
    assert ours.shape[2:] == (rows.stop - rows.start, columns.stop - columns.start)
    torch.testing.assert_close(ours.flatten(2), reference.pair_affinity(features, radius))


@pytest.mark.parametrize("radius", [2, 3, 5])
def test_gradient_equals_autograd_of_the_plain_version(radius: int) -> None:
    features = features_of(radius, 2, 3, 9, 11, dtype=torch.float64)
    weights = features_of(1, *pair_affinity(features, radius=radius).shape, dtype=torch.float64)
    gradients = []
    for plain in (False, True):
        leaf = features.clone().requires_grad_()
        if plain:
            affinity = reference.pair_affinity(leaf, radius).view_as(weights)
        else:
            affinity = pair_affinity(leaf, radius=radius)
        (affinity * weights).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)
    assert gradients[0] is not None
    assert gradients[0].abs().max() > 0.1


def test_gradcheck() -> None:
    features = features_of(4, 1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: pair_affinity(f, radius=2), (features,))


def test_gradient_is_zero_at_equal_features() -> None:
    """|x| has no derivative at 0; 0 is taken, as autograd does, so flat regions do not move."""
    features = torch.ones(1, 4, 6, 7, requires_grad=True)
    pair_affinity(features, radius=3).sum().backward()
    assert not features.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize(("height", "width"), GRIDS)
@pytest.mark.parametrize("border", ["official", "full"])
@pytest.mark.parametrize("radius", [2, 5])
def test_planes_equal_the_pairs(height: int, width: int, border: Border, radius: int) -> None:
    features = features_of(width, 5, height, width)
    planes = affinity_planes(features, radius=radius, border=border).numpy()
    expected = reference.planes(features.numpy(), radius, border)
    assert planes == pytest.approx(expected, abs=1e-6)
    assert (planes > 0).sum() == len(pairs_of.pairs(radius, height, width, border))


def test_planes_hold_the_trained_affinities() -> None:
    """Training and walk see the same numbers at the official pairs."""
    features = features_of(2, 8, 12, 14)
    rows, columns = from_region(5, 12, 14)
    planes = affinity_planes(features, radius=5)[:, rows, columns]
    torch.testing.assert_close(planes, pair_affinity(features[None], radius=5)[0])
    assert affinity_planes(features, radius=5).count_nonzero() == planes.numel()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 12), width=st.integers(1, 12))
def test_pair_labels_equal_loops(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), size=(height, width))
    for radius in (2, 4):
        ours = pair_labels(torch.from_numpy(labels)[None], radius=radius)
        for group, expected in zip(ours, pairs_of.pair_labels(labels, radius), strict=True):
            assert group[0].flatten(1).int().numpy().tolist() == expected.tolist()


def test_loss_equals_loops() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, 255], size=(2, 9, 10)))
    affinity = pair_affinity(0.3 * features_of(0, 2, 4, 9, 10), radius=3)
    groups = pair_labels(labels, radius=3)
    ours = {name: value.item() for name, value in affinity_loss(affinity, *groups).items()}
    expected = reference.affinity_loss(affinity.numpy(), *(group.numpy() for group in groups))
    assert ours == pytest.approx(expected, rel=1e-5)


def keep(values: torch.Tensor, kept: list[torch.Tensor]) -> torch.Tensor:
    kept.append(values)
    return values


def test_loss_sums_over_devices() -> None:
    """P22: two devices that reduce their six sums give the loss of the whole batch, not a mean of losses."""
    labels = torch.from_numpy(np.random.default_rng(3).choice([0, 0, 1, 255], size=(4, 8, 8)))
    affinity = pair_affinity(0.2 * features_of(3, 4, 4, 8, 8), radius=3)
    groups = pair_labels(labels, radius=3)
    whole = affinity_loss(affinity, *groups)["loss"]
    sums: list[torch.Tensor] = []
    for part in (slice(0, 1), slice(1, 4)):
        affinity_loss(
            affinity[part], *(group[part] for group in groups), all_reduce_sum=lambda s: keep(s, sums)
        )
    joined = sums[0] + sums[1]
    reduced = affinity_loss(affinity[:1], *(group[:1] for group in groups), all_reduce_sum=lambda _: joined)[
        "loss"
    ]
    torch.testing.assert_close(reduced, whole)


@pytest.mark.parametrize(
    ("la", "ha", "opened", "label"),
    [
        ([0.6, 0.3, 0.1], [0.9, 0.05, 0.05], True, 0),
        ([0.2, 0.7, 0.1], [0.6, 0.35, 0.05], True, 0),
        ([0.2, 0.7, 0.1], [0.6, 0.35, 0.05], False, 255),
        ([0.1, 0.2, 0.7], [0.3, 0.2, 0.5], True, 2),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], True, 255),
        ([0.6, 0.4], [0.4, 0.6], True, 255),
    ],
)
def test_novel_label_of_the_golden_cases(la: list[float], ha: list[float], opened: bool, label: int) -> None:
    """G7."""
    low, high = (np.array(values)[:, None, None] for values in (la, ha))
    assert merge_crf_labels(low, high, np.array([[opened]])).item() == label
    assert reference.novel_label(la, ha, opened) == label


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_novel_labels_equal_loops(k: int, gated: bool) -> None:
    rng = np.random.default_rng(k)
    low, high = rng.dirichlet(np.ones(k + 1), size=(2, 9, 11)).transpose(0, 3, 1, 2).astype(np.float32)
    low[:, :2], high[:, :2] = 0, 0  # padding of the crop
    opened = rng.random((9, 11)) < 0.7 if gated else None
    labels = merge_crf_labels(low, high, opened)
    assert labels.dtype == np.uint8
    assert labels.tolist() == reference.novel_labels(low, high, opened).tolist()
    assert (labels[:2] == 255).all()
