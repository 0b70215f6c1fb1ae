"""Class names that a shell, a browser, a file system or a format string would take for more than text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anyshot.data.classes import ClassTable
from anyshot.larvseg import options as larvseg
from anyshot.pop import options as pop
from anyshot.raml import options as raml
from anyshot.retab import options as retab
from anyshot.simformer import options as simformer
from tests.shapes import ADAM, BACKBONE, COLOURS, SIDE, ShapesRun

SHELL, CHINESE = '"; rm -rf ~"', "有轨电车"
NOVEL = [SHELL, CHINESE]
NAMES = (
    "ground", "<script>alert(1)</script>", "../../evil", "$(touch pwned) `touch pwned` 'x' {0} {y} %s",
    "=1+1|a;b",
    *NOVEL,
)  # fmt: skip
TABLE = ClassTable.of(NAMES, kinds=["background"] + ["thing"] * 6, colours=COLOURS)
ONE_STEP: dict[str, Any] = {**ADAM, "max_steps": 1}


class NamedRun(ShapesRun):
    """The stages of a system on coloured shapes, whose classes have these names."""

    def __init__(self, folder: Path, repository: Path, system: str) -> None:
        super().__init__(folder, repository, system)
        TABLE.write(folder / "classes.csv")

    def made(self, **names: str) -> dict[str, Path]:
        """Outputs in a folder of their own."""
        return {key: self.folder / "out" / name for key, name in names.items()}


def run_retab(run: NamedRun) -> Path:
    train, val = (retab.Dataset(subsets=[name], split="mine") for name in ("train", "val"))
    shared = retab.Dataset(subsets=["train"])  # of all splits
    backbone = {**BACKBONE, "freeze_norm": False}
    split = run.made(split="split.json", samples="samples.csv")
    samples = {"samples": split["samples"]}
    run.call("split", retab.Split(rule="labels", novel=NOVEL, dataset=train), {}, split)
    sizes: dict[str, Any] = {"backbone": backbone, "crop": SIDE, "long_side": [SIDE, SIDE]}
    classifier, boundary, affinity, network = (
        run.network(name) for name in ("classifier", "boundary", "affinity", "segmentation")
    )
    run.call("classifier", retab.Classifier(**sizes, optimiser=ONE_STEP, dataset=shared), {}, classifier)
    cam, crf, contours, pairs, walk = (
        run.made(store=f"{name}.h5") for name in ("cam", "crf", "contours", "pairs", "walk")
    )
    scores = retab.Cam(scales=[1.0], mirror=False, dataset=shared)
    run.call("cam", scores, {"classifier": classifier["weights"]}, cam)
    run.call("crf_label", retab.CrfLabel(dataset=shared), {"cam": cam["store"]}, crf)
    crops: dict[str, Any] = {"backbone": backbone, "crops": {"crop": SIDE}}
    crops["optimiser"] = {**ONE_STEP, "batch_size": 4}
    run.call("boundary", retab.Boundary(**crops, contour="synthesise", dataset=train), samples, boundary)
    run.call("boundary_map", retab.BoundaryMap(dataset=train), {"boundary": boundary["weights"]}, contours)
    run.call(
        "affinity",
        retab.Affinity(**crops, branch_channels=[8, 8, 8], dataset=train),
        {**samples, "crf_label": [crf["store"]], "boundary_map": [contours["store"]]},
        affinity,
    )
    run.call("affinity_map", retab.AffinityMap(dataset=train), {"affinity": affinity["weights"]}, pairs)
    maps = {"cam": cam["store"], "affinity_map": pairs["store"], "boundary_map": contours["store"]}
    run.call("random_walk", retab.RandomWalk(dataset=train), maps, walk)
    pseudo, labels = run.made(labels="pseudo/labels.csv"), run.made(labels="predict/labels.csv")
    given = {**samples, "random_walk": walk["store"]}
    run.call("pseudo_label", retab.PseudoLabel(dataset=train), given, pseudo)
    tables = run.made(scores="scores.json", images="scores.csv")
    given = {**split, "cam": [cam["store"]], "retab": [walk["store"]], "pseudo_label": [pseudo["labels"]]}
    run.call("score_maps", retab.ScoreMaps(dataset=train), given, tables)
    options = retab.Segmentation(
        **sizes, head_channels=8, head_dilation=1, scales=[1.0], optimiser=ONE_STEP, dataset=train
    )
    run.call("segmentation", options, {**samples, "pseudo_label": [pseudo["labels"]]}, network)
    predict = retab.Predict(scales=[1.0], mirror=False, crf=None, dataset=val)
    run.call("predict", predict, {"segmentation": network["weights"]}, labels)
    given = {**split, "scores": tables["scores"], "predict": [labels["labels"]]}
    run.call("evaluate", retab.Evaluate(dataset=val), given, run.made(miou="miou.json", images="images.csv"))
    return network["weights"].parent


def run_raml(run: NamedRun) -> Path:
    train, val = (raml.OpenDataset(subsets=[name], split="mine") for name in ("train", "val"))
    split = run.made(split="split.json")
    run.call("split", raml.Split(novel=NOVEL, dataset=train), {}, split)
    closed, meta, metric = (run.network(name) for name in ("closed_set", "meta_channel", "metric"))
    network = raml.ClosedSet(
        backbone=raml.OpenBackbone(**BACKBONE), crop=SIDE, channels=16, low_channels=8,
        optimiser=raml.OpenOptimiser(**ONE_STEP), divide_by_batch=False, dataset=train,
    )  # fmt: skip
    run.call("closed_set", network, split, closed)
    further = raml.MetaChannel(
        crop=SIDE, optimiser=raml.MetaOptimiser(**ONE_STEP), divide_by_batch=False, dataset=train
    )
    run.call("meta_channel", further, {**split, "closed_set": closed["weights"]}, meta)
    embedding = raml.Metric(
        crop=SIDE, optimiser=raml.MetricOptimiser(**ONE_STEP), prototype_images=4, dataset=train
    )
    run.call("metric", embedding, {**split, "meta_channel": meta["weights"]}, metric)
    bank = run.made(bank="novel_bank/bank.json")
    chosen = raml.NovelBank(min_pixels=60, shots=1, support_seed=0, best_channel=True, dataset=train)
    run.call("novel_bank", chosen, {**split, "metric": metric["weights"]}, bank)
    outputs = run.made(
        labels="open_world/labels.csv", regions="regions.csv", counts="counts.json", shown="shown.h5"
    )
    world = raml.OpenWorld(closing=1, min_area=1, threshold=-1.0, dataset=val)
    run.call("open_world", world, {**split, "metric": metric["weights"], "banks": [bank["bank"]]}, outputs)
    anomaly = raml.Anomaly(dataset=val)
    run.call("anomaly", anomaly, {**split, "metric": metric["weights"]}, run.made(anomaly="anomaly.json"))
    given = {**split, "counts": outputs["counts"]}
    run.call("evaluate", raml.Evaluate(dataset=val), given, run.made(miou="miou.json"))
    return metric["weights"].parent


def run_pop(run: NamedRun) -> Path:
    train, val = (pop.FoldDataset(subsets=[name], split="mine", novel=NOVEL) for name in ("train", "val"))
    index, supports = run.made(index="index.csv"), run.made(supports="support.json")
    run.call("index", pop.Index(dataset=train), {}, index)
    network, head = run.network("base"), run.network("novel_update")
    options = pop.Base(
        backbone=pop.PopBackbone(**BACKBONE), crop=SIDE, channels=16,
        optimiser=pop.BaseOptimiser(**ONE_STEP), dataset=train,
    )  # fmt: skip
    run.call("base", options, index, network)
    chosen = pop.Support(shots=1, support_seed=0, min_pixels=60, dataset=train)
    run.call("support", chosen, index, supports)
    features = run.made(features="features.h5")
    given = {**index, "base": network["weights"]}
    run.call("features", pop.Features(size=SIDE, min_pixels=60, dataset=train), given, features)
    update = pop.NovelUpdate(
        method="pop", mode="cached", crop=SIDE, min_pixels=60, dataset=train,
        optimiser=pop.NovelOptimiser(**{**ONE_STEP, "batch_size": 2}),
    )  # fmt: skip
    run.call("novel_update", update, {**given, **supports, **features}, head)
    outputs = run.made(labels="predict/labels.csv", counts="counts.json", shown="shown.h5")
    given = {"base": network["weights"], "heads": [head["weights"]]}
    run.call("predict", pop.Predict(size=SIDE, shown_images=1, dataset=val), given, outputs)
    scores = {"counts": outputs["counts"]}
    run.call("evaluate", pop.Evaluate(dataset=val), scores, run.made(miou="miou.json"))
    return network["weights"].parent


def run_simformer(run: NamedRun) -> Path:
    train, val = (
        simformer.WeakDataset(subsets=[name], split="mine", novel=NOVEL) for name in ("train", "val")
    )
    pairs, network = run.made(pairs="pairs.json"), run.network("joint")
    run.call("pairs", simformer.Pairs(dataset=train), {}, pairs)
    options = simformer.Joint(
        variant="full",
        backbone=simformer.MaskBackbone(name="resnet18", weights="none", freeze_norm=False),
        network=simformer.MaskNetwork(width=32, queries=8, layers=1, heads=4, feedforward=32, dropout=0.0),
        augmentation=simformer.Augmentation(crop=SIDE, short_sides=[SIDE], longest=SIDE, jitter=False),
        pairs=simformer.PairLosses(points=8),
        optimiser=simformer.JointOptimiser(**{**ONE_STEP, "batch_size": 4}),
        dataset=train,
    )
    run.call("joint", options, pairs, network)
    outputs = run.made(labels="predict/labels.csv", counts="counts.json", shown="shown.h5")
    predict = simformer.Predict(short_sides=[SIDE], shown_images=1, dataset=val)
    run.call("predict", predict, {"network": network["weights"]}, outputs)
    scores = {"counts": outputs["counts"]}
    run.call("evaluate", simformer.Evaluate(dataset=val), scores, run.made(miou="miou.json"))
    return network["weights"].parent


def run_larvseg(run: NamedRun) -> Path:
    name = run.folder.name
    sizes: dict[str, Any] = {"crop": SIDE, "short_side": SIDE, "long_side": SIDE, "jitter": False}
    sizes["images_per_step"] = 2
    masks = larvseg.Source(name="masks", data=name, role="pixel", classes=list(NAMES[1:5]), **sizes)
    tags = larvseg.Source(name="tags", data=name, role="image", label_source="image", **sizes)
    filled: dict[str, Any] = {
        "experiment": larvseg.Experiment(
            sources=[masks, tags],
            targets=[larvseg.Target(name="shapes", data=name)],
        ),
        "split": "mine",
    }  # fmt: skip
    lists = run.made(vocabulary="vocabulary.json", mapping="mapping.json")
    run.call("vocabulary", larvseg.Vocabulary(**filled), {}, lists)
    network = run.network("attentive")
    options = larvseg.Attentive(
        **filled,
        backbone=larvseg.TokenBackbone(name="resnet18", weights="none", input_statistics="model"),
        neck=larvseg.Neck(kind="fpn", stride=8, width=32),
        attention=larvseg.Attention(slots=1, tokens=2),
        optimiser=larvseg.MixedOptimiser(**{**ONE_STEP, "batch_size": 2}),
    )
    words = {"vocabulary": lists["vocabulary"]}
    run.call("attentive", options, words, network)
    given, view = {**words, "network": network["weights"]}, {"short_side": SIDE, "long_side": 4 * SIDE}
    outputs = run.made(labels="predict/labels.csv", counts="counts.json", shown="shown.h5")
    predict = larvseg.Predict(
        **filled, **view, window=None, target="shapes", method="attentive", shown_images=1
    )
    run.call("predict", predict, given, outputs)
    segment = larvseg.Segment(**filled, **view, window=None, data=name, subsets=["val"], best=2)
    segments = run.made(labels="segment/labels.csv", classes="segment/classes.csv", segments="segments.csv")
    run.call("segment_21k", segment, given, segments)
    scores = {**words, "mapping": lists["mapping"], "counts": outputs["counts"]}
    run.call("evaluate", larvseg.Evaluate(**filled), scores, run.made(miou="miou.json"))
    return network["weights"].parent


RUNS = {
    "retab": run_retab, "raml": run_raml, "pop": run_pop, "simformer": run_simformer, "larvseg": run_larvseg
}  # fmt: skip
