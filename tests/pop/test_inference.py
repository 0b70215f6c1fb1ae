"""From logits to pixels, and what the stage pop_predict makes of heads beside its scores."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from anyshot.job import Job
from anyshot.ops import upsampled
from anyshot.ops.upsampled import upsampled_rows
from anyshot.pop.head import PrototypeHead
from anyshot.pop.inference import decide, probabilities
from anyshot.pop.options import FoldDataset, Predict
from tests.pop.pop_models import CHANNELS, fold_tables, write_head, write_model


def by_torch(logits: Tensor, height: int, width: int) -> Tensor:
    side = max(height, width)
    large = F.interpolate(logits[None], size=(side, side), mode="bilinear", align_corners=True)
    return large[0, :, :height, :width]


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (41, 5), (33, 33), (1, 500)])
@pytest.mark.parametrize("tile", [1, 2**20])
def test_decisions_are_those_of_the_upsampled_square(
    size: tuple[int, int], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsampled, "CPU_TILE", tile)
    logits = torch.randn(5, 6, 6, generator=torch.Generator().manual_seed(sum(size)))
    expected = by_torch(logits, *size)
    found, chances = decide(logits, *size), probabilities(logits, *size)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected.argmax(dim=0).numpy())
    assert np.allclose(chances, expected.softmax(dim=0).numpy(), atol=1e-6)


def test_a_corner_costs_no_more_than_itself() -> None:
    """A line of 30,000 px lies in a square of 900 million."""
    parts = list(upsampled_rows(torch.randn(3, 4, 4), 30_000, 30_000, align_corners=True, corner=(1, 30_000)))
    assert [part.shape for _, part in parts] == [(1, 3, 30_000)]


@pytest.fixture(scope="module")
def script(repository: Path) -> ModuleType:
    path = repository / "workflow" / "scripts" / "pop" / "predict.py"
    spec = importlib.util.spec_from_file_location("pop_predict_stage", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_heads_and_cosines_of_the_stage(script: ModuleType, tmp_path: Path) -> None:
    model, tables = write_model(tmp_path / "base"), fold_tables()
    for method in ("pop", "prototype"):
        write_head(tmp_path / method / "2shot_seed7", model, method=method)
    paths = [tmp_path / method / "2shot_seed7" / "model.safetensors" for method in ("pop", "prototype")]
    options = Predict(dataset=FoldDataset(subsets=["val"], split="fold0", novel=["bus", "car"]))
    heads = script.updated_heads(Job.for_tests("pop.predict", options, inputs={"heads": paths}), tables)
    assert list(heads) == [("pop", 2, 7), ("prototype", 2, 7)]
    base = PrototypeHead(channels=CHANNELS, base=3)
    found = script.cosines(base, heads["pop", 2, 7], ("pop", 2, 7), tables)
    assert found["names"] == ["cat", "dog", "tree", "bus", "car"]
    assert np.allclose(found["before"], np.eye(3), atol=1e-3)
    assert np.shape(found["after"]) == (5, 5)
    assert (found["variant"], found["shots"], found["support_seed"]) == ("pop", 2, 7)
    assert set(script.cosines(base, base, script.BASE, tables)) == {"names", "before"}
