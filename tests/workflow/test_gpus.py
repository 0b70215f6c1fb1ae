"""The key `gpus`: a number for all, or numbers by stage, and what reaches the rules."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anyshot import config
from anyshot.config import load, merged
from anyshot.config_gpus import IN_ONE_JOB, ON_ONE, Gpus
from anyshot.errors import ConfigError

BY_STAGE = {"default": 2, "retab_affinity": 4, "retab_classifier": 0, "retab_cam": 0}


@pytest.fixture
def shipped(repository: Path) -> dict[str, Any]:
    return merged([repository / "config.yaml"])


def gpus_of(plan: Any) -> dict[str, int]:
    """GPUs of a job of each rule in a plan."""
    return {job.rule.name: job.resources["gpu"] for job in plan.jobs if not job.is_norun}


def test_a_number_is_for_trainings_and_one_for_stages_that_work_image_by_image(
    project: Callable[[str], Any],
) -> None:
    found = gpus_of(project("number").plan(["retab_all"], {"gpus": 4}))
    assert {rule for rule, count in found.items() if count == 4} == {
        "retab_classifier",
        "retab_boundary",
        "retab_affinity",
        "retab_segmentation",
    }
    assert {rule for rule, count in found.items() if count == 1} == {
        rule for rule in ON_ONE if rule.startswith("retab_")
    }


EVERY_NETWORK = {
    "pop.novel_update.mode": "cached",
    "simformer.retraining": True,
    "larvseg.measure_compactness": True,
    "larvseg.segment_21k.data": "scenes_stuff",
}


def test_every_rule_with_a_network_holds_the_number_of_its_own_name(project: Callable[[str], Any]) -> None:
    """A different number for each training; the stages on one GPU have one and none by turns."""
    stages = [name for name in Gpus.model_fields if name != "default"]
    trainings = [name for name in stages if name not in ON_ONE]
    numbers = {name: number for number, name in enumerate(trainings, start=2)}
    numbers |= {name: place % 2 for place, name in enumerate(ON_ONE)}
    found = gpus_of(
        project("each").plan(["all_folds"], {**EVERY_NETWORK, "gpus": {"default": 99, **numbers}})
    )
    given = Gpus(default=99, **numbers)
    assert {rule: found[rule] for rule in stages} == {rule: given.of(rule) for rule in stages} == numbers
    assert {found[rule] for rule in set(found) - set(stages)} == {0}


def test_a_stage_may_have_its_own_number(project: Callable[[str], Any]) -> None:
    found = gpus_of(project("stages").plan(["retab_all"], {"gpus": BY_STAGE}))
    assert (found["retab_affinity"], found["retab_classifier"], found["retab_segmentation"]) == (4, 0, 2)
    assert (found["retab_cam"], found["retab_predict"], found["retab_random_walk"]) == (0, 1, 0)


def test_the_script_is_told_the_number_of_its_stage(project: Callable[[str], Any]) -> None:
    made = project("command")
    made.build(["results/retab/shared/classifier/model.safetensors"], {"gpus": {"retab_classifier": 3}})
    (call,) = [words for words in made.arguments() if words[0].endswith("retab/classifier.py")]
    assert call[call.index("--gpus") + 1] == "3"


def test_zero_keeps_everything_to_the_cpu(project: Callable[[str], Any]) -> None:
    assert set(gpus_of(project("none").plan(change={"gpus": 0})).values()) == {0}


def test_numbers_by_stage_rerun_nothing(project: Callable[[str], Any]) -> None:
    made = project("rerun")
    made.build(["retab_all"])
    assert not made.plan(["retab_all"], {"gpus": BY_STAGE}).rules


def test_an_overlay_may_give_numbers_by_stage_over_a_number(project: Callable[[str], Any]) -> None:
    made = project("overlay")
    made.configure({"gpus": 1})
    overlay = made.folder / "overlay.yaml"
    overlay.write_text("gpus: {retab_affinity: 8}\n")
    plan = made.execute(["retab_all"], "dryrun", [overlay])
    assert gpus_of(plan)["retab_affinity"] == 8


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (
            {"retab_afinity": 4},
            ["gpus.retab_afinity: unknown key", 'did you mean "retab_affinity"?', "allowed: default"],
        ),
        (
            {"retab_random_walk": 1},
            ["gpus: retab_random_walk runs no network and cannot hold a GPU", "allowed: larvseg_attentive"],
        ),
        ({"report": 1}, ["gpus: report runs no network"]),
        ({"retab_cam": 2}, ["gpus.retab_cam: found 2", "expected 0 or 1", "shards"]),
        ({"pop_features": 2}, ["gpus.pop_features: found 2", "expected 0 or 1", "whatever `shards` is"]),
        ({"retab_affinity": -1}, ["gpus.retab_affinity: found -1, expected an integer >= 0"]),
        ({"retab_affinity": "4"}, ['gpus.retab_affinity: found "4"', "write 4,"]),
        ({"default": None}, ["gpus.default: found null, expected an integer >= 0"]),
        (-1, ["gpus: found -1, expected an integer >= 0 or a group of the keys default, retab_classifier"]),
        (True, ["gpus: found true, expected an integer >= 0"]),
        ([1], ["gpus: found [1], expected an integer >= 0"]),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_allowed(
    shipped: dict[str, Any], value: Any, parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load({**shipped, "gpus": value})
    text = str(caught.value)
    assert text.startswith("the configuration has a mistake:")
    for part in parts:
        assert part in text


def test_editors_accept_a_number_and_numbers_by_stage(shipped: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(config.schema())
    for value in (4, BY_STAGE):
        jsonschema.validate({**shipped, "gpus": value}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**shipped, "gpus": {"retab_random_walk": 1}}, schema)


def test_stages_in_one_job_are_those_that_no_rule_cuts_and_the_page_names(repository: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted((repository / "rules").glob("*.smk"))]
    rules = {
        part.split(":", 1)[0]: part for text in texts for part in re.split(r"^rule ", text, flags=re.M)[1:]
    }
    cut = {name for name, text in rules.items() if "sharded=True" in text}
    assert cut == {name for name, text in rules.items() if "**SHARD" in text}
    assert set(ON_ONE) <= set(rules)
    assert set(ON_ONE) - cut == set(IN_ONE_JOB)
    asked = {name: re.findall(r'gpus\.of\("(\w+)"\)', text) for name, text in rules.items()}
    assert {name: words for name, words in asked.items() if words} == {
        name: [name] for name in Gpus.model_fields if name != "default"
    }
    section = (repository / "docs" / "cluster.md").read_text(encoding="utf-8").split("### GPUs\n")[1]
    told = section.split("Not cut into")[1].split("Another number")[0]
    assert set(re.findall(r"`([a-z]+_[a-z0-9_]+)`", told)) == set(IN_ONE_JOB)


def test_a_rule_without_a_network_has_no_number() -> None:
    with pytest.raises(KeyError):
        Gpus().of("retab_random_walk")
