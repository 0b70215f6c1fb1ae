"""All stages of SimFormer in a row on coloured shapes: two classes without any mask are segmented."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from anyshot.data.images import read_mask, write_mask
from anyshot.data.manifest import Manifest, read_samples
from anyshot.engine.checkpoints import load_weights
from anyshot.engine.label_maps import LabelMaps, LabelMapWriter
from anyshot.engine.stores import Store
from anyshot.errors import ArtifactError, WeightsError
from anyshot.simformer import options as stages
from anyshot.simformer.artifacts import load_network
from anyshot.simformer.tables import read_tables
from tests.shapes import ADAM, NOVEL, SIDE, TABLE, ShapesRun

NETWORK = stages.MaskNetwork(width=32, queries=12, layers=2, heads=4, feedforward=64, dropout=0.0)
BACKBONE = stages.MaskBackbone(name="resnet18", weights="none", freeze_norm=False)
CROPS = stages.Augmentation(crop=SIDE, short_sides=[SIDE], longest=SIDE, jitter=False)


def dataset(*subsets: str, split: str = "shapes", novel: list[str] | None = None) -> stages.WeakDataset:
    return stages.WeakDataset(subsets=list(subsets), split=split, novel=NOVEL if novel is None else novel)


def joint_options(variant: stages.Variant, *, steps: int, **changes: Any) -> stages.Joint:
    return stages.Joint(
        variant=variant, backbone=BACKBONE, network=NETWORK, augmentation=CROPS, dataset=dataset("train"),
        pairs=stages.PairLosses(points=16),
        optimiser=stages.JointOptimiser(**{**ADAM, "batch_size": 4}, max_steps=steps, epochs=1000),
    ).model_copy(update=changes)  # fmt: skip


class Run(ShapesRun):
    """SimFormer's stages."""

    def __init__(self, folder: Path, repository: Path) -> None:
        super().__init__(folder, repository, "simformer")
        self.pairs = folder / "pairs.json"
        self.call("pairs", stages.Pairs(dataset=dataset("train")), {}, {"pairs": self.pairs})

    def joint(
        self, variant: stages.Variant, *, steps: int, folder: str | None = None, **changes: Any
    ) -> Path:
        outputs = self.network(folder or f"joint/{variant}")
        self.call("joint", joint_options(variant, steps=steps, **changes), {"pairs": self.pairs}, outputs)
        return outputs["weights"]

    def joint_on_two_devices(self, options: stages.Joint, folder: str) -> Path:
        """The same stage, in a process of its own that starts a second one."""
        outputs = self.network(folder)
        self.call_on_two_devices("joint", options, {"pairs": self.pairs}, outputs)
        return outputs["weights"]

    def pseudo(self, weights: Path, **changes: Any) -> Path:
        options = stages.PseudoLabel(short_sides=[SIDE], dataset=dataset("train"), **changes)
        path = self.folder / "pseudo_label" / "labels.csv"
        self.call("pseudo_label", options, {"pairs": self.pairs, "joint": weights}, {"labels": path})
        return path

    def predicted(self, weights: Path, name: str) -> dict[str, Path]:
        outputs = {
            key: self.folder / "predict" / name / file
            for key, file in (("labels", "labels.csv"), ("counts", "counts.json"), ("shown", "shown.h5"))
        }
        options = stages.Predict(short_sides=[SIDE], shown_images=3, dataset=dataset("val"))
        self.call("predict", options, {"network": weights}, outputs)
        return outputs

    def scored(self, counts: list[Path]) -> dict[str, Any]:
        path = self.folder / "miou.json"
        self.call("evaluate", stages.Evaluate(dataset=dataset("val")), {"counts": counts}, {"miou": path})
        content: dict[str, Any] = json.loads(path.read_text())
        return content


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Run:
    return Run(tmp_path_factory.mktemp("simformer"), repository)


@pytest.fixture(scope="module")
def full(run: Run) -> Path:
    """The method, trained until it knows the shapes."""
    return run.joint("full", steps=120)


@pytest.fixture(scope="module")
def pseudo(run: Run, full: Path) -> Path:
    return run.pseudo(full)


def test_novel_classes_are_segmented_without_a_mask(run: Run, full: Path) -> None:
    outputs = run.predicted(full, "full")
    content = run.scored([outputs["counts"]])
    assert content["variant"] == "full"
    assert content["images"] == 16
    assert {row["name"]: row["role"] for row in content["classes"]}["cyan"] == "novel"
    assert content["miou"]["base"] > 0.4
    assert content["miou"]["novel"] > 0.25
    assert len(LabelMaps(outputs["labels"])) == 16


