"""The users' second command, `snakemake --profile slurm all_folds`, on a Slurm to the end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anyshot.config import load, merged
from tests.cluster.cluster import Cluster, Submitted, Task, submitted
from tests.end_to_end.checkout import Checkout, succeeded
from tests.reliability.runs import OF_THE_RUN

PATIENCE = 1800  # s
MIOU = ("results/retab/fold0/miou.json", "results/pop/fold0/miou.json")


@dataclass(frozen=True)
class Finished:
    """A run that Slurm carried out."""

    checkout: Checkout
    jobs: list[Submitted]
    tasks: dict[str, Task]
    """the task in which a job's stage ran, by the job's number"""


@pytest.fixture(scope="module")
def finished(cluster: Cluster, checkout: Callable[..., Checkout]) -> Finished:
    made = checkout("slurm")
    done = cluster.snakemake(made, "all_folds", timeout=PATIENCE)
    succeeded(done)
    steps = {task.job: task for task in cluster.tasks() if task.step == "0"}
    jobs = submitted(done.stdout)
    return Finished(checkout=made, jobs=jobs, tasks={one.job: steps[one.job] for one in jobs})


def scores(path: Path) -> Any:
    """What a miou.json says, without what two runs may differ in."""
    content = json.loads(path.read_text())
    return {key: value for key, value in content.items() if key not in (*OF_THE_RUN, "versions", "commit")}


def test_the_scores_are_those_of_a_run_on_this_machine(
    finished: Finished, checkout: Callable[..., Checkout]
) -> None:
    local = checkout("local")
    succeeded(local.run("all_folds"))
    for path in MIOU:
        assert scores(finished.checkout.folder / path) == scores(local.folder / path)


def test_every_stage_was_a_job_of_its_own_that_completed(finished: Finished, cluster: Cluster) -> None:
    states = cluster.states()
    assert {states[one.job] for one in finished.jobs} == {"COMPLETED"}
    shards = load(merged([finished.checkout.folder / "config.yaml"])).retab.shards
    rules = [one.rule for one in finished.jobs]
    assert rules.count("retab_cam") == shards
    assert {"retab_evaluate", "pop_evaluate", "retab_segmentation", "pop_novel_update"} <= set(rules)
    assert not {"retab_summary", "pop_summary"} & set(rules)  # they put a few files together: local rules
    assert {task.node for task in finished.tasks.values()} == {"node1", "node2"}


def test_every_stage_saw_as_many_devices_as_the_configuration_says(finished: Finished) -> None:
    settings = load(merged([finished.checkout.folder / "config.yaml"]))
    for one in finished.jobs:
        count = settings.gpus.of(one.rule) if one.rule in type(settings.gpus).model_fields else 0
        assert len(finished.tasks[one.job].devices) == count, one.rule


def test_no_device_was_held_twice(finished: Finished) -> None:
    spans: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for task in finished.tasks.values():
        for device in task.devices:
            spans.setdefault((task.node, device), []).append((task.begin, task.end))
    assert spans
    for key, held in spans.items():
        for (_, end), (begin, _) in itertools.pairwise(sorted(held)):
            assert end <= begin, key


def test_what_slurm_was_asked_for_is_what_the_rules_need(finished: Finished, cluster: Cluster) -> None:
    (one,) = [one for one in finished.jobs if one.rule == "retab_affinity" and "mixed" in str(one.log)]
    facts = cluster.facts(one.job)
    assert (facts["Partition"], facts["NumNodes"], facts["NumCPUs"]) == ("main", "1", "1")
    assert (facts["MinMemoryNode"], facts["TimeLimit"]) == ("16000M", "12:00:00")
    assert facts["TresPerJob"] == "gres:gpu:2"


def test_a_finished_run_has_nothing_to_do(finished: Finished, cluster: Cluster) -> None:
    done = cluster.snakemake(finished.checkout, "all_folds", timeout=300)
    succeeded(done)
    assert "Nothing to be done" in done.stdout
    assert not submitted(done.stdout)


def test_logs_of_jobs_that_succeeded_are_removed(finished: Finished) -> None:
    assert not [one.log for one in finished.jobs if one.log.exists()]
    assert (finished.checkout / "logs/retab/shared/classifier.log").is_file()
