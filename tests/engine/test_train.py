import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anyshot.engine.curve import cut_curve
from anyshot.engine.sampling import Batch
from anyshot.engine.train import all_reduce_sum, train
from anyshot.errors import AnyshotError, ConfigError
from anyshot.job import Job
from anyshot.options import OptimiserOptions, StageOptions


class Points:
    """Pairs x, y = 2 x."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        x = torch.tensor([rng.standard_normal()], dtype=torch.float32)
        return {"x": x, "y": 2 * x}


def squared_error(model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
    error = (model(batch["x"]) - batch["y"]).square().mean()
    return {"loss": error, "half": error.detach() / 2}


def fit(folder: Path, model: nn.Module | None = None, **changes: Any) -> dict[str, float]:
    """Train a linear function; `changes` replace arguments of `train` and options."""
    model = model or nn.Linear(1, 1)
    arguments: dict[str, Any] = {
        "model": model,
        "job": Job.for_tests("test.fit", StageOptions()),
        "loss": squared_error,
        "dataset": Points(20),
        "parameter_groups": [{"params": model.parameters()}],
        "state_path": folder / "state.pt",
        "curve_path": folder / "train.jsonl",
        "summed": (),
    }
    options: dict[str, Any] = {"epochs": 2, "batch_size": 4, "workers": 0, "log_every": 3}
    for name, value in changes.items():
        (arguments if name in arguments else options)[name] = value
    return train(**arguments, options=OptimiserOptions.model_validate(options))


class Scalar(nn.Module):
    """One weight, 1.0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, slope: float) -> Tensor:
        return slope * self.weight


class Stop(Exception):
    pass


def test_golden_case_of_schedule_and_optimiser(tmp_path: Path) -> None:
    """retab.md 7.12, G11: the defaults of the options, 10,582 images in batches of 8 over 8 epochs."""
    model, seen = Scalar(), []

    def loss(wrapped: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        seen.append(model.weight.item())
        if step == 2:
            raise Stop
        return {"loss": wrapped([0.2, 0.1][step])}

    with pytest.raises(Stop):
        fit(tmp_path, model, loss=loss, dataset=Points(10582), epochs=8, batch_size=8, learning_rate=0.01)
    assert seen == pytest.approx([1, 0.997995, 0.99698909], abs=1e-7)


def test_groups_scale_the_learning_rate(tmp_path: Path) -> None:
    models = nn.ModuleList([Scalar() for _ in range(4)])
    scales = (1, 2, 10, 20)

    def loss(wrapped: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        return {"loss": sum((model(1.0) for model in models), torch.zeros(()))}

    groups = [
        {"params": [model.weight], "scale": scale, "weight_decay": 0.0}
        for model, scale in zip(models, scales, strict=True)
    ]
    fit(tmp_path, models, loss=loss, parameter_groups=groups, max_steps=1, learning_rate=0.01)
    assert [1 - model.weight.item() for model in models] == pytest.approx([0.01, 0.02, 0.1, 0.2], abs=1e-6)
    rate = json.loads((tmp_path / "train.jsonl").read_text())["learning_rate"]
    assert rate == pytest.approx(0.01)


def test_it_learns_and_writes_a_curve(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    summary = fit(tmp_path, model, epochs=20, learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    assert model.weight.item() == pytest.approx(2, abs=0.05)
    assert summary["steps"] == 100
    assert summary.keys() == {"seconds", "steps", "images_per_second", "peak_mib"}
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(3, 100, 3), 100]
    assert [line["epoch"] for line in lines[:4]] == [0, 1, 1, 2]
    assert list(lines[0]) == [
        "step", "steps", "epoch", "loss", "half", "learning_rate",
        "images_per_second", "milliseconds_per_step", "peak_mib", "eta_seconds",
    ]  # fmt: skip
    assert lines[0]["half"] == pytest.approx(lines[0]["loss"] / 2)
    assert lines[-1]["eta_seconds"] == 0


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_accumulation_is_a_larger_batch(tmp_path: Path, optimiser: str) -> None:
    weights = []
    for parts in (1, 2, 4):
        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        fit(tmp_path, model, accumulate=parts, optimiser=optimiser, learning_rate=0.1)
        weights.append(model.weight.item())
    assert weights == pytest.approx([weights[0]] * 3, abs=1e-6)


class Weighted(Points):
    """Points of which some count more than others: `own` stays the point's, `weight` is to be summed."""

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        weight = torch.tensor([1.0 + index % 3])
        return {**super().item(index, rng), "own": weight, "weight": weight}


def weighted_error(model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
    error = (batch["own"] * (model(batch["x"]) - batch["y"]).square()).sum()
    return {"loss": error / batch["weight"][0]}


def test_a_loss_divided_by_the_sum_over_the_batch_is_that_of_the_batch(tmp_path: Path) -> None:
    """The parts of a batch weigh differently; divided by their own sums they would not average to it."""
    weights = []
    for parts in (1, 2, 4):
        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        fit(tmp_path, model, accumulate=parts, dataset=Weighted(20), loss=weighted_error, summed=["weight"],
            learning_rate=0.1)  # fmt: skip
        weights.append(model.weight.item())
    assert weights == pytest.approx([weights[0]] * 3, abs=1e-6)


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    model[0].requires_grad_(False)
    before = model[0].weight.item()
    fit(tmp_path, model)
    assert model[0].weight.item() == before


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    def loss(model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        value = model(batch["x"]).mean()
        return {"loss": value, "edge": value.detach() * (float("nan") if step == 3 else 1)}

    with pytest.raises(AnyshotError, match=r"not finite at step 4 of 10: loss [\d.-]+, edge nan"):
        fit(tmp_path, loss=loss)


def test_impossible_trainings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fewer than batch_size"):
        fit(tmp_path, batch_size=32)
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="1 trainable parameters are in no group: bias"):
        fit(tmp_path, model, parameter_groups=[{"params": [model.weight]}])


def test_no_epochs(tmp_path: Path) -> None:
    assert fit(tmp_path, epochs=0)["steps"] == 0
    assert (tmp_path / "train.jsonl").read_text() == ""


def test_gradient_clip(tmp_path: Path) -> None:
    model = Scalar()

    def loss(wrapped: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        return {"loss": wrapped(100.0)}

    fit(tmp_path, model, loss=loss, max_steps=1, gradient_clip=0.5, learning_rate=1.0, weight_decay=0.0)
    assert model.weight.item() == pytest.approx(0.5, abs=1e-5)


def test_reduced_precision_gives_float32_outputs(tmp_path: Path) -> None:
    seen = set()

    def loss(model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        output = model(batch["x"])
        seen.add(output.dtype)
        return {"loss": (output - batch["y"]).square().mean()}

    fit(tmp_path, loss=loss, precision="bf16-mixed")
    assert seen == {torch.float32}


def test_log_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("anyshot").propagate = True
    with caplog.at_level(logging.INFO, "anyshot"):
        fit(tmp_path)
    assert "test.fit: step 3/10 (30%), loss" in caplog.text
    assert "s left" in caplog.text


def test_cut_curve(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"st')
    cut_curve(path, 4)
    assert path.read_text() == '{"step": 2}\n{"step": 4}\n'
    cut_curve(path, 0)
    assert path.read_text() == ""


def test_all_reduce_sum_on_one_device() -> None:
    tensor = torch.ones(2, requires_grad=True)
    assert all_reduce_sum(tensor) is tensor
