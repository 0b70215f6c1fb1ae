"""Numbers of steps of the published trainings, from the counts of the split and the default options."""

import pytest

from anyshot.engine.sampling import Sampling
from anyshot.options import OptimiserOptions
from anyshot.retab.options import Affinity, Boundary, Classifier, Segmentation

TRAINAUG = 10_582
BASE = {"fold0": 7746, "fold1": 6978, "fold2": 5040, "fold3": 8437}  # retab.md 1.2
NOVEL = {"fold0": 2836, "fold1": 3604, "fold2": 5542, "fold3": 2145}


def steps(images: int, options: OptimiserOptions) -> int:
    sampling = Sampling(seed=0, length=images, batch_size=options.batch_size, parts=1, world=1, rank=0)
    return sampling.total_steps(options.epochs, options.max_steps)


@pytest.mark.parametrize(
    ("options", "expected"),
    [(Classifier(), 9_915), (Affinity(), 10_576), (Segmentation(), 79_350)],
    ids=["classifier", "affinity", "segmentation"],
)
def test_steps_on_all_images(options: Classifier | Affinity | Segmentation, expected: int) -> None:
    """retab.md 2.3, 2.8, 4."""
    assert steps(TRAINAUG, options.optimiser) == expected


@pytest.mark.parametrize(
    ("fold", "expected"), [("fold0", 7744), ("fold1", 6976), ("fold2", 5040), ("fold3", 8432)]
)
def test_steps_on_base_images(fold: str, expected: int) -> None:
    """retab.md 2.6: the boundary network sees the fold's base images alone."""
    assert steps(BASE[fold], Boundary().optimiser) == expected
    assert BASE[fold] + NOVEL[fold] == TRAINAUG


def test_published_rates() -> None:
    """retab.md 2.11."""
    rates = [stage().optimiser.learning_rate for stage in (Classifier, Boundary, Affinity, Segmentation)]
    assert rates == [0.1, 0.001, 0.01, 0.001]
    for stage in (Classifier, Boundary, Affinity, Segmentation):
        options = stage().optimiser
        assert (options.momentum, options.weight_decay, options.poly_power) == (5e-4, 5e-4, 0.9)
        assert (options.schedule, options.optimiser, options.head_multiplier) == ("poly", "sgd", 10)
