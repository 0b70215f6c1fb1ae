"""From scores to label maps and numbers: ties, thresholds, sweeps, the published table."""

import json

import numpy as np
import pytest

from anyshot.data.classes import ClassTable
from anyshot.engine.stores import ScoreMap
from anyshot.errors import DataError
from anyshot.ops.metrics import Roles, ThresholdSweep
from anyshot.retab.evaluation import (
    Tally,
    best_foreground,
    full_scores,
    label_map,
    measured,
    plain,
    sweep_result,
    thresholds_of,
)
from anyshot.retab.options import ScoreMaps
from anyshot.retab.reference import reference
from tests.reference import metrics
from tests.reference import resample as plain_resample

TABLE = ClassTable.of(("background", "cat", "car", "boat"), ids=(0, 7, 30, 12))


def scores_of(values: list[list[float]], classes: list[int]) -> ScoreMap:
    """Scores of one row of pixels, one list per class."""
    array = np.array(values, dtype=np.float32)[:, None, :].reshape(len(values), 1, -1)
    return ScoreMap(
        classes=np.array(classes, dtype=np.uint16), scores=array, height=1, width=array.shape[2], stride=1
    )


def test_labels_are_the_datas_ids_and_ties_go_to_the_first_channel() -> None:
    """retab.md 2.9: argmax, the lowest class on ties; background comes first."""
    walk = scores_of([[0.5, 0.2, 0.1, 0.3], [0.5, 0.7, 0.4, 0.1], [0.1, 0.7, 0.6, 0.2]], [0, 7, 30])
    labels = label_map(walk, background=0)
    assert labels.tolist() == [[0, 7, 30, 0]]
    assert labels.dtype == np.uint8


def test_constant_background() -> None:
    """`const_bg`: the background score is the threshold, ties go to background; the scores stay."""
    walk = scores_of([[0.9, 0.9, 0.9], [0.25, 0.3, 0.1], [0.1, 0.1, 0.26]], [0, 7, 30])
    before = walk.scores.copy()
    assert label_map(walk, background=0, threshold=0.25).tolist() == [[0, 7, 30]]
    assert label_map(walk, background=0, threshold=0.3).tolist() == [[0, 0, 0]]
    assert (walk.scores == before).all()


def test_golden_case_through_label_maps() -> None:
    """G10: the sweep's predictions, as label maps."""
    scores = [[0.0] * 4, [0.05, 0.2, 0, 0], [0, 0, 0.2, 0.6]]
    walk = scores_of(scores, [0, 1, 2])
    expected = {0.0: [1, 1, 2, 2], 0.1: [0, 1, 2, 2], 0.2: [0, 0, 0, 2], 0.3: [0, 0, 0, 2]}
    for t, labels in expected.items():
        assert label_map(walk, background=0, threshold=t).tolist() == [labels]


def test_wide_ids_give_wide_labels() -> None:
    labels = label_map(scores_of([[0.1, 0.9], [0.8, 0.2]], [0, 847]), background=0)
    assert labels.dtype == np.uint16
    assert labels.tolist() == [[847, 0]]


def test_image_without_labels_is_background() -> None:
    """P20."""
    none = ScoreMap(
        classes=np.zeros(0, dtype=np.uint16),
        scores=np.zeros((0, 2, 3), dtype=np.float32),
        height=2,
        width=3,
        stride=1,
    )
    assert label_map(none, background=7).tolist() == [[7] * 3] * 2
    best, score = best_foreground(none, TABLE)
    assert (score == -1).all()
    assert (best > 0).all()
    only_background = scores_of([[0.4, 0.6]], [0])
    assert (best_foreground(only_background, TABLE)[1] == -1).all()


def test_best_foreground_is_in_indices() -> None:
    """Classes become positions in the table, the background channel is dropped."""
    best, score = best_foreground(scores_of([[0.9, 0.9], [0.5, 0.1], [0.5, 0.3]], [0, 30, 12]), TABLE)
    assert best.tolist() == [[2, 3]]
    assert best.dtype == np.uint8
    assert score.tolist() == [[0.5, pytest.approx(0.3)]]
    cam = scores_of([[0.2, 0.6]], [12])
    assert best_foreground(cam, TABLE)[0].tolist() == [[3, 3]]


def test_scores_on_the_grid_are_upsampled() -> None:
    """A stored stride-8 grid is scored at the image's size, as the published full-size maps."""
    grid = np.random.default_rng(0).random((2, 3, 4), dtype=np.float32)
    stored = ScoreMap(classes=np.array([0, 7], dtype=np.uint16), scores=grid, height=21, width=27, stride=8)
    full = plain_resample.upsample(grid, 8, 21, 27)
    assert full_scores(stored) == pytest.approx(full, abs=1e-6)
    different = full[1] - full[0]
    labels = label_map(stored, background=0)
    assert ((labels == 7) == (different > 0))[np.abs(different) > 1e-5].all()


