"""The compactness measure: golden case G8 of larvseg.md 7.2, with both rules for absent classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anyshot.larvseg.compactness import (
    CompactnessCount,
    Seeds,
    draw_seeds,
    nearest_seed,
    seeded_labels,
)
from anyshot.ops.metrics import Confusion, Roles
from anyshot.ops.pixel_taps import ResizedMap, image_map
from tests.larvseg.test_golden import features, head

LABELS = np.array([[1, 1, 3, 3], [1, 1, 3, 3], [1, 0, 0, 3], [0, 0, 0, 255]])
FOUND = np.array([[1, 1, 3, 3], [1, 3, 0, 1], [3, 0, 1, 1], [0, 1, 1, 1]])
FIRST = Seeds(np.array([9, 0, 2]), np.array([0, 1, 3]))  # the first pixel of each class, row by row


@torch.no_grad()
def units() -> torch.Tensor:
    return head().units(features())[0]


def test_golden_case_g8() -> None:
    pixels = image_map((4, 4), height=4, width=4)
    (found,) = seeded_labels(units(), pixels, [FIRST], classes=4, absent="never")
    assert found.tolist() == FOUND.tolist()
    confusion = Confusion(4)
    confusion.add(LABELS, found)
    assert confusion.iou() == pytest.approx([1 / 3, 0.3, np.nan, 2 / 7], nan_ok=True)
    assert np.nanmean(confusion.iou()) == pytest.approx(0.3063492, abs=1e-6)


def test_absent_classes_at_0_take_the_pixels_of_negative_cosines() -> None:
    cosines = units() @ units()[FIRST.pixels].T
    best = cosines.amax(dim=1)
    assert float(best[11]) == pytest.approx(-0.1186, abs=5e-5)
    assert [int(place) for place in (best < 0).nonzero()] == [10, 11, 13, 14]
    pixels = image_map((4, 4), height=4, width=4)
    (found,) = seeded_labels(units(), pixels, [FIRST], classes=4, absent="zero")
    expected = FOUND.copy()
    expected.flat[[10, 11, 13, 14]] = 2  # the absent class
    assert found.tolist() == expected.tolist()
    assert found.tolist() != FOUND.tolist()
    without_absent = Seeds(FIRST.pixels, np.array([0, 1, 2]))
    same = [
        seeded_labels(units(), pixels, [without_absent], classes=3, absent=absent)[0].tolist()
        for absent in ("never", "zero")
    ]
    assert same[0] == same[1]


def test_the_best_of_several_seeds_counts() -> None:
    cosines = torch.tensor([[0.1, 0.9, 0.5], [0.3, -0.2, 0.4], [-0.5, -0.4, -0.6]])
    seeds = Seeds(np.array([0, 1, 2]), np.array([4, 4, 7]))
    assert nearest_seed(cosines, seeds, classes=9, absent="never").tolist() == [4, 7, 4]
    assert nearest_seed(cosines, seeds, classes=9, absent="zero").tolist() == [4, 7, 0]


def test_seeds_are_pixels_of_their_class_without_repeats() -> None:
    truth = np.array([[2, 2, 2, -1], [2, 5, 255, -1]])
    found = draw_seeds(truth, classes=6, points=3, rng=np.random.default_rng(0))
    assert found.classes.tolist() == [2, 2, 2, 5]
    assert truth.reshape(-1)[found.pixels].tolist() == [2, 2, 2, 5]
    assert len(set(found.pixels.tolist())) == 4
    assert found.present.tolist() == [2, 5]
    drawn = {
        int(draw_seeds(truth, classes=6, points=1, rng=np.random.default_rng(seed)).pixels[0])
        for seed in range(40)
    }
    assert drawn == {0, 1, 2, 4}


def test_features_are_upsampled_and_normalised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against interpolate and normalize of the whole map; bands of rows change nothing."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.nn.functional.normalize(torch.randn(12, 5, generator=generator), dim=1)
    pixels = ResizedMap(image_map((3, 4), height=6, width=8), height=9, width=16)
    maps = tokens.T.view(1, 5, 3, 4)
    for size in ((6, 8), (9, 16)):
        maps = torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    whole = torch.nn.functional.normalize(maps[0].flatten(1).T, dim=1)
    drawings = [
        Seeds(np.array([100, 3, 77]), np.array([0, 0, 1])),
        Seeds(np.array([5, 140]), np.array([1, 2])),
    ]
    expected = [
        nearest_seed(whole @ whole[seeds.pixels].T, seeds, classes=3, absent="never").view(9, 16).tolist()
        for seeds in drawings
    ]
    for band in (2**24, 600):
        monkeypatch.setattr("anyshot.larvseg.compactness.BAND", band)
        found = seeded_labels(tokens, pixels, drawings, classes=3, absent="never")
        assert [labels.tolist() for labels in found] == expected


def test_repetitions_give_mean_and_deviation() -> None:
    count = CompactnessCount(classes=2, points=[1, 3], repeats=2)
    truth = np.array([[0, 0, 1, 1]])
    perfect, half = truth, np.array([[0, 1, 1, 1]])
    count.add(truth, [perfect, half, perfect, perfect])
    one, three = count.result(Roles(base=[0], novel=[1]))
    assert one["points"] == 1
    assert one["seen"]["each"] == pytest.approx([1, 0.5])
    assert one["seen"]["mean"] == pytest.approx(0.75)
    assert one["seen"]["spread"] == pytest.approx(0.125**0.5)
    assert one["unseen"]["each"] == pytest.approx([1, 2 / 3])
    assert three["all"] == {"mean": 1.0, "spread": 0.0, "each": [1.0, 1.0]}


def test_drawings_belong_to_the_image_and_the_seed() -> None:
    truth = np.arange(400).reshape(20, 20) // 200
    count = CompactnessCount(classes=2, points=[1, 3], repeats=2)

    def drawn(seed: int, image: int) -> list[list[int]]:
        return [seeds.pixels.tolist() for seeds in count.drawings(truth, seed=seed, image=image)]

    assert [len(one) for one in drawn(0, 0)] == [2, 2, 6, 6]
    assert drawn(0, 0) == drawn(0, 0)
    assert drawn(0, 0) != drawn(0, 1)
    assert drawn(0, 0) != drawn(1, 0)
    assert drawn(0, 0)[0] != drawn(0, 0)[1]
