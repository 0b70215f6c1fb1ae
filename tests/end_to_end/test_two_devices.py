"""Trainings in two processes on the CPU (gloo) give the weights of one with the same batches, up to rounding.

SimFormer's joint training and LarvSeg's attentive one: tests/simformer/test_stages.py, tests/larvseg/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from anyshot.engine.checkpoints import load_weights
from anyshot.options import OptimiserOptions
from anyshot.pop import options as pop
from anyshot.raml import options as raml
from anyshot.retab import options as retab
from tests.shapes import ADAM, BACKBONE, NOVEL, SIDE, ShapesRun

PLAIN: dict[str, Any] = {
    **ADAM, "optimiser": "sgd", "momentum": 0.0, "batch_size": 4, "learning_rate": 1e-2, "epochs": 1000,
    "max_steps": 3,
}  # fmt: skip
TRAINING_NORMS = {**BACKBONE, "freeze_norm": False, "frozen_stages": 0}


def assert_equal_on_two_devices(run: ShapesRun, name: str, options: Any, inputs: dict[str, Any]) -> None:
    one, two = run.network("one"), run.network("two")
    run.call(name, options, inputs, one)
    run.call_on_two_devices(name, options, inputs, two)
    expected, found = (load_weights(each["weights"])[0] for each in (one, two))
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.allclose(value.float(), found[key].float(), atol=2e-5), key


@pytest.mark.slow
def test_affinity_of_retab(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With frozen norms, and inside a job of Slurm with one task, by whose variables Fabric would take one
    device."""
    for name, value in (("JOB_ID", "7"), ("JOB_NAME", "x"), ("NTASKS", "1"), ("PROCID", "0"),
                        ("LOCALID", "0"), ("NODEID", "0")):  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    run = ShapesRun(tmp_path, repository, "retab")
    train = retab.Dataset(subsets=["train"], split="mine")
    split = {"split": tmp_path / "split.json", "samples": tmp_path / "samples.csv"}
    run.call("split", retab.Split(rule="labels", novel=NOVEL, dataset=train), {}, split)
    options = retab.Affinity(
        labels="gt_only", branch_channels=[8, 8, 8], crops=retab.Crops(crop=SIDE),
        backbone=retab.PublishedBackbone(**{**BACKBONE, "output_stride": 8, "freeze_norm": True}),
        optimiser=OptimiserOptions(**{**PLAIN, "max_steps": 4}), dataset=train,
    )  # fmt: skip
    assert_equal_on_two_devices(run, "affinity", options, {"samples": split["samples"]})


@pytest.mark.slow
def test_closed_set_of_raml(tmp_path: Path, repository: Path) -> None:
    """Norms of the backbone and of the pyramid train, one of them on a single cell per image."""
    run = ShapesRun(tmp_path, repository, "raml")
    train = raml.OpenDataset(subsets=["train"], split="mine")
    split = {"split": tmp_path / "split.json"}
    run.call("split", raml.Split(novel=NOVEL, dataset=train), {}, split)
    options = raml.ClosedSet(
        backbone=raml.OpenBackbone(**TRAINING_NORMS), crop=SIDE, channels=16, low_channels=8, dropout=0.0,
        optimiser=raml.OpenOptimiser(**PLAIN), divide_by_batch=False, dataset=train,
    )  # fmt: skip
    assert_equal_on_two_devices(run, "closed_set", options, split)


@pytest.mark.slow
def test_base_of_pop(tmp_path: Path, repository: Path) -> None:
    """One image per device: PSPNet's norm over a single cell has two values on both together."""
    run = ShapesRun(tmp_path, repository, "pop")
    train = pop.FoldDataset(subsets=["train"], split="mine", novel=NOVEL)
    index = {"index": tmp_path / "index.csv"}
    run.call("index", pop.Index(dataset=train), {}, index)
    options = pop.Base(
        backbone=pop.PopBackbone(**TRAINING_NORMS), crop=SIDE, channels=16,
        optimiser=pop.BaseOptimiser(**{**PLAIN, "batch_size": 2}), dataset=train,
    )  # fmt: skip
    assert_equal_on_two_devices(run, "base", options, index)
