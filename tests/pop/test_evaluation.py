"""Means of both families beyond the golden case (pop.md 4.1)."""

from __future__ import annotations

import numpy as np
import pytest

from anyshot.ops.metrics import Confusion
from anyshot.pop.evaluation import PROTOCOLS, both_families, family_means


def test_classes_without_a_pixel_are_left_out() -> None:
    iou = np.array([0.9, np.nan, 0.5, np.nan, 0.2])
    found = family_means(iou, base=2, novel=2, family="pop")
    expected = {"all": 1.6 / 3, "base": 0.7, "novel": 0.2, "harmonic": 0.28 / 0.9}
    assert found == pytest.approx(expected)
    found = family_means(iou, base=2, novel=2, family="diam")
    assert found == pytest.approx({"all": 0.35, "base": 0.5, "novel": 0.2, "harmonic": 0.2 / 0.7})


def test_no_novel_class() -> None:
    found = family_means(np.array([0.9, 0.5]), base=1, novel=0, family="pop")
    assert (found["all"], found["base"]) == pytest.approx((0.7, 0.7))
    assert np.isnan([found["novel"], found["harmonic"]]).all()


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="has 4 classes; 2 base, 2 novel and background are 5"):
        both_families(Confusion(4), base=2, novel=2)


def test_families_are_described() -> None:
    assert set(both_families(Confusion(3), base=1, novel=1)) == set(PROTOCOLS)
    assert "background and base classes" in PROTOCOLS["pop"]
    assert "without background" in PROTOCOLS["diam"]
