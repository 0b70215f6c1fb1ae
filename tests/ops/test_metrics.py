"""The confusion matrix, the means and the sweep: golden case G10, scikit-learn, the plain versions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from anyshot.ops.metrics import (
    Confusion,
    Roles,
    ThresholdSweep,
    class_rows,
    confusion_counts,
    harmonic_mean,
    image_mean_iou,
    intersection_over_union,
    means,
)
from tests.reference import metrics as reference

TRUTH = np.array([[0, 0, 1, 255], [0, 2, 1, 1]], dtype=np.uint8)
PREDICTION = np.array([[0, 1, 1, 1], [0, 0, 1, 2]], dtype=np.uint8)


def test_golden_case() -> None:
    """G10: (P, T, TP), IoU and their mean."""
    confusion = Confusion(3)
    confusion.add(TRUTH, PREDICTION)
    assert confusion.predicted_pixels.tolist() == [3, 3, 1]
    assert confusion.truth_pixels.tolist() == [3, 3, 1]
    assert confusion.true_positives.tolist() == [2, 2, 0]
    assert confusion.iou().tolist() == [0.5, 0.5, 0]
    assert confusion.iou().mean() == pytest.approx(0.3333, abs=5e-5)
    assert confusion.matrix.dtype == np.int64
    assert reference.confusion(TRUTH, PREDICTION, 3).tolist() == confusion.matrix.tolist()


@pytest.mark.parametrize(
    ("t", "expected"),
    [(0, [1, 1, 2, 2]), (0.1, [0, 1, 2, 2]), (0.2, [0, 0, 0, 2]), (0.3, [0, 0, 0, 2])],
)
def test_sweep_of_the_golden_case(t: float, expected: list[int]) -> None:
    """G10: a score equal to the threshold is background."""
    score = np.array([[0.05, 0.2, 0.2, 0.6]], dtype=np.float32)
    best = np.array([[1, 1, 2, 2]])
    # each pixel's own class as truth, once per class, reads the prediction off the counts
    for c in range(3):
        sweep = ThresholdSweep(3, np.array([t]))
        sweep.add(np.full((1, 4), c), best, score)
        share = np.nan_to_num(sweep.iou()[0, c])
        assert share == pytest.approx(expected.count(c) / 4)


@pytest.mark.parametrize("seed", range(4))
def test_iou_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes = 6
    confusion = Confusion(classes)
    truths, predictions = [], []
    for _ in range(3):
        truth = rng.choice([0, 1, 2, 3, 4, 255], size=(17, 23)).astype(np.uint8)
        prediction = np.where(rng.random(truth.shape) < 0.5, truth % 250, rng.integers(0, 5, truth.shape))
        confusion.add(truth, prediction.astype(np.uint8))
        truths.append(truth[truth < 255])
        predictions.append(prediction[truth < 255])
    expected = jaccard_score(
        np.concatenate(truths),
        np.concatenate(predictions),
        labels=range(classes),
        average=None,
        zero_division=0,
    )
    iou = confusion.iou()
    assert np.isnan(iou[5])  # neither in truth nor predicted: no IoU, where scikit-learn says 0
    assert iou[:5] == pytest.approx(expected[:5], abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    classes=st.integers(1, 255),
    kind=st.sampled_from([np.uint8, np.uint16, np.int64]),
)
def test_counts_equal_loops(seed: int, classes: int, kind: type) -> None:
    """Also odd predictions (void, or no class at all), which must count against the truth's class."""
    rng = np.random.default_rng(seed)
    values = [0, classes - 1, classes, 254, 255] + ([-1, 1000] if kind is np.int64 else [])
    truth, prediction = rng.choice(values, size=(2, 6, 7)).astype(kind)
    counts = confusion_counts(truth, prediction, classes)
    assert counts.dtype == np.int64
    assert counts.tolist() == reference.confusion(truth, prediction, classes).tolist()
    mixed = confusion_counts(truth, prediction.astype(np.int64), classes)
    assert mixed.tolist() == counts.tolist()


def test_prediction_outside_the_classes_is_no_hit() -> None:
    confusion = Confusion(2)
    confusion.add(np.array([[0, 0, 1, 255]], dtype=np.uint8), np.array([[0, 9, 1, 1]], dtype=np.uint8))
    assert confusion.iou().tolist() == [0.5, 1]
    assert confusion.truth_pixels.tolist() == [2, 1]
    assert confusion.predicted_pixels.tolist() == [1, 1]


def test_counts_are_beyond_32_bits() -> None:
    """P18: trainaug has 1.31e9 background pixels, the published counters overflow at 2.1e9."""
    matrix = np.zeros((3, 3), dtype=np.int64)
    matrix[0, 0] = 5_000_000_000
    confusion = Confusion(2, matrix)
    confusion.add(np.zeros((2, 2), dtype=np.uint8), np.ones((2, 2), dtype=np.uint8))
    assert confusion.truth_pixels[0] == 5_000_000_004
    assert confusion.iou()[0] == pytest.approx(1, abs=1e-9)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        Confusion(2).add(np.zeros((2, 3)), np.zeros((3, 2)))


