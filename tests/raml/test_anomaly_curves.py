"""Curves of anomaly scores against values by hand, and against the metrics they belong to."""

from __future__ import annotations

import numpy as np
import pytest

from anyshot.ops.anomaly_metrics import AnomalyTally


def tally_of(scores: list[float], flags: list[int], **options: int) -> AnomalyTally:
    tally = AnomalyTally(**options)
    tally.add(np.array([scores]), np.array([flags], dtype=bool))
    return tally


def test_curves_by_hand() -> None:
    """G9 (a): the tie of an anomalous and a normal pixel at 0.8 is one slanted piece of the ROC."""
    scores = [0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    tally = tally_of(scores, [1, 1, 0, 1, 0, 0, 1, 0, 0, 0])
    curves = tally.curves()
    roc, precision_recall = curves["roc"], curves["precision_recall"]
    assert roc is not None
    assert precision_recall is not None
    corners = list(zip(roc["fpr"], roc["tpr"], strict=True))
    sixth = [round(number / 6, 6) for number in range(7)]
    expected = [
        (0.0, 0.0), (0.0, 0.25), (sixth[1], 0.5), (sixth[1], 0.75), (sixth[3], 0.75), (sixth[3], 1.0),
        (1.0, 1.0),
    ]  # fmt: skip
    assert corners == expected
    assert precision_recall["recall"] == [0.25, 0.5, 0.75, 1.0]
    assert precision_recall["precision"] == pytest.approx([1, 2 / 3, 3 / 4, 4 / 7], abs=1e-6)
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(0.8125, abs=1e-6)
    assert np.sum(np.diff([0, *precision_recall["recall"]]) * precision_recall["precision"]) == pytest.approx(
        0.7470238, abs=1e-6
    )


@pytest.mark.parametrize("bins", [None, 4000])
def test_thinned_curves_follow_the_metrics(bins: int | None) -> None:
    rng = np.random.default_rng(0)
    flags = rng.random(20000) < 0.1
    scores = np.clip(rng.normal(0.4 + 0.15 * flags, 0.12), 0, 1)
    tally = AnomalyTally(bins=bins)
    tally.add(scores[None], flags[None])
    pooled, curves = tally.pooled(), tally.curves(points=100)
    roc, precision_recall = curves["roc"], curves["precision_recall"]
    assert roc is not None
    assert precision_recall is not None
    assert 90 <= len(roc["fpr"]) <= 101
    assert 90 <= len(precision_recall["recall"]) <= 101
    for rising in (roc["fpr"], roc["tpr"], precision_recall["recall"]):
        assert (np.diff(rising) >= 0).all()
        assert rising[-1] == 1
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(pooled["auroc"], abs=2e-3)
    area = np.sum(np.diff([0, *precision_recall["recall"]]) * precision_recall["precision"])
    assert area == pytest.approx(pooled["aupr"], abs=1e-2)
    assert tally.result()["curves"] == tally.curves()
    assert tally.result()["pooled"] == pooled


def test_undefined_curves_are_none() -> None:
    assert AnomalyTally().curves() == {"roc": None, "precision_recall": None}
    assert tally_of([0.1, 0.2], [0, 0]).curves() == {"roc": None, "precision_recall": None}
    only = tally_of([0.1, 0.2], [1, 1]).curves()
    assert only["roc"] is None
    assert only["precision_recall"] == {"recall": [0.5, 1.0], "precision": [1.0, 1.0]}
    with pytest.raises(ValueError, match="at least 2"):
        tally_of([0.1], [1]).curves(points=1)