def test_the_curve_names_every_loss_and_how_often_distillation_was_active(run: Run, full: Path) -> None:
    last = json.loads(full.with_name("train.jsonl").read_text().splitlines()[-1])
    losses = {"classification", "focal", "dice", "complementary", "similarity", "distillation"}
    assert losses | {"distilled", "similar_f1", "dissimilar_f1"} <= last.keys()
    assert 0.5 < last["distilled"] <= 1
    assert last["loss"] == pytest.approx(sum(last[name] for name in losses), rel=1e-4)
    assert last["similar_f1"] > 0.7


def test_what_the_report_draws_is_kept(run: Run, full: Path) -> None:
    store = Store(run.predicted(full, "full")["shown"])
    assert len(store.ids) == 3
    extra = {name: store.extra(store.ids[0], name) for name in store.extra_names(store.ids[0])}
    assert extra["proposal_masks"].shape == (6, SIDE, SIDE)
    assert (np.diff(extra["proposal_scores"]) <= 0).all()
    assert extra["similarities"].shape == (3, SIDE // 4, SIDE // 4)
    assert extra["points"].shape == (3, 2)


def test_a_pseudo_label_keeps_base_masks_and_adds_novel_classes_of_the_image_alone(
    run: Run, pseudo: Path
) -> None:
    maps, tables = LabelMaps(pseudo), read_tables(run.data["classes"], dataset("train"))
    novel_ids = [TABLE.ids[index] for index in tables.novel]
    added = 0
    for sample in read_samples(run.data["manifest"], ["train"]):
        assert sample.mask is not None
        truth, found = read_mask(sample.mask), maps[sample.id]
        base = ~np.isin(truth, novel_ids)
        assert np.array_equal(found[base], truth[base])
        assert set(np.unique(found[~base]).tolist()) <= {255, *(set(novel_ids) & set(sample.labels))}
        added += int((found[~base] == truth[~base]).sum())
    assert added > 500


def test_a_network_is_trained_again_on_the_pseudo_labels_and_scored(
    run: Run, full: Path, pseudo: Path
) -> None:
    outputs = run.network("retrain")
    options = stages.Retrain(
        backbone=BACKBONE, network=NETWORK, augmentation=CROPS, dataset=dataset("train"),
        optimiser=stages.RetrainOptimiser(**ADAM, max_steps=3, epochs=1000),
    )  # fmt: skip
    run.call("retrain", options, {"pairs": run.pairs, "pseudo_label": pseudo}, outputs)
    assert json.loads(outputs["card"].read_text())["variant"] == "retrained"
    predicted = [run.predicted(outputs["weights"], "retrained"), run.predicted(full, "full")]
    content = run.scored([one["counts"] for one in predicted])
    assert content["variant"] == "retrained"
    assert {row["variant"] for row in content["variants"]} == {"full", "retrained"}


def test_a_missing_pseudo_label_is_an_error_not_the_mask(run: Run, pseudo: Path, tmp_path: Path) -> None:
    some = LabelMaps(pseudo)
    with LabelMapWriter(tmp_path / "labels.csv", TABLE) as out:
        for one in some.ids[1:]:
            out.add(one, some[one])
    options = stages.Retrain(backbone=BACKBONE, network=NETWORK, augmentation=CROPS, dataset=dataset("train"))
    inputs = {"pairs": run.pairs, "pseudo_label": tmp_path / "labels.csv"}
    with pytest.raises(ArtifactError, match=f"'{some.ids[0]}' is not among"):
        run.call("retrain", options, inputs, run.network("unfinished"))


@pytest.mark.parametrize("variant", get_args(stages.Variant)[1:])
def test_every_variant_trains_and_names_itself(run: Run, variant: stages.Variant) -> None:
    weights = run.joint(variant, steps=2)
    card = json.loads(weights.with_name("model.json").read_text())
    line = json.loads(weights.with_name("train.jsonl").read_text().splitlines()[-1])
    assert card["variant"] == variant
    assert (line["complementary"] > 0) == (variant in ("no_similarity", "no_distillation"))
    with_pairs = variant in ("no_complementary", "no_similarity", "no_distillation")
    assert ("similarity" in line) == with_pairs
    if with_pairs:
        assert (line["similarity"] > 0) == (variant != "no_similarity")
        assert (line["distillation"] != 0) == (variant != "no_distillation")


def test_image_labels_train_the_same_whatever_the_novel_pixels_are(
    run: Run, repository: Path, tmp_path: Path
) -> None:
    """The leak test, on whole trainings: novel pixels of the masks are void in one and true in the other."""
    first = run.joint("full", steps=2, folder="image", novel_label_source="image")
    blind = ShapesRun(tmp_path, repository, "simformer")
    for sample in read_samples(blind.data["manifest"], ["train"]):
        assert sample.mask is not None
        mask = read_mask(sample.mask)
        write_mask(sample.mask, np.where(np.isin(mask, TABLE.ids_of(NOVEL)), 255, mask), TABLE)
    run_data, run.data = run.data, blind.data
    try:
        second = run.joint("full", steps=2, folder="blind", novel_label_source="image")
    finally:
        run.data = run_data
    assert first.read_bytes() != b""
    states = [load_weights(path)[0] for path in (first, second)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_accumulation_equals_the_larger_batch(run: Run) -> None:
    frozen = stages.MaskBackbone(name="resnet18", weights="none", freeze_norm=True)
    found = []
    for parts in (1, 4):
        optimiser = stages.JointOptimiser(
            **{**ADAM, "optimiser": "sgd", "batch_size": 4},
            momentum=0.0,
            max_steps=3,
            accumulate=parts,
            epochs=1000,
        )
        weights = run.joint("full", steps=3, folder=f"parts{parts}", backbone=frozen, optimiser=optimiser)
        found.append(load_weights(weights)[0])
    for name, value in found[0].items():
        assert torch.allclose(value.float(), found[1][name].float(), atol=2e-5), name


@pytest.mark.slow
def test_two_devices_give_the_weights_of_one(run: Run) -> None:
    """Up to rounding, the window that balances SimLoss included; the backbone's norms train.

    Not the running statistics of SimNet's norms: each device has those of its own pairs, nothing reads them.
    """
    optimiser = stages.JointOptimiser(
        **{**ADAM, "optimiser": "sgd", "batch_size": 4}, momentum=0.0, max_steps=3, epochs=1000
    )
    alone = run.joint("full", steps=3, folder="one", optimiser=optimiser)
    shared = run.joint_on_two_devices(joint_options("full", steps=3, optimiser=optimiser), "two")
    one, two = load_weights(alone), load_weights(shared)
    counted = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in one[0].items():
        if not (name.startswith("similarity.") and name.endswith(counted)):
            assert torch.allclose(value.float(), two[0][name].float(), atol=2e-5), name
    expected, found = (
        json.loads(weights.with_name("train.jsonl").read_text().splitlines()[-1])
        for weights in (alone, shared)
    )
    assert found["step"] == 3
    for name in (
        "loss",
        "similarity",
        "distillation",
    ):  # a pair's weight shows here before it does in weights
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_a_network_of_another_split_is_refused(run: Run, full: Path) -> None:
    tables = read_tables(run.data["classes"], dataset("val"))
    model, card = load_network(full, tables=tables, split="shapes")
    assert not model.training
    assert card["novel"] == NOVEL
    with pytest.raises(WeightsError, match="split"):
        load_network(full, tables=tables, split="other")
    others = read_tables(run.data["classes"], dataset("val", novel=["red"]))
    with pytest.raises(WeightsError, match="was trained with the novel classes cyan, purple, expected red"):
        load_network(full, tables=others, split="shapes")


def test_images_without_any_class_are_left_out_and_named(
    run: Run, repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    void = ShapesRun(tmp_path, repository, "simformer")
    samples = [
        dataclasses.replace(sample, labels=() if number < 2 else sample.labels)
        for number, sample in enumerate(read_samples(void.data["manifest"], ["train"]))
    ]
    Manifest(samples).write(void.data["manifest"])
    with caplog.at_level(logging.WARNING):
        void.call("pairs", stages.Pairs(dataset=dataset("train")), {}, {"pairs": tmp_path / "pairs.json"})
    content = json.loads((tmp_path / "pairs.json").read_text())
    assert content["without_labels"] == [samples[0].id, samples[1].id]
    assert len(content["images"]) == 46
    assert "2 images have no class (all void) and are left out" in caplog.text