def test_means_and_harmonic() -> None:
    iou = np.array([0.9, 0.6, np.nan, 0.3, 0.1])
    result = means(iou, Roles(base=[0, 1, 2], novel=[3, 4]))
    assert result == pytest.approx(
        {"all": 1.9 / 4, "base": 0.75, "novel": 0.2, "harmonic": 2 * 0.75 * 0.2 / 0.95}
    )
    nothing = means(np.array([0.5, np.nan]), Roles(base=[0], novel=[1]))
    assert np.isnan(nothing["novel"])
    assert np.isnan(nothing["harmonic"])
    assert harmonic_mean(0, 0) == 0


@pytest.mark.parametrize(
    ("base", "novel", "printed"),
    [
        (74.0, 62.5, 71.26),
        (71.2, 71.6, 71.30),
        (70.2, 73.3, 70.94),
        (72.4, 62.8, 70.11),
        (51.4, 37.4, 48.07),
        (47.8, 48.8, 48.04),
        (47.2, 50.7, 48.03),
        (47.6, 49.4, 48.03),
    ],
)
def test_readme_identity(base: float, novel: float, printed: float) -> None:
    """G10: all = (16 base + 5 novel) / 21 for every row of the published table."""
    iou = np.array([base] * 16 + [novel] * 5)
    result = means(iou, Roles(base=range(16), novel=range(16, 21)))
    assert result["all"] == pytest.approx(printed, abs=5e-3)
    assert result["all"] == pytest.approx((16 * base + 5 * novel) / 21)


def test_image_mean_iou() -> None:
    """Only classes in the truth count; an image that is all void has no score."""
    assert image_mean_iou(confusion_counts(TRUTH, PREDICTION, 3)) == pytest.approx(1 / 3)
    assert image_mean_iou(confusion_counts(TRUTH, PREDICTION, 9)) == pytest.approx(1 / 3)
    assert np.isnan(image_mean_iou(confusion_counts(np.full((2, 2), 255), np.zeros((2, 2), int), 3)))


def test_class_rows() -> None:
    rows = class_rows(
        np.array([0.5, np.nan, 0.25]),
        np.array([7, 0, 3]),
        [(0, "background"), (4, "boat"), (9, "chair")],
        Roles(base=[0], novel=[2]),
    )
    assert rows == [
        {"id": 0, "name": "background", "role": "base", "iou": 0.5, "pixels": 7},
        {"id": 4, "name": "boat", "role": "ignore", "iou": None, "pixels": 0},
        {"id": 9, "name": "chair", "role": "novel", "iou": 0.25, "pixels": 3},
    ]


def test_iou_of_an_empty_union_is_undefined() -> None:
    zero = np.zeros(1, dtype=np.int64)
    assert np.isnan(intersection_over_union(zero, zero, zero)).all()


THRESHOLDS = 0.01 * np.arange(42)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6), images=st.integers(1, 3))
def test_sweep_equals_reading_again(seed: int, classes: int, images: int) -> None:
    """Every threshold exactly, with ties (scores on the thresholds), void pixels and absent classes."""
    rng = np.random.default_rng(seed)
    kinds = np.array([*range(classes), 255])
    scored: list[reference.Scored] = []
    for _ in range(images):
        shape = (int(rng.integers(1, 9)), int(rng.integers(1, 9)))
        on_grid = rng.choice(THRESHOLDS, size=shape)
        score = np.where(rng.random(shape) < 0.5, on_grid, rng.random(shape)).astype(np.float32)
        score[rng.random(shape) < 0.1] = -1  # what an image without foreground classes gets
        best = rng.integers(1, classes, size=shape).astype(np.uint8)
        scored.append((rng.choice(kinds, size=shape).astype(np.uint8), best, score))
    sweep, parts = ThresholdSweep(classes, THRESHOLDS), ThresholdSweep(classes, THRESHOLDS)
    for item in scored:
        sweep.add(*item)
        part = ThresholdSweep(classes, THRESHOLDS)
        part.add(*item)
        parts.merge(part)
    expected = np.array(reference.sweep(scored, classes, THRESHOLDS), dtype=np.float64)
    assert sweep.iou() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert (parts.iou() == sweep.iou())[~np.isnan(expected)].all()
    truths = np.concatenate([truth.ravel() for truth, _, _ in scored])
    assert sweep.truth_pixels().tolist() == [int((truths == c).sum()) for c in range(classes)]


def test_sweep_table() -> None:
    roles = Roles(base=[0, 1], novel=[2])
    sweep = ThresholdSweep(3, np.array([0, 0.1, 0.2, 0.3]))
    sweep.add(np.array([[0, 1, 2, 2]]), np.array([[1, 1, 2, 2]]), np.array([[0.05, 0.2, 0.2, 0.6]]))
    table = sweep.table(roles)
    assert table["thresholds"] == [0, 0.1, 0.2, 0.3]
    assert table["all"] == pytest.approx([(0 + 0.5 + 1) / 3, 1, (1 / 3 + 0 + 0.5) / 3, (1 / 3 + 0 + 0.5) / 3])
    assert table["base"][1] == table["novel"][1] == table["harmonic"][1] == 1
