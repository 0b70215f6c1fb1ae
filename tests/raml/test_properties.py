"""The fast versions against the plain ones on random inputs, and what must always hold (raml.md 7.3)."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn.functional import normalize

from anyshot.ops import anomaly
from anyshot.ops.anomaly_metrics import AnomalyTally, anomaly_scores
from anyshot.ops.circle_loss import circle_loss
from anyshot.ops.drop_block import keep_from_seeds, keep_masks, pool_by_class
from anyshot.ops.regions import (
    closing,
    find_regions,
    masked_mean,
    match_regions,
    paint_regions,
    quarter_round_trip,
    region_means,
    union_of_channels,
)
from anyshot.raml.meta_losses import inter_loss, known_loss, reconstruction_loss, split_loss
from tests.reference import raml_losses as plain_losses
from tests.reference import raml_regions as plain_regions

SHAPES = [(1, 1, 1), (2, 5, 7), (3, 16, 16), (2, 33, 18)]  # B, H, W
BINARY = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1))


def inputs(shape: tuple[int, int, int], known: int = 3, meta: int = 2, seed: int = 0):  # type: ignore[no-untyped-def]
    """channels, target, images."""
    batch, height, width = shape
    rng = np.random.default_rng(seed)
    channels = torch.from_numpy(rng.random((batch, known + meta, height, width))).float()
    labels = rng.choice(np.array([*range(known), 255], dtype=np.uint8), size=shape)
    images = torch.from_numpy(rng.normal(size=(batch, 3, height, width))).float()
    return channels, torch.from_numpy(labels), images


def gradient(loss, channels: torch.Tensor, *rest) -> torch.Tensor:  # type: ignore[no-untyped-def]
    leaf = channels.clone().requires_grad_()
    loss(leaf, *rest).backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("shape", SHAPES)
def test_meta_losses_equal_loops(shape: tuple[int, int, int]) -> None:
    """Values and gradients."""
    channels, target, images = inputs(shape)
    cases = [
        (lambda c: known_loss(c, target, 3), lambda c: plain_losses.known_loss(c, target, 3)),
        (reconstruct := lambda c: reconstruction_loss(c, images),
         lambda c: plain_losses.reconstruction_loss(c, images.to(c.dtype))),
        (lambda c: reconstruction_loss(c, images, form="paper"),
         lambda c: plain_losses.reconstruction_loss(c, images.to(c.dtype), "paper")),
        (inter_loss, plain_losses.inter_loss),
        (lambda c: inter_loss(c, form="paper"), lambda c: plain_losses.inter_loss(c, "paper")),
        (lambda c: split_loss(c / 50, 3), lambda c: plain_losses.split_loss(c / 50, 3)),
        (lambda c: split_loss(c, 3, form="paper"), lambda c: plain_losses.split_loss(c, 3, form="paper")),
    ]  # fmt: skip
    assert reconstruct(channels).ndim == 0
    for fast, plain in cases:
        assert fast(channels).item() == pytest.approx(plain(channels.double()).item(), rel=1e-5, abs=1e-6)
        ours, theirs = gradient(fast, channels), gradient(plain, channels.double()).float()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_gradient_of_the_gram_matrix() -> None:
    """7.3: relative 1e-5 against the loop over pairs, and against finite differences."""
    channels, _, _ = inputs((2, 13, 9), known=16, meta=4)
    ours, theirs = gradient(inter_loss, channels), gradient(plain_losses.inter_loss, channels.double())
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5
    step = torch.zeros_like(channels)
    step[0, 3, 2, 4] = 1e-2
    slope = (plain_losses.inter_loss((channels + step).double())
             - plain_losses.inter_loss((channels - step).double())) / 2e-2  # fmt: skip
    assert ours[0, 3, 2, 4].item() == pytest.approx(slope.item(), rel=1e-3)


def test_known_loss_is_finite_at_the_ends() -> None:
    """Logarithms stop at -100; void pixels count as negatives; a value rounded above 1 does no harm."""
    channels = torch.tensor([[[[0.0, 1.0 + 1e-6, 1.0]]]])
    target = torch.tensor([[[0, 0, 255]]], dtype=torch.uint8)
    loss = known_loss(channels, target, 1)
    assert loss.item() == pytest.approx(1 - 2 / 5 + 200 / 3, rel=1e-5)
    assert torch.isfinite(gradient(lambda c: known_loss(c, target, 1), channels)).all()
    empty = known_loss(torch.zeros(1, 2, 3, 3), torch.full((1, 3, 3), 255, dtype=torch.uint8), 1)
    assert empty.item() == 0


def test_split_loss_of_a_dead_channel() -> None:
    """`official` is infinite, `fixed` is finite and pulls the channel up; one that covers enough is free."""
    channels = torch.zeros(2, 4, 5, 5)
    channels[:, 3] = 0.5
    assert split_loss(channels, 2).item() == math.inf
    fixed = split_loss(channels, 2, form="fixed")
    assert fixed.item() == pytest.approx(-math.log(1e-6) / 2, rel=1e-5)
    slope = gradient(lambda c: split_loss(c, 2, form="fixed"), channels)
    assert torch.isfinite(slope).all()
    assert (slope[:, 2] < 0).all()
    assert not slope[:, [0, 1, 3]].any()
    assert split_loss(channels[:, [0, 1, 3]], 2, form="fixed").item() == 0


def test_losses_do_not_depend_on_the_order_of_images() -> None:
    channels, target, images = inputs((4, 9, 6))
    order = torch.tensor([2, 0, 3, 1])
    for loss in (
        lambda i: known_loss(channels[i], target[i], 3),
        lambda i: split_loss(channels[i] / 50, 3),
        lambda i: inter_loss(channels[i]),
        lambda i: reconstruction_loss(channels[i], images[i]),
    ):
        torch.testing.assert_close(loss(order), loss(torch.arange(4)))


def test_losses_are_float32_under_autocast() -> None:
    channels, target, _ = inputs((2, 9, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = (known_loss(channels, target, 3), inter_loss(channels))
        pooled = region_means(channels[0], target[0] == 0, 1)
    assert results[0].item() == known_loss(channels, target, 3).item()
    assert results[1].item() == inter_loss(channels).item()
    assert torch.equal(pooled, region_means(channels[0], target[0] == 0, 1))


@pytest.mark.parametrize("form", ["official", "paper"])
@pytest.mark.parametrize("rows", [2, 17, 40])
def test_circle_loss_equals_pairs(form: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    labels = torch.from_numpy(np.r_[0, 0, 1, rng.integers(0, 4, rows)])
    vectors = torch.from_numpy(rng.normal(size=(rows + 3, 6))).float()

    def fast(v: torch.Tensor) -> torch.Tensor:
        return circle_loss(normalize(v), labels, form=form)  # type: ignore[arg-type]

    def plain(v: torch.Tensor) -> torch.Tensor:
        return plain_losses.circle_loss(normalize(v), labels, form=form)

    assert fast(vectors).item() == pytest.approx(plain(vectors.double()).item(), rel=1e-5)
    theirs = gradient(plain, vectors.double()).float()
    torch.testing.assert_close(gradient(fast, vectors), theirs, rtol=1e-4, atol=1e-5)
    order = torch.from_numpy(rng.permutation(rows + 3))
    shuffled = circle_loss(normalize(vectors[order]), labels[order], form=form)  # type: ignore[arg-type]
    torch.testing.assert_close(shuffled, fast(vectors))


@pytest.mark.parametrize("labels", [[], [3], [1, 1, 1], [0, 1, 2]])
def test_circle_loss_without_a_kind_of_pair(labels: list[int]) -> None:
    vectors = torch.ones(len(labels), 4, requires_grad=True)
    loss = circle_loss(vectors, torch.tensor(labels, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad is not None
    assert not vectors.grad.any()


@pytest.mark.parametrize("shape", [(1, 3, 5), (3, 17, 10)])
def test_pooling_equals_products(shape: tuple[int, int, int]) -> None:
    """Rows, their order, and the masks they come from."""
    batch, height, width = shape
    generator = torch.Generator().manual_seed(1)
    keep = keep_masks(draws=4, images=batch, height=height, width=width, generator=generator)
    _, labels, _ = inputs(shape, known=4)
    features = torch.randn(batch, 6, height, width, generator=generator)
    ours = pool_by_class(features, labels, keep, 5)
    for mine, theirs in zip(ours, plain_losses.pool_by_class(features, labels, keep, 5), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    nothing = pool_by_class(features, torch.full_like(labels, 255), keep, 5)
    assert [tuple(part.shape) for part in nothing] == [(0, 6), (0,), (0,)]


def test_kept_share_and_repeatability() -> None:
    """An inner cell survives with (1 - 0.3 / 9)^9 = 0.737."""
    sizes = {"draws": 20, "images": 3, "height": 50, "width": 40}
    keep = keep_masks(**sizes, generator=torch.Generator().manual_seed(3))
    assert keep[..., 1:-1, 1:-1].float().mean().item() == pytest.approx((1 - 0.3 / 9) ** 9, abs=0.01)
    assert torch.equal(keep, keep_masks(**sizes, generator=torch.Generator().manual_seed(3)))


@settings(max_examples=40, deadline=None)
@given(BINARY, st.sampled_from([1, 3, 5]), st.integers(1, 6), st.sampled_from([4, 8]))
def test_regions_equal_flooding(binary: np.ndarray, size: int, least: int, connectivity: int) -> None:
    closed = closing(binary, size)
    assert np.array_equal(closed, plain_regions.closing(binary, size))
    assert (closed >= binary).all()
    regions = find_regions(closed, min_area=least, connectivity=connectivity)
    components = plain_regions.components(closed, least, connectivity)
    numbers = [int(regions.labels[cells[0]]) for cells in components]
    assert sorted(numbers) == list(range(1, regions.count + 1))
    assert (regions.labels > 0).sum() == sum(map(len, components))
    for number, cells in zip(numbers, components, strict=True):
        ys, xs = np.array(cells).T
        assert (regions.labels[ys, xs] == number).all()
        assert regions.areas[number - 1] == len(cells)
        assert regions.boxes[number - 1].tolist() == [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]
    every = find_regions(closed, min_area=1, connectivity=connectivity)
    kept = plain_regions.without_small(every.labels, least)
    assert np.array_equal(kept > 0, regions.labels > 0)


@settings(max_examples=20, deadline=None)
@given(arrays(np.uint8, (20, 31), elements=st.integers(0, 1)))
def test_seeds_drop_blocks(seeds: np.ndarray) -> None:
    keep = keep_from_seeds(torch.from_numpy(seeds.astype(bool))[None, None], 3)
    assert np.array_equal(keep[0, 0].numpy(), plain_losses.keep_from_seeds(seeds.astype(bool), 3))


def test_even_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        closing(np.zeros((3, 3), dtype=np.uint8), 4)
    with pytest.raises(ValueError, match="odd"):
        keep_from_seeds(torch.zeros(3, 3, dtype=torch.bool), 2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 9), (32, 17)])
def test_round_trip_equals_two_resizes(shape: tuple[int, int]) -> None:
    maps = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(quarter_round_trip(maps), plain_regions.quarter_round_trip(maps))
    torch.testing.assert_close(quarter_round_trip(maps[0, 0]), quarter_round_trip(maps)[0, 0])


@pytest.mark.parametrize("count", [0, 1, 9, 300])
def test_region_means_equal_masks(count: int) -> None:
    """More regions than one product takes, and numbers that no cell has."""
    rng = np.random.default_rng(count)
    labels = rng.integers(0, count + 1, size=(31, 18)).astype(np.int32)
    features = torch.from_numpy(rng.normal(size=(7, 31, 18))).float()
    ours = region_means(features, labels, count)
    torch.testing.assert_close(
        ours, plain_regions.region_means(features, labels, count), rtol=1e-5, atol=1e-6
    )
    assert torch.equal(ours, region_means(features, torch.from_numpy(labels), count))
    if count == 9:
        torch.testing.assert_close(masked_mean(features, torch.from_numpy(labels == 4)), ours[3])
    assert masked_mean(features, torch.zeros(31, 18, dtype=torch.bool)) is None


@pytest.mark.parametrize("strict", [False, True])
def test_matching_equals_loops(strict: bool) -> None:
    rng = np.random.default_rng(4)
    embeddings, prototypes = rng.normal(size=(30, 5)), rng.normal(size=(4, 5)) / 3
    tensors = torch.from_numpy(embeddings).float(), torch.from_numpy(prototypes).float()
    for threshold in (-1.0, 0.3, 0.8):
        _, choice = match_regions(*tensors, threshold, strict=strict)
        assert choice.tolist() == plain_regions.match(embeddings, prototypes, threshold, strict)
    cosines, _ = match_regions(*tensors, 0.5)
    wider = torch.cat([tensors[1], torch.randn(1, 5)])
    torch.testing.assert_close(match_regions(tensors[0], wider, 0.5)[0][:, :4], cosines)


def test_ties_and_thresholds_of_matching() -> None:
    """The first listed of equal ones; >= against >; above 1 nothing matches; no prototype, no region."""
    unit = torch.tensor([[1.0, 0.0]])
    twice = torch.tensor([[0.0, 1.0], [0.5, 0.0], [2.0, 0.0]])
    assert match_regions(unit, twice, 1.0)[1].tolist() == [1]
    assert match_regions(unit, twice, 1.0, strict=True)[1].tolist() == [-1]
    vectors = torch.randn(50, 128)
    assert match_regions(vectors, vectors, 1 + 1e-6)[1].tolist() == [-1] * 50
    assert match_regions(unit, twice[:0], -2.0)[1].tolist() == [-1]
    assert match_regions(unit[:0], twice, -2.0)[1].tolist() == []


@pytest.mark.parametrize("size", [(40, 28), (41, 30), (10, 7), (13, 5), (5, 3)])
def test_painting_equals_pixels(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, size=(10, 7)).astype(np.int32)
    prediction = rng.integers(0, 12, size=size).astype(np.uint8)
    painted = paint_regions(prediction, labels, np.array([13, -1, 254, 0]))
    assert painted.dtype == np.uint8
    assert np.array_equal(painted, plain_regions.paint(prediction, labels, [13, -1, 254, 0]))
    assert np.array_equal(paint_regions(prediction, labels, np.full(4, -1)), prediction)
    empty = paint_regions(prediction, np.zeros((10, 7), dtype=np.int32), np.zeros(0, dtype=np.int64))
    assert np.array_equal(empty, prediction)


def test_union_equals_the_printed_formula() -> None:
    rng = np.random.default_rng(0)
    channels = rng.choice([0.2, 0.5, 0.7], p=[0.8, 0.1, 0.1], size=(5, 9, 11)).astype(np.float32)
    for selected in (np.zeros(5, bool), np.ones(5, bool), rng.random(5) > 0.5):
        ours = union_of_channels(torch.from_numpy(channels), torch.from_numpy(selected))
        assert np.array_equal(ours, plain_regions.union_of_channels(channels, selected))
    assert not union_of_channels(torch.ones(5, 9, 11), torch.zeros(5, dtype=torch.bool)).any()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40))
def test_anomaly_metrics_equal_loops(rows: list[tuple[int, bool]]) -> None:
    """With many equal scores, and without one kind of pixel."""
    scores = np.array([score for score, _ in rows]) / 8
    flags = np.array([flag for _, flag in rows])
    ours = anomaly_scores(scores, flags)
    json.dumps(ours, allow_nan=False)
    if flags.all():
        assert ours == {"auroc": None, "aupr": 1.0, "fpr95": None, "fpr95_nearest": None}
        return
    assert ours == pytest.approx(plain_losses.anomaly_scores(scores, flags), abs=1e-12)
    tally = AnomalyTally(bins=64)
    tally.add(scores, flags)  # eighths fall into bins of their own
    assert tally.pooled() == pytest.approx(ours, abs=1e-12)


def test_anomaly_metrics_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    flags = rng.random((50, 60)) < 0.1
    scores = (rng.normal(size=flags.shape) + flags).round(1)
    ours = anomaly_scores(scores, flags)
    assert ours["auroc"] == pytest.approx(roc_auc_score(flags.ravel(), scores.ravel()), abs=1e-12)
    assert ours["aupr"] == pytest.approx(average_precision_score(flags.ravel(), scores.ravel()), abs=1e-12)
    assert anomaly_scores(scores * 3 - 8, flags) == pytest.approx(ours)
    with pytest.raises(ValueError, match="NaN"):
        anomaly_scores(np.full((2, 2), np.nan), np.ones((2, 2), dtype=bool))


def test_tally_skips_images_without_anomaly() -> None:
    """Order of images, void pixels, and what an empty tally says."""
    rng = np.random.default_rng(1)
    data = [(rng.random((6, 7)).astype(np.float32), rng.random((6, 7)) < share) for share in (0.3, 0, 0.5)]
    forward, backward = AnomalyTally(), AnomalyTally()
    for scores, flags in data:
        valid = rng.random((6, 7)) < 0.8
        forward.add(scores, flags, valid=valid)
        backward.add(scores[valid], flags[valid])
    result = forward.result()
    assert (result["images"], result["images_without_anomaly"]) == (3, 1)
    assert result == backward.result()
    turned = AnomalyTally()
    for scores, flags in reversed(data):
        turned.add(scores, flags)
    pooled = anomaly_scores(*(np.concatenate(part) for part in zip(*data, strict=True)))
    assert turned.pooled() == pytest.approx(pooled)
    json.dumps(AnomalyTally().result(), allow_nan=False)
    json.dumps(AnomalyTally(bins=10).result(), allow_nan=False)


def test_softmax_scores() -> None:
    logits = torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(0)) * 20
    expected = 1 - logits.double().softmax(dim=0).amax(dim=0)
    torch.testing.assert_close(anomaly.max_softmax(logits).double(), expected, rtol=1e-4, atol=1e-15)
    assert torch.equal(anomaly.max_logit(logits), -logits.amax(dim=0))
    features = logits / 20
    torch.testing.assert_close(
        anomaly.embedding_logits(features), plain_losses.embedding_logits(features), rtol=1e-5, atol=1e-4
    )
    torch.testing.assert_close(
        anomaly.mmsp(features), anomaly.max_softmax(anomaly.embedding_logits(features))
    )
    sums = -plain_losses.embedding_logits(features).sum(dim=0)
    torch.testing.assert_close(anomaly.distance_sum(features), sums, rtol=1e-5, atol=1e-4)


def test_distance_sum_score() -> None:
    """Low sums are anomalous; the cut bounds the scale; a flat image has no anomaly."""
    features = torch.tensor([[1.5, 3, 0, 300], [1.5, 0, 3, 300]])[:, None]
    score = anomaly.euclidean_distance_sum(features, clip=1000.0)[0]
    assert 1 == score[0] > score[1] == score[2] > 0.9
    assert score[3] == 0
    assert not anomaly.euclidean_distance_sum(torch.zeros(2, 3, 3)).any()


def test_uncertain_regions_and_their_map() -> None:
    """Two halves and a small square: edges belong to the nearest half, the square to none (P = 1)."""
    image = np.full((60, 80, 3), 40, dtype=np.uint8)
    image[:, 40:] = 200
    image[10:19, 60:69] = 90
    logits = torch.full((3, 60, 80), -2.0)
    logits[0, :, :40], logits[1, :, 40:] = 8.0, 8.0
    logits[:, 50, 5] = 0  # one uncertain pixel: 1 - 1/3 < 0.7, so not at the default
    proposals = anomaly.urs_regions(image, logits)
    assert proposals.regions.count == 2
    left, right = proposals.owner[30, 10], proposals.owner[30, 70]
    assert sorted((left, right)) == [1, 2]
    assert set(np.unique(proposals.owner)) == {0, 1, 2}
    assert proposals.owner[14, 64] == 0
    assert (proposals.owner[:, :39] == left).all()
    assert (proposals.owner[25:, 41:] == right).all()
    similarities = torch.zeros(2)
    similarities[left - 1], similarities[right - 1] = 0.9, 0.2
    map_ = anomaly.raml_anomaly_map(logits, proposals, similarities)
    assert (map_.min().item(), map_.max().item()) == (0, 1)
    assert map_[30, 70] > map_[30, 10] > map_[14, 64]
    assert map_[50, 5] == 1
    flat = anomaly.urs_regions(image[:5, :5], logits[:, :5, :5])
    assert flat.regions.count == 0
    assert not anomaly.raml_anomaly_map(logits[:, :5, :5], flat, torch.zeros(0)).any()
