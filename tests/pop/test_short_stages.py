"""Stages of POP where all classes are base classes, and in half precision; trained for two steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anyshot.engine.checkpoints import load_weights
from anyshot.pop import options as stages
from anyshot.pop.head import BasePart, PrototypeHead
from tests.pop.test_stages import FEW, Run, dataset
from tests.shapes import ADAM, BACKBONE, SIDE

SMALL = 32  # px; many CPUs are slow at bfloat16


def base_options(of: stages.FoldDataset, *, crop: int = SIDE, **optimiser: Any) -> stages.Base:
    return stages.Base(
        backbone=stages.PopBackbone(**{**BACKBONE, "output_stride": 8}), crop=crop, channels=16, dataset=of,
        optimiser=stages.BaseOptimiser(**{**ADAM, "max_steps": 2, "batch_size": 2, **optimiser}),
    )  # fmt: skip


def test_joint_training_has_one_variant_and_no_novel_score(tmp_path: Path, repository: Path) -> None:
    """Every class is a base class: no supports, no heads; the base model is what is scored (pop.md 1.2)."""
    run = Run(tmp_path, repository)
    train, val = (dataset(subset, split="joint", novel=[]) for subset in ("train", "val"))
    base = run.network("base")
    run.call("index", stages.Index(dataset=train), {}, {"index": run.index})
    run.call("base", base_options(train), {"index": run.index}, base)
    weights, card = load_weights(base["weights"])
    assert weights["head.base_emb"].shape == (6, 16)
    assert card["tables"]["novel_ids"] == []
    outputs = {"labels": tmp_path / "labels.csv", "counts": tmp_path / "counts.json"}
    outputs["shown"] = tmp_path / "shown.h5"
    predict = stages.Predict(size=SIDE, shown_images=1, dataset=val)
    run.call("predict", predict, {"base": base["weights"], "heads": []}, outputs)
    miou = tmp_path / "miou.json"
    run.call("evaluate", stages.Evaluate(dataset=val), {"counts": [outputs["counts"]]}, {"miou": miou})
    content = json.loads(miou.read_text())
    (only,) = content["variants"]
    assert (only["variant"], only["shots"], only["support_seeds"]) == ("base", 0, [0])
    for mean in (content["miou"], only["mean"], only["protocols"]["diam"]["mean"]):
        assert mean["novel"] is None
        assert mean["harmonic"] is None
    assert content["miou"]["all"] == content["miou"]["base"] > 0
    assert [row["role"] for row in content["classes"]] == ["base"] * 7
    assert content["images"] == 16


def test_half_precision_leaves_weights_and_losses_in_float32(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bf16-mixed`: the encoder's features are bfloat16, what the prototypes make of them is not (pop.md
    4.5)."""
    types: list[tuple[torch.dtype, torch.dtype]] = []
    compute = PrototypeHead.base_part

    def noted(self: PrototypeHead, features: Tensor) -> BasePart:
        part = compute(self, features)
        types.append((features.dtype, part.logits.dtype))
        return part

    monkeypatch.setattr(PrototypeHead, "base_part", noted)
    run = Run(tmp_path, repository)
    run.call("index", stages.Index(dataset=dataset("train")), {}, {"index": run.index})
    base, head = run.network("base"), run.network("head")
    half = {"precision": "bf16-mixed", "log_every": 1}
    run.call("base", base_options(dataset("train"), crop=SMALL, **half), {"index": run.index}, base)
    update = stages.NovelUpdate(
        crop=SMALL, min_pixels=60, dataset=dataset("train"),
        optimiser=stages.NovelOptimiser(**{**FEW, **half, "batch_size": 1, "max_steps": 2}),
    )  # fmt: skip
    inputs = {"index": run.index, "base": base["weights"], "supports": run.supports(1, 0)}
    run.call("novel_update", update, inputs, head)
    assert types == [(torch.bfloat16, torch.float32)] * 4
    for outputs in (base, head):
        weights, _ = load_weights(outputs["weights"])
        counters = {name for name, value in weights.items() if value.dtype != torch.float32}
        assert all(name.endswith("num_batches_tracked") for name in counters)
        lines = [json.loads(line) for line in outputs["curve"].read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        assert all(math.isfinite(line[key]) for line in lines for key in ("loss", "cross_entropy"))
