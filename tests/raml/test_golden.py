"""The golden cases G2 to G11 of raml.md 7.2, for the fast and the plain versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from anyshot.ops import metrics
from anyshot.ops.anomaly import distance_sum, embedding_logits, mmsp, novel_prototype_assign
from anyshot.ops.anomaly_metrics import AnomalyTally, anomaly_scores
from anyshot.ops.circle_loss import circle_loss
from anyshot.ops.drop_block import keep_from_seeds, pool_by_class
from anyshot.ops.regions import (
    closing,
    find_regions,
    masked_mean,
    match_regions,
    paint_regions,
    quarter_round_trip,
    region_means,
    select_channels,
    union_of_channels,
)
from anyshot.raml.meta_losses import inter_loss, known_loss, reconstruction_loss, split_loss
from tests.reference import raml_losses, raml_regions

# G2
UNIT = [[1, 0], [0.6, 0.8], [0, 1], [-0.8, 0.6], [0.8, -0.6]]
UNIT_LABELS = torch.tensor([0, 0, 1, 1, 0])
BY_PAIR = {
    (0, 1): -0.006256,
    (0, 4): -0.001658,
    (1, 4): -9.971280,
    (2, 3): -0.006256,
    (0, 2): 0.011476,
    (1, 2): 8.065168,
    (1, 3): 0.011476,
}


@pytest.mark.parametrize(("form", "expected"), [("official", 12.1635481434), ("paper", 8.4215134687)])
def test_circle_loss(form: str, expected: float) -> None:
    """G2."""
    embeddings = torch.tensor(UNIT, dtype=torch.float32)
    loss = circle_loss(embeddings, UNIT_LABELS, form=form)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(expected, rel=2e-7)
    plain = raml_losses.circle_loss(embeddings.double(), UNIT_LABELS, form=form)
    assert plain.item() == pytest.approx(expected, rel=1e-7)


def test_gradient_of_the_circle_loss() -> None:
    """G2: d loss / d s of every pair, carried to the embeddings by s = <e_i, e_j>; pairs left out have
    slope 0."""
    embeddings = torch.tensor(UNIT, dtype=torch.float32, requires_grad=True)
    circle_loss(embeddings, UNIT_LABELS).backward()
    expected = np.zeros((5, 2))
    for (i, j), slope in BY_PAIR.items():
        expected[i] += slope * np.array(UNIT[j])
        expected[j] += slope * np.array(UNIT[i])
    np.testing.assert_allclose(embeddings.grad, expected, atol=2e-6)  # type: ignore[arg-type]


# G3: axes b, channel, pixel
CHANNELS = [
    [[0.9, 0.8, 0.1, 0.2], [0.1, 0.1, 0.7, 0.1], [0.05, 0.1, 0.1, 0.6], [0.01, 0.02, 0.01, 0.02]],
    [[0.2, 0.9, 0.9, 0.1], [0.7, 0.1, 0.05, 0.1], [0.1, 0.05, 0.1, 0.9], [0.02, 0.01, 0.02, 0.01]],
]
TARGET = [[0, 0, 1, 255], [1, 0, 0, 255]]
IMAGES = [
    [[1, -1, 2, 0], [0, 1, 0, -1], [0.5, 0.5, -0.5, -0.5]],
    [[0, 1, -1, 2], [1, 1, 0, 0], [-0.5, 0, 0.5, 1]],
]
LOGITS = [[[2, 1, 0, 0], [0, 0, 1, 0]], [[0, 1, 2, 0], [1, -1, 0, 3]]]


@pytest.mark.parametrize("shape", [(2, 2), (1, 4), (4, 1)])
def test_meta_losses(shape: tuple[int, int]) -> None:
    """G3, in any arrangement of the four pixels."""
    channels = torch.tensor(CHANNELS).reshape(2, 4, *shape)
    images = torch.tensor(IMAGES).reshape(2, 3, *shape)
    target = torch.tensor(TARGET, dtype=torch.uint8).reshape(2, *shape)
    logits = torch.tensor(LOGITS, dtype=torch.float32).reshape(2, 2, *shape)
    known, split = known_loss(channels, target, 2), split_loss(channels, 2)
    inter, rebuilt = inter_loss(channels), reconstruction_loss(channels, images)
    assert known.item() == pytest.approx(0.5177819809, rel=1e-6)
    assert split.item() == pytest.approx(0.1438410362, rel=1e-6)
    assert split_loss(channels, 2, form="fixed").item() == pytest.approx(0.1438410362, rel=1e-5)
    assert inter.item() == pytest.approx(0.5112413790, rel=1e-6)
    assert rebuilt.item() == pytest.approx(0.0050895833, rel=1e-6)
    entropy = cross_entropy(logits, target.long(), ignore_index=255) / 2
    assert entropy.item() == pytest.approx(0.1100474246, rel=1e-6)
    assert 0.1 * (known + split + inter).item() == pytest.approx(0.1172864396, rel=1e-6)
    total = entropy + 0.1 * (known + split + inter) + 0.01 * rebuilt
    assert total.item() == pytest.approx(0.2273847601, rel=1e-6)


def test_plain_meta_losses() -> None:
    """G3, with the parts of the known loss and one row of overlaps."""
    channels = torch.tensor(CHANNELS, dtype=torch.float64).reshape(2, 4, 2, 2)
    target = torch.tensor(TARGET, dtype=torch.uint8).reshape(2, 2, 2)
    parts = [(d.item(), e.item()) for d, e in raml_losses.known_parts(channels, target, 2)]
    assert parts[0] == pytest.approx((0.4002141328, 0.1495291540), abs=1e-9)
    assert parts[1] == pytest.approx((0.3243899550, 0.1614307201), abs=1e-9)
    assert raml_losses.split_loss(channels, 2).item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-9)
    assert raml_losses.inter_loss(channels).item() == pytest.approx(0.5112413790, abs=1e-9)
    rows = [raml_losses.overlap(channels[:1, 0].flatten(1), channels[:1, j].flatten(1)) for j in range(4)]
    assert [row.item() for row in rows] == pytest.approx([0.625, 0.417219, 0.435386, 0.411835], abs=5e-7)
    rebuilt = raml_losses.reconstruction_loss(channels, torch.tensor(IMAGES).double().reshape(2, 3, 2, 2))
    assert rebuilt.item() == pytest.approx(0.0050895833, abs=1e-9)


# G4
FIRST = (
    ".......... .##....... .##.##.... .##.##.... ....##.... "
    ".......... .......#.. ........#. .......... ##........"
)
SECOND = (
    ".......... .......... .......... ......##.. ......##.. "
    ".......... .......... .......... .......... .........#"
)
CLOSED = (
    "111....... 111....... 111111.... 11111111.. ....1111.. "
    ".......1.. .......1.. ........11 .........1 22.......1"
)


def picture(rows: str) -> np.ndarray:
    """Digits of a picture of rows; `#` is 1, `.` is 0."""
    digits = rows.replace("#", "1").replace(".", "0").split()
    return np.array([[int(digit) for digit in row] for row in digits], dtype=np.uint8)


def proposal() -> np.ndarray:
    channels = torch.tensor(np.stack([picture(FIRST), np.ones((10, 10)), picture(SECOND)])).float()
    return union_of_channels(channels, torch.tensor([True, False, True]))


def test_proposal() -> None:
    """G4: union, components with 8 and 4 neighbours, closings, minimum area."""
    binary = proposal()
    assert binary.dtype == np.uint8
    assert binary.sum() == 21
    assert sorted(find_regions(binary, min_area=1).areas) == [1, 2, 2, 6, 10]
    assert len(find_regions(binary, min_area=1, connectivity=4).areas) == 6
    assert sorted(map(len, raml_regions.components(binary, 1))) == [1, 2, 2, 6, 10]
    regions = find_regions(closing(binary, 3), min_area=1)
    assert regions.areas.tolist() == [30, 2]
    assert regions.labels.tolist() == picture(CLOSED).tolist()
    assert regions.boxes.tolist() == [[0, 0, 10, 10], [9, 0, 10, 2]]
    assert find_regions(closing(binary, 5), min_area=1).areas.tolist() == [46, 2]
    large = find_regions(closing(binary, 3), min_area=3)
    assert large.areas.tolist() == [30]
    assert np.array_equal(large.labels, picture(CLOSED) == 1)
    assert (large.labels.dtype, large.areas.dtype, large.boxes.dtype) == (np.int32, np.int64, np.int64)


def test_pool_match_and_fuse() -> None:
    """G5."""
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij")
    features = torch.stack([columns, rows, torch.ones(10, 10)])
    prototypes = torch.tensor([[0.6, 0.4, 0.3], [0.1, 1, 0.2]])
    regions = find_regions(closing(proposal(), 3), min_area=1)
    means = region_means(features, regions.labels, regions.count)
    torch.testing.assert_close(means, torch.tensor([[4, 3.2333333, 1], [0.5, 9, 1]]))
    expected = torch.tensor([[0.763403, 0.617084, 0.190851], [0.055132, 0.992372, 0.110264]])
    torch.testing.assert_close(normalize(means), expected, atol=1e-6, rtol=0)
    one = masked_mean(features, torch.from_numpy(regions.labels == 2))
    torch.testing.assert_close(one, means[1])
    cosines, choice = match_regions(normalize(means), prototypes, 0.8)
    wanted = torch.tensor([[0.9758079, 0.7139628], [0.5929477, 0.9953576]])
    torch.testing.assert_close(cosines, wanted, atol=1e-6, rtol=0)
    assert choice.tolist() == [0, 1]
    closed = np.zeros((40, 40), dtype=np.uint8)
    fused = paint_regions(closed, regions.labels, np.array([13, 15]))
    assert dict(zip(*np.unique(fused, return_counts=True), strict=True)) == {0: 1088, 13: 480, 15: 32}
    large = find_regions(closing(proposal(), 3), min_area=3)
    fused = paint_regions(closed, large.labels, np.array([13]))
    assert dict(zip(*np.unique(fused, return_counts=True), strict=True)) == {0: 1120, 13: 480}
    assert not closed.any()


def test_embedding_and_prototype() -> None:
    """G5: the layers Linear, ReLU, Linear, and a prototype that is not normalised again."""
    first, second = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1, -1], [0.5, 0.5], [-1, 0]]))
        first.bias.copy_(torch.tensor([0, 0.1, 0.2]))
        second.weight.copy_(torch.tensor([[1.0, 0, 1], [0, 2, -1]]))
        second.bias.copy_(torch.tensor([0.1, -0.1]))
        out = second(first(torch.tensor([[1.0, 2], [3, 0]])).relu())
    torch.testing.assert_close(out, torch.tensor([[0.1, 3.1], [3.1, 3.1]]))
    unit = normalize(out)
    torch.testing.assert_close(unit, torch.tensor([[0.0322413, 0.9994801], [0.7071068, 0.7071068]]))
    prototype = unit.mean(dim=0)
    torch.testing.assert_close(prototype, torch.tensor([0.3696740, 0.8532934]))
    assert prototype.norm().item() == pytest.approx(0.9299293, abs=1e-6)
    cosines, choice = match_regions(prototype[None], prototype[None], 0.999)
    assert (round(cosines.item(), 6), choice.tolist()) == (1.0, [0])


def test_open_world_metric() -> None:
    """G6."""
    truth = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 255, 255, 4], dtype=np.uint8)
    prediction = np.array([0, 0, 1, 1, 1, 2, 3, 3, 3, 0, 2, 3, 3], dtype=np.uint8)
    confusion = metrics.Confusion(6)
    confusion.add(truth, prediction)
    iou = confusion.iou()[[0, 1, 2, 5, 3, 4]]
    np.testing.assert_allclose(iou, [0.5, 2 / 3, 0.5, np.nan, 0.4, 0], atol=1e-7)
    means = metrics.means(confusion.iou(), metrics.Roles(base=[0, 1, 2, 5], novel=[3, 4]))
    expected = {"all": 0.4133333, "base": 0.5555556, "novel": 0.2, "harmonic": 0.2941176}
    assert means == pytest.approx(expected, abs=1e-7)
    hits, pixels = confusion.true_positives, confusion.truth_pixels
    assert (hits.sum(), pixels.sum()) == (7, 11)
    assert (hits[pixels > 0] / pixels[pixels > 0]).mean() == pytest.approx(0.5666667, abs=1e-7)
    by_rows = raml_regions.confusion_by_rows(truth[None], prediction[None], 6)
    assert np.array_equal(by_rows, confusion.matrix[:6, :6])


def test_resampling() -> None:
    """G7: the filter, and which pixels nearest / 4 and bilinear / 4 read."""
    line = torch.tensor([0.0, 1, 0, 0, 4])
    expected = torch.tensor([0.0625, 0.875, 0.0625, 0.25, 3.75])
    torch.testing.assert_close(quarter_round_trip(line.expand(3, 5)), expected.expand(3, 5))
    torch.testing.assert_close(quarter_round_trip(line[:, None]), expected[:, None])
    plain = raml_regions.quarter_round_trip(line.expand(1, 1, 3, 5))
    torch.testing.assert_close(plain, expected.expand(1, 1, 3, 5))
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    nearest = torch.nn.functional.interpolate(ramp, size=(4, 4), mode="nearest")
    assert nearest[0, 0, 0].tolist() == [0, 4, 8, 12]
    bilinear = torch.nn.functional.interpolate(ramp, size=(4, 4), mode="bilinear", align_corners=False)
    assert bilinear[0, 0, 0].tolist() == [1.5, 5.5, 9.5, 13.5]


def test_drop_block_pooling() -> None:
    """G8."""
    seeds = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    seeds[0, 0, 0, 0] = seeds[0, 0, 3, 3] = True
    keep = keep_from_seeds(seeds, 3)
    assert keep.sum() == 12
    assert np.array_equal(raml_losses.keep_from_seeds(seeds[0, 0].numpy(), 3), keep[0, 0].numpy())
    features = torch.arange(25.0).reshape(1, 1, 5, 5)
    labels = torch.tensor([[0, 0, 0, 1, 1]] * 4 + [[255] * 5], dtype=torch.uint8)[None]
    vectors, classes, images = pool_by_class(features, labels, keep, 2)
    torch.testing.assert_close(vectors, torch.tensor([[61 / 6], [6.0]]))
    assert (classes.tolist(), images.tolist()) == ([0, 1], [0, 0])
    vectors, _, _ = pool_by_class(features, labels, torch.ones_like(keep), 2)
    assert vectors.flatten().tolist() == [8.5, 11]


LAST = [1] * 18 + [0] * 3 + [1] + [0] * 5 + [1] + [0] * 2


def test_anomaly_metrics() -> None:
    """G9 (a) and (b): values and both tie rules."""
    scores = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    flags = np.array([1, 1, 0, 1, 0, 0, 1, 0, 0, 0], dtype=bool)
    expected = {"auroc": 0.8125, "aupr": 0.7470238, "fpr95": 0.5, "fpr95_nearest": 0.5}
    assert anomaly_scores(scores, flags) == pytest.approx(expected, abs=5e-8)
    assert raml_losses.anomaly_scores(scores, flags) == pytest.approx(expected, abs=5e-8)
    falling = np.arange(30.0, 0, -1)
    for values in (anomaly_scores, raml_losses.anomaly_scores):
        result = values(falling, np.array(LAST, dtype=bool))
        assert (result["fpr95"], result["fpr95_nearest"]) == pytest.approx((0.3, 0.8))


def test_anomaly_metrics_per_image_and_pooled() -> None:
    """G9 (c)."""
    tally = AnomalyTally()
    flags = np.array([[1, 0, 0, 0]], dtype=bool)
    tally.add(np.array([[0.9, 0.1, 0.2, 0.3]]), flags)
    tally.add(np.array([[0.5, 0.6, 0.05, 0.04]]), flags)
    mean, pooled = tally.per_image(), tally.pooled()
    assert (mean["auroc"], mean["aupr"]) == pytest.approx((0.8333333, 0.75), abs=1e-7)
    assert (pooled["auroc"], pooled["aupr"]) == pytest.approx((0.9166667, 0.8333333), abs=1e-7)


def test_dmlnet() -> None:
    """G10: logits, distance sum, softmax score, novel prototype."""
    features = torch.tensor([[2, 0.5, 0.1], [0.4, 0.3, 0.2]]).T[:, None]  # (3, 1, 2)
    expected = torch.tensor([[-1.26, -10.26, -12.66], [-6.89, -7.49, -8.09]]).T[:, None]
    torch.testing.assert_close(embedding_logits(features), expected)
    torch.testing.assert_close(raml_losses.embedding_logits(features), expected)
    torch.testing.assert_close(distance_sum(features), torch.tensor([[24.18, 22.47]]))
    torch.testing.assert_close(mmsp(features), torch.tensor([[0.000135, 0.459461]]), atol=5e-7, rtol=0)
    prototype = torch.tensor([[0.5, 0.4, 0.1]])
    for beats_known in (True, False):
        assert novel_prototype_assign(features, prototype, beats_known=beats_known).tolist() == [[-1, 0]]
    for threshold, which in [
        (-2.27, [[0, 0]]),
        (-2.25, [[-1, 0]]),
        (-0.0301, [[-1, 0]]),
        (-0.0299, [[-1, -1]]),
    ]:
        found = novel_prototype_assign(features, prototype, threshold=threshold, beats_known=False)
        assert found.tolist() == which
    # the first pixel's best known logit is -1.26: a prototype at -2.26 does not beat it
    loose = novel_prototype_assign(features, prototype, threshold=-9, beats_known=True)
    assert loose.tolist() == [[-1, 0]]


@pytest.mark.parametrize(("share", "hits", "chosen"), [(0.15, (5, 6, 7), 2), (0.1, (3, 4, 5), 2)])
def test_channel_selection(share: float, hits: tuple[int, ...], chosen: int) -> None:
    """G11: the share has to be exceeded."""
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[:4] = True
    channels = torch.full((3, 8, 10), 0.9) * ~mask
    for channel, count in zip(channels, hits, strict=True):
        channel.view(-1)[:count] = 0.5
    selected, shares = select_channels(channels, mask, share=share)
    assert selected.tolist() == [index == chosen for index in range(3)]
    assert shares.tolist() == [count / 40 for count in hits]
