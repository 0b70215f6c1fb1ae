"""Scores by hand: golden case G6, groups, accuracies, confused pairs; and the stages that write them."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Manifest, Sample
from anyshot.engine.checkpoints import save_weights
from anyshot.engine.label_maps import LabelMaps
from anyshot.engine.model_folder import model_card
from anyshot.engine.stores import Store
from anyshot.errors import ArtifactError, DataError
from anyshot.job import Job
from anyshot.larvseg.artifacts import vocabulary_table
from anyshot.larvseg.evaluation import accuracy, confused, group_means, groups, merged, scored_variants
from anyshot.larvseg.networks import NETWORK, build_larvseg
from anyshot.larvseg.options import Compactness, Evaluate, Experiment, Predict, Segment, Source, Target
from anyshot.larvseg.reference import reference
from anyshot.larvseg.tables import Tables, make_classes, make_vocabulary
from anyshot.ops.metrics import Confusion
from tests.larvseg.small_networks import picture

EXPERIMENT = Experiment(
    sources=[
        Source(name="masks", data="a", role="pixel", classes=["sky", "sea"]),
        Source(name="tags", data="b", role="image"),
    ],
    targets=[Target(name="both", data="a"), Target(name="animals", data="b", subset="test")],
)
DATA = {
    "a": ClassTable.of(["sky", "sea", "cat", "rock"], ids=[3, 5, 6, 300], kinds=["thing"] * 4),
    "b": ClassTable.of(["cat", "cow"], ids=[1, 2]),
}
IMAGES = {"masks": [120, 20], "tags": [19, 7]}  # sky, sea; cat, cow


def tables() -> Tables:
    classes = make_classes(EXPERIMENT, DATA)
    return Tables(EXPERIMENT, make_vocabulary(classes), classes)


def g6() -> Confusion:
    truth = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [255, 2, 2, 1]])
    found = Confusion(4)
    found.add(truth, np.array([[0, 1, 1, 1], [0, 2, 0, 1], [0, 2, 2, 1]]))
    return found


def counts(method: str, target: str, matrix: np.ndarray, images: int = 1) -> dict[str, Any]:
    return {"method": method, "target": target, "matrix": matrix.tolist(), "images": images}


def test_golden_case_g6() -> None:
    assert g6().iou() == pytest.approx([0.5, 0.8, 0.75, np.nan], nan_ok=True)
    assert np.nanmean(g6().iou()) == pytest.approx(0.6833333, abs=1e-6)
    found = accuracy(g6())
    assert found == pytest.approx({"mean": 0.8055556, "pixels": 0.8181818}, abs=1e-6)
    assert accuracy(Confusion(3)) == {"pixels": None, "mean": None}


def test_confused_pairs_of_g6() -> None:
    """One of three pixels of class 0 is called 1, one of four of class 2 is called 0."""
    names = ["sky", "sea", "cat", "rock"]
    assert confused(g6(), names) == [
        {"truth": "sky", "predicted": "sea", "share": pytest.approx(1 / 3)},
        {"truth": "cat", "predicted": "sky", "share": 0.25},
    ]
    assert len(confused(g6(), names, count=1)) == 1


def test_groups_by_image_labels_and_by_training_images() -> None:
    found = groups(tables(), "both", images=IMAGES, bands=(20, 100))
    assert found == {"covered": (2,), "uncovered": (3,), "rare": (2, 3), "common": (1,), "frequent": (0,)}
    means = group_means(g6().iou(), found)
    assert means == {"covered": 0.75, "uncovered": None, "rare": 0.75, "common": 0.8, "frequent": 0.5}
    both = {**IMAGES, "masks": [120, 20]}
    assert groups(tables(), "animals", images=both, bands=(7, 19))["frequent"] == (0,)


def test_shards_are_added_and_every_variant_is_scored() -> None:
    matrix, other = g6().matrix, np.diag([4, 0, 0])
    parts = [
        counts("attentive", "both", matrix),
        counts("attentive", "animals", other, 2),
        counts("attentive", "both", matrix, 3),
    ]
    totals = merged(parts, tables())
    assert totals["attentive", "both"].images == 4
    assert np.array_equal(totals["attentive", "both"].matrix, 2 * matrix)
    first, second = scored_variants(totals, tables(), images=IMAGES, bands=(20, 100))
    assert (first["variant"], first["method"], first["target"]) == ("attentive", "attentive", "both")
    assert first["mean"] == pytest.approx(
        {"all": 0.6833333, "base": 0.65, "novel": 0.75, "harmonic": 2 * 0.65 * 0.75 / 1.4}, abs=1e-6
    )
    assert [row["id"] for row in first["classes"]] == [3, 5, 6, 300]
    assert [row["role"] for row in first["classes"]] == ["base", "base", "novel", "novel"]
    assert first["accuracy"]["pixels"] == pytest.approx(0.8181818)
    assert first["groups"]["covered"] == pytest.approx(0.75)
    assert first["confused"][0]["truth"] == "sky"
    assert second["variant"] == "attentive on animals"
    assert second["images"] == 2


def test_counts_of_something_else_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"\(2, 2\), the experiment has the targets both, animals and 4"):
        merged([counts("oracle", "both", np.zeros((2, 2)))], tables())
    with pytest.raises(ArtifactError, match="'trees' are"):
        merged([counts("oracle", "trees", np.zeros((5, 5)))], tables())


def test_published_numbers_are_fractions() -> None:
    assert reference(False) == {}
    assert reference(True)["attentive"] == pytest.approx({"all": 0.3164, "base": 0.3878, "novel": 0.2646})


# ------------------------------------------------------------------------------------------- the stages


def write_data(root: Path) -> dict[str, Any]:
    """Two data sets, a vocabulary, a mapping and a network; the inputs that all stages share."""
    rng = np.random.default_rng(0)
    for name, subset, values in (("a", "val", [3, 5, 6, 300, 9]), ("b", "test", [1, 2, 255])):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        samples = []
        for number in range(2):
            image = folder / f"{name}{number}.png"
            mask = folder / f"{name}{number}_mask.png"
            Image.fromarray(picture(40, 64, seed=number)).save(image)
            blocks = rng.choice(values, size=(5, 8)).repeat(8, axis=0).repeat(8, axis=1)
            kind = np.uint16 if max(values) > 255 else np.uint8
            Image.fromarray(blocks.astype(kind)).save(mask)
            labels = tuple(sorted(set(blocks.ravel().tolist()) & set(DATA[name].ids)))
            samples.append(Sample(f"{name}{number}", image, mask, subset, labels))
        Manifest(samples).write(folder / "manifest.csv")
        DATA[name].write(folder / "classes.csv")
    known = tables()
    known.vocabulary.write(root / "vocabulary.json")
    (root / "mapping.json").write_text(json.dumps({"images": IMAGES}))
    options = {
        "backbone": {"name": "test_efficientnet", "weights": "none", "output_stride": 16},
        "neck": {"kind": "none"},
        "rows": len(known.vocabulary),
        "bank": {"slots": 1, "tokens": 2},
    }
    torch.manual_seed(0)
    card = model_card(
        system="larvseg",
        split="tiny",
        network=NETWORK,
        network_options=options,
        table=vocabulary_table(known.vocabulary),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        method="attentive",
        novel=[],
        vocabulary=known.vocabulary.to_json(),
    )
    save_weights(root / "model.safetensors", build_larvseg(options).state_dict(), card)
    return {
        "classes": [root / "data" / name / "classes.csv" for name in DATA],
        "vocabulary": root / "vocabulary.json",
        "network": root / "model.safetensors",
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def inputs(root: Path) -> dict[str, Any]:
    return write_data(root)


def stage(
    repository: Path, name: str, options: Any, inputs: dict[str, Any], outputs: dict[str, Path], **more: Any
) -> None:
    script = runpy.run_path(str(repository / "workflow" / "scripts" / "larvseg" / f"{name}.py"))
    script["main"](Job.for_tests(f"larvseg.{name}", options, inputs=inputs, outputs=outputs, **more))


FILLED: dict[str, Any] = {"experiment": EXPERIMENT, "split": "tiny"}
VIEW: dict[str, Any] = {"short_side": 32, "long_side": 96}


def test_predict_and_evaluate(repository: Path, root: Path, inputs: dict[str, Any]) -> None:
    parts = []
    for target, name, shard in (("both", "a", 0), ("both", "a", 1), ("animals", "b", 0)):
        folder = root / target / str(shard)
        outputs = {
            "labels": folder / "labels.csv",
            "counts": folder / "counts.json",
            "shown": folder / "shown.h5",
        }
        options = Predict(**FILLED, **VIEW, window=32, window_stride=24, target=target, method="attentive")
        given = {**inputs, "manifest": root / "data" / name / "manifest.csv"}
        shards = 2 if target == "both" else 1
        stage(repository, "predict", options, given, outputs, shard=shard, shards=shards)
        parts.append(outputs["counts"])
    labels = LabelMaps([root / "both" / part / "labels.csv" for part in "01"])
    assert labels["a0"].dtype == np.uint16
    assert {value for name in labels for value in np.unique(labels[name])} <= {3, 5, 6, 300}
    count = json.loads(parts[0].read_text())
    assert (count["method"], count["target"], count["split"], count["images"]) == (
        "attentive", "both", "tiny", 1,
    )  # fmt: skip
    assert np.sum(count["matrix"]) == 40 * 64
    with_void = np.sum(count["matrix"], axis=1)
    mask = np.asarray(Image.open(root / "data" / "a" / "a0_mask.png"))
    assert with_void.tolist() == [int((mask == value).sum()) for value in (3, 5, 6, 300, 9)]
    with h5py.File(root / "both" / "0" / "shown.h5") as file:
        extra = file["a0"]["extra"]
        assert extra["attention"].shape[1:] == (2, 4)  # 32 x 51 px at 16 px per token
        assert extra["attention"].shape[0] == extra["labels"].shape[0] == extra["warm"].shape[0] >= 3
    assert Store(root / "both" / "0" / "shown.h5").ids == ["a0"]

    given = {
        **{key: inputs[key] for key in ("classes", "vocabulary")},
        "manifest": root / "data" / "a" / "manifest.csv",
        "mapping": root / "mapping.json",
        "counts": parts,
    }
    stage(repository, "evaluate", Evaluate(**FILLED), given, {"miou": root / "miou.json"})
    miou = json.loads((root / "miou.json").read_text())
    assert [one["variant"] for one in miou["variants"]] == ["attentive", "attentive on animals"]
    assert (miou["variant"], miou["images"], miou["system"], miou["dataset"]) == (
        "attentive", 2, "larvseg", "a",
    )  # fmt: skip
    assert set(miou["variants"][0]["groups"]) == {"covered", "uncovered", "rare", "common", "frequent"}
    stage(repository, "summary", Evaluate(), {"miou": [root / "miou.json"]}, {"summary": root / "sum.csv"})
    with (root / "sum.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["attentive", "attentive on animals"]


def test_a_mask_of_another_size_is_refused(repository: Path, root: Path, inputs: dict[str, Any]) -> None:
    folder = root / "odd"
    folder.mkdir()
    Image.fromarray(picture(40, 64)).save(folder / "x.png")
    Image.fromarray(np.ones((40, 60), np.uint8)).save(folder / "mask.png")
    Manifest([Sample("x", folder / "x.png", folder / "mask.png", "test", (1,))]).write(
        folder / "manifest.csv"
    )
    outputs = {name: folder / name for name in ("labels", "counts", "shown")}
    options = Predict(**FILLED, **VIEW, target="animals")
    with pytest.raises(DataError, match=r"image x is \(40, 64\) px, its mask \(40, 60\) px"):
        stage(repository, "predict", options, {**inputs, "manifest": folder / "manifest.csv"}, outputs)


def test_compactness(repository: Path, root: Path, inputs: dict[str, Any]) -> None:
    options = Compactness(**FILLED, **VIEW, points=[1, 64], repeats=2, target="both")
    given = {**inputs, "manifest": root / "data" / "a" / "manifest.csv"}
    stage(repository, "compactness", options, given, {"compactness": root / "compactness.json"})
    found = json.loads((root / "compactness.json").read_text())
    assert (found["target"], found["images"], found["method"]) == ("both", 2, "attentive")
    one, many = found["points"]
    assert (one["points"], many["points"]) == (1, 64)
    assert len(one["all"]["each"]) == 2
    assert many["all"]["mean"] > one["all"]["mean"] > 0  # the more seeds, the better


def test_segment_21k(repository: Path, root: Path, inputs: dict[str, Any]) -> None:
    given = {**inputs, "manifest": root / "data" / "b" / "manifest.csv"}
    for name, classes in (("every", None), ("some", ["rock", "cow"])):
        folder = root / name
        outputs = {key: folder / f"{key}.csv" for key in ("labels", "classes", "segments")}
        options = Segment(**FILLED, **VIEW, data="b", subsets=["test"], classes=classes, best=2)
        stage(repository, "segment_21k", options, given, outputs)
        assert ClassTable.read(outputs["classes"]).names == ("sky", "sea", "cat", "cow", "rock")
        with outputs["segments"].open() as file:
            rows = list(csv.DictReader(file))
        labels = LabelMaps(outputs["labels"])
        assert labels.ids == ["b0", "b1"]
        values = {int(value) for value in np.unique(labels["b0"])}
        assert {int(row["segment"]) for row in rows if row["image"] == "b0"} >= values
        if classes:
            assert values <= {3, 4}
            assert {row["name"] for row in rows} == {"cow", "rock"}
        firsts = [row for row in rows if row["image"] == "b0" and row["rank"] == "1"]
        assert sum(float(row["share"]) for row in firsts) == pytest.approx(1, abs=1e-5)