def test_thresholds() -> None:
    """retab.md 3.1: 0, .01, ..., .59 for CAMs and 0, .01, ..., .41 for walks."""
    options = ScoreMaps()
    cam, walk = thresholds_of(options.cam_sweep), thresholds_of(options.walk_sweep)
    assert (len(cam), len(walk)) == (60, 42)
    assert cam == pytest.approx(np.arange(60) / 100)
    assert walk[-1] == pytest.approx(0.41)


ROLES = Roles(base=[0, 1], novel=[2, 3])
STEPS = np.array([0, 0.1, 0.2, 0.3])


def swept(truth: list[int], best: list[int], score: list[float]) -> ThresholdSweep:
    sweep = ThresholdSweep(4, STEPS)
    sweep.add(np.array([truth]), np.array([best]), np.array([score], dtype=np.float32))
    return sweep


def test_sweep_result() -> None:
    truth, best, score = [0, 1, 2, 3, 255], [1, 1, 2, 3, 1], [0.15, 0.4, 0.25, 0.22, 0.9]
    result = sweep_result(swept(truth, best, score), TABLE, ROLES)
    assert result["threshold"] == pytest.approx(0.2)
    assert result["best"]["all"] == 1
    assert result["best_novel_threshold"] == 0
    assert not result["at_sweep_edge"]
    assert [row["name"] for row in result["best"]["classes"]] == list(TABLE.names)
    expected = metrics.sweep(
        [(np.array([truth]), np.array([best]), np.array([score], dtype=np.float32))], 4, STEPS
    )
    assert result["sweep"]["all"] == pytest.approx([np.mean(row) for row in expected])  # type: ignore[arg-type]
    json.dumps(result, allow_nan=False)


def test_best_threshold_at_the_edge() -> None:
    """P8: the first or last threshold may be the best one; it is reported with a warning."""
    result = sweep_result(swept([1, 2], [1, 2], [0.05, 0.05]), TABLE, ROLES)
    assert result["threshold"] == 0
    assert result["at_sweep_edge"]


def test_split_whose_novel_classes_never_occur() -> None:
    result = sweep_result(swept([0, 1], [1, 1], [0.05, 0.9]), TABLE, ROLES)
    assert result["best_novel_threshold"] is None
    assert result["best"]["novel"] is None
    assert result["best"]["harmonic"] is None
    json.dumps(result, allow_nan=False)
    with pytest.raises(DataError, match="no pixel"):
        sweep_result(ThresholdSweep(4, STEPS), TABLE, ROLES)


def test_tally_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    whole = Tally(4, STEPS)
    merged = Tally(4, STEPS)
    for k in range(4):
        truth = rng.choice([0, 1, 2, 3, 255], size=(5, 6)).astype(np.uint8)
        prediction = rng.integers(0, 4, size=(5, 6)).astype(np.uint8)
        score = rng.random((5, 6), dtype=np.float32)
        part = Tally(4, STEPS)
        for tally in (whole, part):
            tally.add_labels(str(k), truth, prediction)
            assert tally.sweep is not None
            tally.sweep.add(truth, np.maximum(prediction, 1), score)
        merged.merge(part)
    assert (merged.labels.matrix == whole.labels.matrix).all()
    assert merged.images == whole.images
    assert merged.sweep is not None
    assert whole.sweep is not None
    assert (merged.sweep.iou() == whole.sweep.iou()).all()
    rows = measured(whole.labels.iou(), whole.labels.truth_pixels, TABLE, ROLES)
    assert rows["all"] == pytest.approx(np.mean([row["iou"] for row in rows["classes"]]))
    assert plain({"a": float("nan"), "b": 0.5}) == {"a": None, "b": 0.5}


@pytest.mark.parametrize("fold", ["fold0", "fold1", "fold2", "fold3"])
def test_published_table_is_consistent(fold: str) -> None:
    """retab.md 3.2: every row fulfils all = (16 base + 5 novel) / 21 up to rounding to one decimal."""
    for row in (reference(fold)["cam"], reference(fold)["retab_walk"]):
        assert row["all"] == pytest.approx((16 * row["base"] + 5 * row["novel"]) / 21, abs=1.2e-3)
    assert reference("first") == {}


def test_mean_of_the_published_table() -> None:
    folds = [reference(f"fold{k}") for k in range(4)]
    for variant, mean in (("cam", (48.0, 48.5, 46.6)), ("retab_walk", (70.9, 72.0, 67.6))):
        for key, value in zip(("all", "base", "novel"), mean, strict=True):
            assert 100 * np.mean([fold[variant][key] for fold in folds]) == pytest.approx(value, abs=0.051)
