"""The training stages of LarvSeg on coloured shapes: two classes without any mask are segmented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from anyshot.data.images import read_mask, write_mask
from anyshot.data.manifest import read_samples
from anyshot.engine.checkpoints import load_weights
from anyshot.errors import DataError, WeightsError
from anyshot.larvseg import options as stages
from anyshot.larvseg.artifacts import load_network
from anyshot.larvseg.tables import read_tables
from anyshot.larvseg.vocabulary import Vocabulary
from tests.shapes import ADAM, NAMES, NOVEL, SIDE, TABLE, ShapesRun

BASE = [name for name in NAMES[1:] if name not in NOVEL]
BACKBONE = stages.TokenBackbone(name="resnet18", weights="none", input_statistics="model")
NECK = stages.Neck(kind="fpn", stride=8, width=32)
SIZES: dict[str, Any] = {"crop": SIDE, "short_side": SIDE, "long_side": SIDE, "jitter": False}


class Run(ShapesRun):
    """LarvSeg's trainings."""

    def __init__(self, folder: Path, repository: Path) -> None:
        super().__init__(folder, repository, "larvseg")
        name = folder.name
        self.experiment = stages.Experiment(
            sources=[
                stages.Source(
                    name="masks", data=name, role="pixel", classes=BASE, images_per_step=4, **SIZES
                ),
                stages.Source(
                    name="tags", data=name, role="image", label_source="image", images_per_step=4,
                    weight=0.3, attention_weight=0.3, **SIZES,
                ),
            ],
            targets=[stages.Target(name="shapes", data=name)],
        )  # fmt: skip
        self.vocabulary = folder / "vocabulary.json"
        options = stages.Vocabulary(experiment=self.experiment, split="own")
        outputs = {"vocabulary": self.vocabulary, "mapping": folder / "mapping.json"}
        self.call("vocabulary", options, {}, outputs)

    def options(self, kind: type[stages.Baseline], *, steps: int, **changes: Any) -> Any:
        optimiser = {
            **ADAM,
            "batch_size": 2,
            "max_steps": steps,
            "epochs": 1000,
            **changes.pop("optimiser", {}),
        }
        own: dict[str, Any] = {"backbone": BACKBONE}
        if kind is stages.Attentive:
            own["attention"] = stages.Attention(slots=2, tokens=4)
        return kind(
            neck=NECK, pooling="valid", divisor="valid", experiment=self.experiment,
            split="own", optimiser=stages.MixedOptimiser(**optimiser), **{**own, **changes},
        )  # fmt: skip

    def train(self, options: Any, folder: str) -> Path:
        stage = "attentive" if isinstance(options, stages.Attentive) else "baseline"
        outputs = self.network(folder)
        self.call(stage, options, {"vocabulary": self.vocabulary}, outputs)
        return outputs["weights"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Run:
    return Run(tmp_path_factory.mktemp("larvseg"), repository)


def last_line(weights: Path) -> dict[str, float]:
    return dict(json.loads(weights.with_name("train.jsonl").read_text().splitlines()[-1]))


def test_the_vocabulary_and_what_was_unified(run: Run) -> None:
    vocabulary = Vocabulary.read(run.vocabulary)
    assert vocabulary.names == (*BASE, *NOVEL)
    mapping = json.loads((run.folder / "mapping.json").read_text())
    target = mapping["targets"]["shapes"]
    assert target["novel"]["names"] == NOVEL
    assert target["covered"]["names"] == NOVEL
    samples = read_samples(run.data["manifest"], ["train"])
    assert mapping["images"]["tags"] == [sum(label in s.labels for s in samples) for label in range(1, 7)]


@pytest.mark.slow
def test_attention_is_learnt_with_and_the_card_says_so(run: Run) -> None:
    weights = run.train(run.options(stages.Attentive, steps=30), "attentive")
    line = last_line(weights)
    assert line["tags_warm"] == 1
    assert line["tags_attention"] > 0
    tables = read_tables(run.experiment, classes=[run.data["classes"]], vocabulary=run.vocabulary)
    model, card = load_network(weights, tables=tables, split="own")
    assert model.bank is not None
    assert (model.bank.wraps > 0).all()
    assert card["method"] == "attentive"
    assert card["novel"] == NOVEL
    assert card["vocabulary"]["digest"] == Vocabulary.read(run.vocabulary).digest
    with pytest.raises(WeightsError, match="split"):
        load_network(weights, tables=tables, split="other")


@pytest.mark.slow
def test_no_pixel_of_a_class_without_masks_is_read(run: Run, tmp_path: Path, repository: Path) -> None:
    """Masks in which novel classes are void give the same weights, bit for bit."""
    expected = load_weights(run.train(run.options(stages.Baseline, steps=3), "plain"))[0]
    other = (
        Run(tmp_path / run.folder.name, repository) if (tmp_path / run.folder.name).mkdir() is None else run
    )
    novel = TABLE.ids_of(NOVEL)
    for sample in read_samples(other.data["manifest"], ["train"]):
        assert sample.mask is not None
        mask = read_mask(sample.mask).copy()
        mask[sum(mask == number for number in novel) > 0] = TABLE.ignore
        write_mask(sample.mask, mask, TABLE)
    found = load_weights(other.train(other.options(stages.Baseline, steps=3), "plain"))[0]
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_two_devices_give_the_weights_of_one(run: Run) -> None:
    """Up to rounding, bank included: all bundles look at it before any writes, and in the same order. The
    backbone's batch norms train, on a source at a time."""
    training = stages.TokenBackbone(name="resnet18", weights="none", freeze_norm=False)
    options = run.options(
        stages.Attentive,
        steps=4,
        optimiser={"optimiser": "sgd", "momentum": 0.0, "learning_rate": 1e-3},
        backbone=training,
    )
    one = load_weights(run.train(options, "one"))[0]
    outputs = run.network("two")
    run.call_on_two_devices("attentive", options, {"vocabulary": run.vocabulary}, outputs)
    two = load_weights(outputs["weights"])[0]
    for name, value in one.items():
        assert torch.allclose(value.float(), two[name].float(), atol=2e-5), name
    assert torch.equal(one["bank.wraps"], two["bank.wraps"])
    assert torch.equal(one["bank.pointer"], two["bank.pointer"])


def test_limits_of_the_method(run: Run) -> None:
    pixel_only = run.train(run.options(stages.Baseline, steps=1, method="pixel_only"), "pixel_only")
    assert {name for name in last_line(pixel_only) if "_" in name and name.startswith(("masks", "tags"))} == {
        "masks_pixels"
    }
    oracle = run.train(run.options(stages.Baseline, steps=1, method="oracle"), "oracle")
    assert "tags_pixels" in last_line(oracle)


def test_a_vocabulary_of_other_classes_is_refused(run: Run) -> None:
    fewer = run.experiment.model_copy(
        update={"targets": [stages.Target(name="shapes", data=run.folder.name, classes=["red"])]}
    )
    with pytest.raises(DataError, match="run larvseg_vocabulary again"):
        read_tables(fewer, classes=[run.data["classes"]], vocabulary=run.vocabulary)
