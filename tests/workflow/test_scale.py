"""The arithmetic of docs/scale.md: jobs and files are Snakemake's, operations those of the published runs."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    GroupSettings,
    OutputSettings,
    ResourceSettings,
)

from anyshot.config import Config, load, merged
from benchmarks.scale_checkout import Checkout, configuration
from benchmarks.scale_counts import BESIDE, stages, total_jobs
from benchmarks.scale_formulas import SYSTEMS, Cost, Data

SHIPPED: dict[str, Any] = {}
MORE: dict[str, Any] = {
    "retab.shards": 3,
    "retab.folds": ["fold0", "fold2"],
    "retab.affinity.labels": "crf_only",
    "raml.shots": [1, 5],
    "pop.novel_update.mode": "exact",
    "pop.shards": 2,
    "simformer.retraining": True,
    "simformer.shards": 4,
    "larvseg.shards": 3,
    "larvseg.measure_compactness": True,
    "larvseg.segment_21k.data": "scenes_stuff",
}
NO_BASELINE: dict[str, Any] = {"retab.baselines": [], "systems": ["retab"], "retab.shards": 5}


@pytest.mark.parametrize("change", [SHIPPED, MORE, NO_BASELINE], ids=["shipped", "more", "no_baseline"])
def test_jobs_are_those_that_snakemake_plans(project: Callable[[str], Any], change: dict[str, Any]) -> None:
    made = project("jobs")
    plan = made.plan(["all_folds"], change)
    planned = Counter(job.rule.name for job in plan.jobs if not job.is_norun)
    assert {stage.rule: stage.jobs for stage in stages(load(made.changed(change)))} == planned


def test_files_are_those_of_a_run(tmp_path: Path) -> None:
    """Of the pretended stages, which write no label maps."""
    content, _ = configuration(100)
    checkout = Checkout.make(tmp_path / "checkout", {**content, "systems": ["simformer"]})
    subprocess.run(checkout.command("--", "all_folds"), cwd=checkout.folder, check=True)
    found = stages(checkout.config())
    results = [path for path in (checkout.folder / "results").rglob("*") if path.is_file()]
    records = list((checkout.folder / ".snakemake" / "metadata").rglob("*"))
    assert len(results) == sum(stage.files(0, 0) for stage in found)
    assert len([path for path in records if path.is_file()]) == sum(stage.records() for stage in found)


def test_label_maps_count_once_per_pass() -> None:
    content, _ = configuration(100)
    predict = next(one for one in stages(load(content)) if one.rule == "simformer_predict")
    methods = len(content["simformer"]["variants"])
    assert predict.files(1000, 10) == predict.jobs * (3 + BESIDE) + methods * 10


@pytest.mark.parametrize("jobs", [100, 1000, 10_000])
def test_the_benchmark_has_about_as_many_jobs_as_it_says(jobs: int) -> None:
    content, exact = configuration(jobs)
    assert abs(exact - jobs) <= 0.02 * jobs
    assert total_jobs(stages(load(content))) + 1 == exact


GROUPS = [  # groups and components of docs/scale.md, the rule looked at, its jobs, what is submitted
    ("simformer", {"simformer_predict": "predict"}, {"predict": 8}, "simformer_predict", 24, 3),
    ("retab", {"retab_cam": "maps", "retab_crf_label": "maps"}, {}, "retab_crf_label", 12, 12),
]


@pytest.mark.parametrize(
    ("system", "groups", "components", "rule", "count", "submitted"), GROUPS, ids=[one[0] for one in GROUPS]
)
def test_groups_divide_the_jobs_that_are_submitted(
    project: Callable[[str], Any], repository: Path, system: str, groups: dict[str, str],
    components: dict[str, int], rule: str, count: int, submitted: int,
) -> None:  # fmt: skip
    """With `--resources=gpu=1` no group asks for more than one GPU, however many jobs it has."""
    made = project("groups")
    made.configure({"systems": [system], f"{system}.shards": 12})
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=8, resources={"gpu": 1}),
            config_settings=ConfigSettings(),
            snakefile=repository / "Snakefile",
            workdir=made.folder,
        )
        planned = workflow.dag(dag_settings=DAGSettings(targets={f"{system}_all"}))
        settings = GroupSettings(overwrite_groups=groups, group_components=components)
        planned.execute_workflow(executor="dryrun", group_settings=settings)
        dag = workflow._workflow.dag
        found = [dag.get_job_group(job) for job in dag.jobs if job.rule.name == rule]
        assert len(found) == count
        assert len(set(found)) == submitted
        assert {group.resources["gpu"] for group in found} == {1}
        members = {job.rule.name for group in found for job in group.jobs}
    assert members == set(groups)


def published(repository: Path, *overlays: str) -> Config:
    paths = [repository / "config" / "paper" / f"{name}.yaml" for name in overlays]
    return load(merged([repository / "config.yaml", *paths]))


def costs(repository: Path, system: str, overlay: str, data: Data) -> dict[str, Cost]:
    return SYSTEMS[system](published(repository, overlay), data)


VOC = Data(train=10_582, evaluated=1_449, pixels=375 * 500, classes=21)

# PFLOP that the heads of config/paper and the specifications name, of all splits. POP trains on the images
# that show a base class: 441,000 in 50 epochs.
PUBLISHED = [
    ("retab", "retab_voc", VOC, "retab_classifier", 380),
    ("retab", "retab_voc", VOC, "retab_cam", 119),
    ("retab", "retab_voc", VOC, "retab_affinity", 5 * 203),
    ("retab", "retab_voc", VOC, "retab_segmentation", 4 * 870),
    ("raml", "raml_cityscapes", Data(2_975, 500, 2048 * 1024, 19), "raml_closed_set", 3 * 190),
    ("raml", "raml_cityscapes", Data(2_975, 500, 2048 * 1024, 19), "raml_meta_channel", 3 * 64),
    ("raml", "raml_cityscapes", Data(2_975, 500, 2048 * 1024, 19), "raml_metric", 3 * 6.3),
    ("pop", "pop_voc", Data(8_820, 1_449), "pop_base", 4 * 440),
    ("pop", "pop_coco", Data(82_081, 40_137), "pop_base", 4 * 4000),
    ("larvseg", "larvseg_ade150", Data(118_287, 2_000), "larvseg_attentive", 3300),
]


@pytest.mark.parametrize(
    ("system", "overlay", "data", "stage", "petaflop"),
    PUBLISHED,
    ids=[f"{one[1]}-{one[3]}" for one in PUBLISHED],
)
def test_operations_are_those_that_the_overlays_name(
    repository: Path, system: str, overlay: str, data: Data, stage: str, petaflop: float
) -> None:
    found = costs(repository, system, overlay, data)[stage].flop / 1e15
    assert found == pytest.approx(petaflop, rel=0.02)


def test_features_of_an_image_take_what_its_numbers_take(repository: Path) -> None:
    """60 x 60 cells, 512 channels, float16: 3.69 MB per image and fold (pop.md 5.3)."""
    content = merged([repository / "config.yaml", repository / "config" / "paper" / "pop_voc.yaml"])
    content["pop"]["novel_update"]["mode"] = "cached"
    found = SYSTEMS["pop"](load(content), VOC)["pop_features"]
    assert found.bytes / (4 * VOC.train) == pytest.approx(3.69e6, rel=0.01)


def test_costs_of_images_grow_with_the_images(repository: Path) -> None:
    """Trainings counted in steps do not, whatever else does."""
    one, ten = (
        costs(repository, "simformer", "simformer_cocostuff", Data(train, 1000)) for train in (9_000, 90_000)
    )
    assert ten["simformer_pseudo_label"].flop == pytest.approx(10 * one["simformer_pseudo_label"].flop)
    assert ten["simformer_joint"].flop == one["simformer_joint"].flop
