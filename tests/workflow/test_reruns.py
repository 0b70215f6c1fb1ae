"""Change this key, these rules rerun: the promise of the configuration, held by dry runs.

The results are made once, by a stub that only creates files; then each change is dry-run over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

# The shipped configuration is tuned now and then; these keys must differ from what they are changed to.
# The source of labels, of image labels alone, has images of a manifest and of an image set.
SIZES = {"crop": 160, "short_side": 160, "long_side": 640, "images_per_step": 8}
SOURCES = [
    {"name": "masks", "data": "scenes", "role": "pixel", "classes": ["mug", "owl", "kite"], **SIZES},
    {"name": "labels", "data": "scenes", "role": "image", "label_source": "image", **SIZES},
    {"name": "folders", "data": "folders", "role": "image", "names": "imagenet", **SIZES},
]
EXPERIMENT = {"sources": SOURCES, "targets": [{"name": "objects", "data": "scenes"}]}

BEFORE: dict[str, Any] = {
    "retab.shards": 2,
    "retab.affinity_map.border": "official",
    "retab.split.rule": "mask",
    "raml.scheme": None,
    "raml.novel_classes": {"small": ["mug", "owl"], "other": ["kite"]},
    "raml.splits": ["small", "other"],
    "pop.shots": [1],
    "pop.support_seeds": [0],
    "pop.methods": ["pop", "prototype"],
    "pop.novel_update.mode": "cached",
    "simformer.data": "scenes",
    "simformer.splits": ["split1"],
    "simformer.variants": ["full", "no_extras"],
    "simformer.retraining": True,
    "larvseg.experiments": {"one": EXPERIMENT, "two": EXPERIMENT},
    "larvseg.image_sets": {"folders": {"root": "nowhere"}},
    "larvseg.splits": ["one"],
    "larvseg.measure_compactness": True,
    "larvseg.segment_21k.data": "scenes",
}

# Stages that draw random numbers.
SEEDED = {
    "retab_classifier", "retab_boundary", "retab_affinity", "retab_segmentation",
    "raml_closed_set", "raml_meta_channel", "raml_metric",
    "pop_base", "pop_views", "pop_novel_update",
    "simformer_joint", "simformer_retrain",
    "larvseg_baseline", "larvseg_attentive", "larvseg_compactness",
}  # fmt: skip

POP_TRAINING = {
    "pop_index", "pop_base", "pop_support", "pop_features", "pop_views", "pop_novel_update",
}  # fmt: skip

SIMFORMER_TRAINING = {
    "simformer_pairs", "simformer_joint", "simformer_pseudo_label", "simformer_retrain",
}  # fmt: skip
LARVSEG_TRAINING = {"larvseg_vocabulary", "larvseg_baseline", "larvseg_attentive"}
LARVSEG_SCORING = {
    "larvseg_predict", "larvseg_evaluate", "larvseg_compactness", "larvseg_segment_21k", "larvseg_summary",
    "report",
}  # fmt: skip
SIMFORMER_SCORING = {"simformer_predict", "simformer_evaluate", "simformer_summary", "report"}


def weighted(key: str) -> list[dict[str, Any]]:
    """The sources, another weight of the second."""
    return [SOURCES[0], {**SOURCES[1], key: 0.77}, SOURCES[2]]


# A change of this key makes these rules run again for their own sake; what depends on them follows.
CHANGES: list[tuple[str, Any, set[str]]] = [
    ("data.scenes.size", 96, {"data_prepare"}),
    ("data.scenes.on_bad_sample", "skip", {"data_prepare"}),
    ("retab.split.rule", "labels", {"retab_split"}),
    ("retab.classifier.optimiser.learning_rate", 0.0123, {"retab_classifier"}),
    ("retab.classifier.dropout", 0.25, {"retab_classifier"}),
    ("retab.cam.scales", [1.0, 3.0], {"retab_cam"}),
    ("retab.crf_label.alpha_low", 5.0, {"retab_crf_label"}),
    ("retab.crf_label.crf.steps", 3, {"retab_crf_label"}),
    ("retab.boundary.contour_width", 9, {"retab_boundary"}),
    ("retab.boundary_map.threshold", 0.31, {"retab_boundary_map"}),
    ("retab.affinity.radius", 3, {"retab_affinity"}),
    ("retab.affinity_map.border", "full", {"retab_affinity_map"}),
    ("retab.random_walk.beta", 7.0, {"retab_random_walk"}),
    ("retab.pseudo_label.threshold", 0.41, {"retab_pseudo_label"}),
    ("retab.segmentation.optimiser.momentum", 0.51, {"retab_segmentation"}),
    ("retab.predict.scales", [1.0, 1.7], {"retab_predict"}),
    ("retab.score_maps.walk_sweep", [0.0, 0.3, 0.1], {"retab_score_maps"}),
    ("retab.score_subset", "val", {"retab_score_maps"}),
    ("retab.evaluate_subset", "train", {"retab_predict", "retab_evaluate"}),
    ("raml.novel_classes", {"small": ["mug", "fish"], "other": ["kite"]}, {"raml_split"}),
    ("raml.splits", ["small"], {"raml_summary", "report"}),
    ("raml.closed_set.optimiser.learning_rate", 0.0123, {"raml_closed_set"}),
    ("raml.meta_channel.coverage", 0.03, {"raml_meta_channel"}),
    ("raml.metric.gamma", 9.0, {"raml_metric"}),
    ("raml.novel_bank.hit_ratio", 0.2, {"raml_novel_bank"}),
    ("raml.open_world.threshold", 0.85, {"raml_open_world"}),
    ("raml.open_world.reject_known", True, {"raml_open_world", "raml_evaluate"}),
    ("raml.anomaly.sobel", 60.0, {"raml_anomaly"}),
    ("raml.profile", "paper", {"raml_meta_channel", "raml_metric", "raml_open_world"}),
    ("raml.support_seeds", [0, 1], {"raml_novel_bank", "raml_open_world", "report"}),
    ("pop.index.order", "manifest", {"pop_index"}),
    ("pop.base.optimiser.learning_rate", 0.0123, {"pop_base"}),
    ("pop.min_pixels", 301, {"pop_support", "pop_features", "pop_novel_update"}),
    ("pop.filter_novel", True, {"pop_base", "pop_support", "pop_features", "pop_novel_update"}),
    ("pop.support.lists", "lists", {"pop_support"}),
    ("pop.features.dtype", "float32", {"pop_features"}),
    ("pop.views.number", 3, {"pop_views"}),
    ("pop.views.number", 0, {"pop_novel_update", "report"}),
    ("pop.novel_update.orthogonality_weight", 5.0, {"pop_novel_update"}),
    ("pop.novel_update.mode", "exact", {"pop_novel_update", "report"}),
    ("pop.support_seeds", [0, 1], {"pop_support", "pop_views", "pop_novel_update", "pop_predict", "report"}),
    ("pop.methods", ["pop", "finetune"], {"pop_novel_update", "pop_predict", "report"}),
    ("pop.predict.size", 128, {"pop_predict"}),
    ("pop.evaluate_subset", "train", {"pop_predict", "pop_evaluate"}),
    ("pop.train_subsets", ["val"], POP_TRAINING),
    ("pop.folds", ["fold0", "fold1"], {"pop_summary", "report"}),
    ("simformer.joint.pairing", "random", {"simformer_joint"}),
    ("simformer.joint.pairs.points", 17, {"simformer_joint"}),
    ("simformer.pseudo_label.restrict", True, {"simformer_pseudo_label"}),
    ("simformer.retrain.network.queries", 33, {"simformer_retrain"}),
    ("simformer.predict.short_sides", [128], {"simformer_predict"}),
    ("simformer.evaluate_subset", "train", {"simformer_predict", "simformer_evaluate"}),
    ("simformer.train_subsets", ["val"], SIMFORMER_TRAINING),
    ("simformer.splits", ["split1", "split2"], SIMFORMER_TRAINING | SIMFORMER_SCORING),
    ("simformer.retraining", False, {"simformer_evaluate", "report"}),
    ("larvseg.image_sets", {"folders": {"root": "elsewhere"}}, {"larvseg_images"}),
    ("larvseg.experiments.one.sources", weighted("attention_weight"), {"larvseg_attentive"}),
    ("larvseg.experiments.one.sources", weighted("weight"), {"larvseg_attentive", "larvseg_baseline"}),
    ("larvseg.baseline.form", "bce", {"larvseg_baseline"}),
    ("larvseg.attentive.attention.slots", 3, {"larvseg_attentive"}),
    ("larvseg.predict.postprocess", "logit_bilinear", {"larvseg_predict"}),
    ("larvseg.compactness.points", [2], {"larvseg_compactness"}),
    ("larvseg.segment_21k.best", 3, {"larvseg_segment_21k"}),
    ("larvseg.evaluate.bands", [5, 50], {"larvseg_evaluate"}),
    ("larvseg.methods", ["attentive"], {"larvseg_evaluate", "report"}),
    ("larvseg.splits", ["one", "two"], LARVSEG_TRAINING | LARVSEG_SCORING),
    ("seed", 7, SEEDED),
    ("retab.folds", ["fold0", "fold1"], {"retab_summary", "report"}),
    ("retab.baselines", [], {"retab_score_maps", "report"}),
    ("report.title", "Another page", {"report"}),
]

# What follows a change of one stage, straight or through others.
FOLLOWS: dict[str, set[str]] = {
    "report": set(),
    "retab_summary": {"report"},
    "retab_evaluate": {"retab_summary"},
    "retab_predict": {"retab_evaluate"},
    "retab_score_maps": {"retab_evaluate", "retab_summary"},
    "retab_segmentation": {"retab_predict"},
    "retab_pseudo_label": {"retab_segmentation", "retab_score_maps"},
    "retab_random_walk": {"retab_pseudo_label", "retab_score_maps"},
    "retab_affinity_map": {"retab_random_walk"},
    "retab_affinity": {"retab_affinity_map"},
    "retab_boundary_map": {"retab_affinity", "retab_random_walk"},
    "retab_boundary": {"retab_boundary_map"},
    "retab_crf_label": {"retab_affinity"},
    "retab_cam": {"retab_crf_label", "retab_random_walk", "retab_score_maps"},
    "retab_classifier": {"retab_cam"},
    "retab_split": {"retab_boundary", "retab_affinity", "retab_pseudo_label", "retab_segmentation"},
    "raml_evaluate": {"raml_summary"},
    "raml_summary": {"report"},
    "raml_anomaly": {"report"},
    "raml_open_world": {"raml_evaluate"},
    "raml_novel_bank": {"raml_open_world"},
    "raml_metric": {"raml_novel_bank", "raml_open_world", "raml_anomaly"},
    "raml_meta_channel": {"raml_metric"},
    "raml_closed_set": {"raml_meta_channel"},
    "raml_split": {"raml_closed_set"},
    "pop_summary": {"report"},
    "pop_evaluate": {"pop_summary"},
    "pop_predict": {"pop_evaluate"},
    "pop_novel_update": {"pop_predict"},
    "pop_features": {"pop_novel_update"},
    "pop_views": {"pop_novel_update"},
    "pop_support": {"pop_views", "pop_novel_update"},
    "pop_base": {"pop_features", "pop_views", "pop_novel_update", "pop_predict"},
    "pop_index": {"pop_base", "pop_support", "pop_features", "pop_novel_update"},
    "simformer_summary": {"report"},
    "simformer_evaluate": {"simformer_summary"},
    "simformer_predict": {"simformer_evaluate"},
    "simformer_retrain": {"simformer_predict"},
    "simformer_pseudo_label": {"simformer_retrain"},
    "simformer_joint": {"simformer_pseudo_label", "simformer_predict"},
    "simformer_pairs": {"simformer_joint"},
    "larvseg_summary": {"report"},
    "larvseg_evaluate": {"larvseg_summary"},
    "larvseg_predict": {"larvseg_evaluate"},
    "larvseg_compactness": {"report"},
    "larvseg_segment_21k": set(),
    "larvseg_attentive": {"larvseg_predict", "larvseg_compactness", "larvseg_segment_21k"},
    "larvseg_baseline": {"larvseg_predict"},
    "larvseg_vocabulary": LARVSEG_TRAINING | LARVSEG_SCORING,
    "larvseg_images": {"larvseg_vocabulary"},
    "data_prepare": {
        "retab_split",
        "retab_classifier",
        "retab_evaluate",
        "raml_split",
        "pop_index",
        "simformer_pairs",
        "larvseg_vocabulary",
    },
}

# Keys without influence on any result.
NO_INFLUENCE: list[tuple[str, Any]] = [
    ("gpus", 4),
    ("targets", ["report", "all_folds"]),
    ("data.unused", {"reader": "scenes", "size": 128}),
]


def closure(rules: set[str]) -> set[str]:
    """`rules` and everything that follows from them."""
    found, todo = set(rules), list(rules)
    while todo:
        fresh = FOLLOWS[todo.pop()] - found
        found |= fresh
        todo += fresh
    return found


@pytest.fixture(scope="module")
def made(project: Callable[[str], Any]) -> Any:
    """A project whose results are all there."""
    finished = project("reruns")
    finished.shipped = finished.changed(BEFORE)
    finished.build()
    assert not finished.plan().rules, "a finished run has nothing to do"
    return finished


@pytest.mark.parametrize(("key", "value", "expected"), CHANGES, ids=[change[0] for change in CHANGES])
def test_a_key_reruns_its_own_stage_and_what_depends_on_it(
    made: Any, key: str, value: Any, expected: set[str]
) -> None:
    plan = made.plan(change={key: value})
    assert plan.direct == expected
    assert plan.rules == closure(expected)


@pytest.mark.parametrize(("key", "value"), NO_INFLUENCE, ids=[change[0] for change in NO_INFLUENCE])
def test_a_key_without_influence_reruns_nothing(made: Any, key: str, value: Any) -> None:
    assert not made.plan(change={key: value}).rules


def test_every_stage_is_in_the_table(made: Any) -> None:
    tested = set().union(*(expected for _, _, expected in CHANGES))
    rules = {job.rule.name for job in made.plan().jobs if not job.is_norun}
    assert rules == tested


def test_comments_and_the_order_of_keys_rerun_nothing(made: Any) -> None:
    made.plan()
    path = made.folder / "config.yaml"
    groups = dict(reversed(list(made.shipped.items())))
    path.write_text("# a comment\n" + _dump(groups) + "\n# another\n")
    assert not made.execute((), "dryrun").rules


def test_a_newer_script_reruns_nothing(made: Any, repository: Path) -> None:
    """After a checkout every script is newer than every result; only options decide."""
    script = repository / "workflow" / "scripts" / "data" / "prepare.py"
    script.touch()
    assert not made.plan().rules


def test_a_moved_checkout_reruns_nothing(made: Any, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    made.folder.rename(moved)
    try:
        home, made.folder = made.folder, moved
        assert not made.plan().rules
    finally:
        moved.rename(home)
        made.folder = home


def test_another_variant_trains_and_scores_that_one_alone(made: Any) -> None:
    plan = made.plan(change={"simformer.variants": ["full", "no_extras", "oracle"]})
    assert plan.direct == {"simformer_joint", "simformer_predict", "simformer_evaluate", "report"}
    assert plan.rules == plan.direct | {"simformer_summary"}
    trainings = [job for job in plan.jobs if job.rule.name == "simformer_joint"]
    there = {job.wildcards.method: (made.folder / job.output.weights).exists() for job in trainings}
    assert there == {"full": True, "no_extras": True, "oracle": False}


def test_a_missing_shard_reruns_that_shard_alone(made: Any) -> None:
    store = made.folder / "results" / "retab" / "shared" / "cam" / "1of2.h5"
    content = store.read_bytes()
    store.unlink()
    try:
        plan = made.plan(["results/retab/shared/cam/1of2.h5", "results/retab/shared/cam/2of2.h5"])
        assert plan.rules == {"retab_cam"}
    finally:
        store.write_bytes(content)
        made.build()


def test_another_number_of_shards_reruns_what_is_cut(made: Any) -> None:
    plan = made.plan(change={"retab.shards": made.shipped["retab"]["shards"] + 1})
    assert {"retab_cam", "retab_crf_label", "retab_random_walk"} <= plan.direct
    assert not {"retab_classifier", "retab_boundary", "retab_split"} & plan.rules


def _dump(content: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(content), sort_keys=False))
