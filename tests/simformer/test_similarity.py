"""The similarity network, its window and the points it is asked about (simformer.md 2.5, 2.6, 7.3)."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from anyshot.simformer.options import PairLosses
from anyshot.simformer.similarity import (
    BalanceWindow,
    CoarseLabels,
    SimilarityNet,
    novel_points,
    similarity_points,
)
from anyshot.simformer.targets import Targets
from tests.reference import simformer_losses as plain
from tests.simformer.loss_batches import CHANNELS, CLASSES, NOVEL, network, random_batch, slopes


@pytest.mark.parametrize("depth", [1, 3])
def test_factorised_network_equals_the_concatenated_one(depth: int) -> None:
    """Values and gradients, in single precision."""
    torch.manual_seed(0)
    net = SimilarityNet(width=16, depth=depth)
    first, second = (torch.randn(2, points, 16).requires_grad_() for points in (7, 9))
    found = net(first, second)
    expected = plain.simnet(dict(net.named_parameters()), first, second, depth)
    assert found.shape == (2, 7, 9)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    inputs = [first, second, *net.parameters()]
    for ours, theirs in zip(
        slopes(found.log().sum(), inputs), slopes(expected.log().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_layer_norm_sees_every_pair_alone() -> None:
    net, _ = network("layer")
    points = torch.randn(2, 5, CHANNELS, dtype=torch.float64)
    whole = net(points, points.flip(0))
    torch.testing.assert_close(net(points[:1, :2], points[1:, :3]), whole[:1, :2, :3])
    batch, _ = network("batch")
    assert not torch.allclose(
        batch(points[:1, :2], points[1:, :3]), batch(points, points.flip(0))[:1, :2, :3]
    )


def test_balance_window() -> None:
    """The start entry counts until the window is full; a saved window goes on."""
    window, expected = BalanceWindow(length=3), plain.Balance(3)
    counts = [(8, 1), (5, 0), (0, 0), (3, 3), (2, 7)]
    for batch in (counts[:2], counts[2:3], counts[3:]):
        found = window.update(torch.tensor(batch))
        assert found.tolist() == [pytest.approx(expected.weights(*pair)) for pair in batch]
    resumed = BalanceWindow(length=3)
    resumed.load_state_dict(window.state_dict())
    assert resumed.rows.tolist() == [[0, 0], [3, 3], [2, 7]]
    assert BalanceWindow(length=1).update(torch.tensor([[0, 0]])).tolist() == [[0, 0]]
    whole = BalanceWindow(length=3)
    whole.update(torch.tensor(counts))
    assert torch.equal(whole.rows, window.rows)


# --- points ---


def coarse_pair(seed: int = 0) -> CoarseLabels:
    _, targets = random_batch(seed, images=2)
    return CoarseLabels.of(targets, NOVEL)


def test_points_of_large_regions() -> None:
    """Within the regions, none twice."""
    pair = coarse_pair()
    for seed in range(20):
        points = similarity_points(pair, PairLosses(points=5), torch.Generator().manual_seed(seed))
        labels, pad = pair.labels.gather(1, points), pair.pad.gather(1, points)
        assert points.shape == (2, 5)
        assert len(labels[:, :4].unique()) == 1  # one base class, the same in both
        assert labels[0, 0] < 4
        assert (labels[:, 4] != labels[0, 0]).all()
        assert not pad.any()
        assert all(len(row.unique()) == 5 for row in points)
        found = novel_points(pair, 5, torch.Generator().manual_seed(seed))
        assert found is not None
        assert (pair.labels.gather(1, found) == 255).all()
        assert not pair.pad.gather(1, found).any()
        assert all(len(row.unique()) == 5 for row in found)


def test_points_of_small_regions() -> None:
    """SimLoss's come from all other cells, DistLoss's come several times."""
    labels = torch.full((2, 16), 255, dtype=torch.uint8)
    labels[:, 0] = 3
    pad = torch.zeros(2, 16, dtype=torch.bool)
    pad[:, 4:] = True
    pair = CoarseLabels(labels, labels == 3, pad)
    points = similarity_points(pair, PairLosses(points=10), torch.Generator().manual_seed(0))
    for row in points:
        assert row[0] == 0  # the region comes first
        assert len(row[:8].unique()) == 8
        assert set(row[8:].tolist()) <= {1, 2, 3}
    found = novel_points(pair, 10, torch.Generator().manual_seed(0))
    assert found is not None
    assert set(found.flatten().tolist()) == {1, 2, 3}
    nothing = CoarseLabels(labels, torch.ones_like(pad), pad)
    assert novel_points(nothing, 10, torch.Generator()) is None


def test_points_without_a_class_in_common() -> None:
    """Any base class then."""
    labels = torch.tensor([[0] * 8 + [255] * 8, [1] * 4 + [2] * 4 + [255] * 8], dtype=torch.uint8)
    pair = CoarseLabels(labels, labels < 4, torch.zeros(2, 16, dtype=torch.bool))
    points = similarity_points(pair, PairLosses(points=10), torch.Generator().manual_seed(0))
    assert sorted(points[0, :8].tolist()) == sorted(points[1, :8].tolist()) == [*range(8)]
    assert (points[:, 8:] >= 8).all()


def test_class_in_common_is_one_of_the_grid() -> None:
    """6.3: class 0 is in both images, but in the second one between the points of the grid."""
    labels = torch.full((2, 32, 32), 255, dtype=torch.uint8)
    labels[:, :16] = 1
    labels[0, 16:24] = 0
    labels[1, 17:20] = 0
    targets = Targets(labels=labels, novel=torch.zeros(2, CLASSES) > 0, pad=torch.zeros_like(labels) > 0)
    pair = CoarseLabels.of(targets, NOVEL)
    for seed in range(10):
        points = similarity_points(pair, PairLosses(points=5), torch.Generator().manual_seed(seed))
        assert (pair.labels.gather(1, points)[:, :4] == 1).all()


def test_points_are_drawn_evenly() -> None:
    """Chi-square over the cells of the region, over those outside of it, and over the shared classes."""
    pair, generator = coarse_pair(), torch.Generator().manual_seed(0)
    options = PairLosses(points=10, focus_share=0.5)
    counts = torch.zeros(64, dtype=torch.int64)
    classes, draws = torch.zeros(4, dtype=torch.int64), 2000
    for _ in range(draws):
        points = similarity_points(pair, options, generator)
        classes[pair.labels[0, points[0, 0]]] += 1
        found = novel_points(pair, 4, generator)
        assert found is not None
        counts += torch.bincount(found[0], minlength=64)
    region = ~pair.base[0] & ~pair.pad[0]
    assert counts[~region].sum() == 0
    assert chisquare(counts[region]).pvalue > 0.01
    assert chisquare(classes).pvalue > 0.01
    one = CoarseLabels(torch.where(pair.base, 0, 255).to(torch.uint8), pair.base, pair.pad)
    inside, outside = torch.zeros(2, 64, dtype=torch.int64)
    for _ in range(draws):
        points = similarity_points(one, options, generator)[0]
        inside += torch.bincount(points[:5], minlength=64)
        outside += torch.bincount(points[5:], minlength=64)
    assert inside[~pair.base[0]].sum() == outside[~region].sum() == 0
    assert chisquare(inside[pair.base[0]]).pvalue > 0.01
    assert chisquare(outside[region]).pvalue > 0.01
