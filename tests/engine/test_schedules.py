import math

import pytest
import torch

from anyshot.engine import schedules
from anyshot.options import OptimiserOptions

TOTAL = 10582 // 8 * 8  # retab.md 7.12, G11


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (1, 0.999915), (5288, 0.535887), (10575, 0.000239)])
def test_poly_golden_case(step: int, expected: float) -> None:
    assert schedules.poly(step, TOTAL, 0.9) == pytest.approx(expected, abs=5e-7)


def test_sgd_golden_case() -> None:
    """G11: lr 0.01, weight decay and momentum 5e-4, one weight, gradients .2 then .1."""
    weight = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimiser = torch.optim.SGD([weight], lr=0.01, momentum=5e-4, weight_decay=5e-4)
    seen = []
    for step, gradient in enumerate((0.2, 0.1)):
        optimiser.param_groups[0]["lr"] = 0.01 * schedules.poly(step, TOTAL, 0.9)
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimiser.step()
        seen.append(weight.item())
    assert seen == pytest.approx([0.997995, 0.99698909], abs=5e-9)


def test_other_schedules() -> None:
    assert schedules.constant(7, 10) == 1
    assert schedules.cosine(0, 10) == 1
    assert schedules.cosine(5, 10) == pytest.approx(0.5)
    assert schedules.cosine(10, 10) == pytest.approx(0)
    assert [schedules.warmup(step, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert schedules.warmup_poly(1, 10, 1.0, 4) == pytest.approx(0.5 * 0.9)


@pytest.mark.parametrize("name", ["poly", "cosine", "constant"])
def test_schedule_of_options(name: str) -> None:
    options = OptimiserOptions.model_validate({"schedule": name, "warmup_steps": 2, "poly_power": 1.0})
    schedule = schedules.schedule_of(options)
    base = {"poly": 1 - 4 / 10, "cosine": 0.5 * (1 + math.cos(0.4 * math.pi)), "constant": 1.0}[name]
    assert schedule(4, 10) == pytest.approx(base)
    assert schedule(0, 10) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1e-3), (1000, 9.97215e-4), (80000, 7.74171e-4), (160000, 5.40528e-4), (319999, 1.0011e-5)],
)
def test_larvseg_golden_case_7(step: int, expected: float) -> None:
    options = OptimiserOptions(learning_rate=1e-3, final_rate=1e-5, schedule="poly", poly_power=0.9)
    assert 1e-3 * schedules.schedule_of(options)(step, 320000) == pytest.approx(expected, rel=1e-5)
