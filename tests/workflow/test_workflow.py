"""The rules: what they ask for, how they call the stage scripts, and the users' commands."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from anyshot.larvseg import system as larvseg
from anyshot.pop import system as pop
from anyshot.raml import system as raml
from anyshot.retab.system import STAGES, Retab
from anyshot.simformer import system as simformer

SYSTEMS = {
    "retab": STAGES, "raml": raml.STAGES, "pop": pop.STAGES, "simformer": simformer.STAGES,
    "larvseg": larvseg.STAGES,
}  # fmt: skip
# So that every stage is there.
EVERYTHING = {
    "simformer.retraining": True,
    "larvseg.measure_compactness": True,
    "larvseg.segment_21k.data": "scenes_stuff",
    "larvseg.image_sets": {"folders": {"root": "nowhere"}},
    "larvseg.experiments.scenes.sources": [
        {"name": "masks", "data": "scenes_stuff", "role": "pixel", "classes": ["mug", "kite"]},
        {"name": "labels", "data": "folders", "role": "image"},
    ],
}

GPU_RULES = {
    "retab_classifier",
    "retab_cam",
    "retab_boundary",
    "retab_boundary_map",
    "retab_affinity",
    "retab_affinity_map",
    "retab_segmentation",
    "retab_predict",
    "raml_closed_set",
    "raml_meta_channel",
    "raml_metric",
    "raml_novel_bank",
    "raml_open_world",
    "raml_anomaly",
    "pop_base",
    "pop_features",
    "pop_views",
    "pop_novel_update",
    "pop_predict",
    "simformer_joint",
    "simformer_pseudo_label",
    "simformer_retrain",
    "simformer_predict",
    "larvseg_baseline",
    "larvseg_attentive",
    "larvseg_predict",
    "larvseg_compactness",
    "larvseg_segment_21k",
}
SEEDED_RULES = {
    "retab_classifier",
    "retab_boundary",
    "retab_affinity",
    "retab_segmentation",
    "raml_closed_set",
    "raml_meta_channel",
    "raml_metric",
    "pop_base",
    "pop_views",
    "pop_novel_update",
    "simformer_joint",
    "simformer_retrain",
    "larvseg_baseline",
    "larvseg_attentive",
    "larvseg_compactness",
}
SHARDED_STAGES = (
    "cam",
    "crf_label",
    "boundary_map",
    "affinity_map",
    "random_walk",
    "pseudo_label",
    "predict",
)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def built(project: Callable[[str], Any]) -> Any:
    """A project built by the stub, and its plan."""
    finished = project("built")
    finished.shipped = finished.changed(EVERYTHING)
    finished.jobs = finished.build().jobs
    finished.stages = [job for job in finished.jobs if not job.is_norun]
    return finished


def calls_of(built: Any, script: str) -> list[dict[str, list[str]]]:
    """{option: words} of every call of a script; `--input NAME` and `--output NAME` count as options."""
    found = []
    for words in built.arguments():
        if words[0] != f"workflow/scripts/{script}":
            continue
        options: dict[str, list[str]] = {}
        for word in words[1:]:
            if word.startswith("--"):
                current = options.setdefault(word, [])
            elif not current and word != "--" and list(options)[-1] in ("--input", "--output"):
                options.pop(key := list(options)[-1])
                current = options.setdefault(f"{key} {word}", [])
            else:
                current.append(word)
        found.append(options)
    return found


def test_every_stage_is_a_rule_with_a_script(built: Any, repository: Path) -> None:
    rules = {job.rule.name for job in built.stages}
    stages = [(system, stage) for system, found in SYSTEMS.items() for stage in found]
    assert rules == {"data_prepare", "report", *(f"{system}_{stage}" for system, stage in stages)}
    for system, stage in stages:
        assert (repository / "workflow" / "scripts" / system / f"{stage}.py").is_file()


def test_scripts_read_what_their_rules_give(built: Any, repository: Path) -> None:
    """Each name a script asks for by `job.input("name")` is one of its rule."""
    for job in built.stages:
        words = job.rule.shellcmd.split()
        script = (repository / words[1]).read_text(encoding="utf-8")
        for kind, given in (("input", job.input.keys()), ("output", job.output.keys())):
            asked = set(re.findall(rf'job\.{kind}s?\("(\w+)"\)', script))
            assert asked <= set(given), f"{words[1]} asks for {kind} {sorted(asked - set(given))}"


def test_every_rule_has_a_log_a_benchmark_and_resources(built: Any) -> None:
    for job in built.stages:
        stage = re.sub("^(retab|raml|pop|simformer|larvseg)_", "", job.rule.name)
        assert stage in str(job.log) or job.rule.name in ("data_prepare", "report")
        assert stage in str(job.benchmark) or job.rule.name in ("data_prepare", "report")
        assert job.resources["mem_mb"] >= 500
        assert job.resources["runtime"] >= 1
        assert not job.rule.restart_times


def test_only_networks_ask_for_a_gpu(built: Any) -> None:
    assert {job.rule.name for job in built.stages if job.resources["gpu"]} == GPU_RULES
    assert {job.rule.name for job in built.stages if job.params.get("seed") is not None} == SEEDED_RULES


def test_gpus_of_the_configuration_reach_the_command(built: Any) -> None:
    (call,) = calls_of(built, "retab/classifier.py")
    assert call["--gpus"] == ["1"]
    assert call["--seed"] == ["0"]
    assert call["--log"] == ["results/logs/retab/shared/classifier.log"]
    assert call["--output weights"] == ["results/retab/shared/classifier/model.safetensors"]
    assert {call["--gpus"][0] for call in calls_of(built, "retab/random_walk.py")} == {"0"}


def test_shards_are_counted_from_zero_and_read_one_by_one_or_together(built: Any) -> None:
    calls = calls_of(built, "retab/cam.py")
    count = built.shipped["retab"]["shards"]
    assert sorted(int(call["--shard"][0]) for call in calls) == list(range(count))
    assert {call["--shards"][0] for call in calls} == {str(count)}
    walks = ["cam", "affinity_map", "boundary_map"]
    for script, names in (("crf_label", ["cam"]), ("random_walk", walks), ("pseudo_label", ["random_walk"])):
        for call in calls_of(built, f"retab/{script}.py"):
            own = f"{int(call['--shard'][0]) + 1}of{count}.h5"
            for name in names:
                assert {Path(path).name for path in call[f"--input {name}"]} <= {own}
    for call in calls_of(built, "retab/score_maps.py"):
        assert len(call["--input cam"]) == count


def test_the_baseline_walks_on_its_own_affinities(built: Any) -> None:
    walks = calls_of(built, "retab/random_walk.py")
    baseline = [call for call in walks if "shared" in call["--output store"][0]]
    assert baseline
    for call in baseline:
        assert "/shared/affinity_map/crf_only/" in call["--input affinity_map"][0]
        assert call["--input boundary_map"] == []
        assert json.loads(call["--options"][0])["boundary"] is False
    for call in [call for call in walks if call not in baseline]:
        assert "/affinity_map/mixed/" in call["--input affinity_map"][0]
        assert call["--input boundary_map"]
        assert json.loads(call["--options"][0])["boundary"] is True


@pytest.mark.parametrize("kind", ["mixed", "crf_only", "gt_only"])
def test_affinity_labels_decide_what_is_read(project: Callable[[str], Any], kind: str) -> None:
    made = project(kind)
    plan = made.plan(change={"retab.affinity.labels": kind, "retab.baselines": [], "retab.folds": ["fold1"]})
    (job,) = [job for job in plan.jobs if job.rule.name == "retab_affinity"]
    given = {name for name in ("samples", "crf_label", "boundary_map") if job.input.get(name)}
    expected = {
        "mixed": {"samples", "crf_label", "boundary_map"},
        "crf_only": {"crf_label"},
        "gt_only": {"samples"},
    }
    assert given == expected[kind]
    assert job.wildcards.split == ("shared" if kind == "crf_only" else "fold1")
    assert json.loads(job.params.options)["labels"] == kind


def test_without_baselines_nothing_of_psa_is_made(project: Callable[[str], Any]) -> None:
    plan = project("alone").plan(change={"retab.baselines": []})
    assert not [job for job in plan.jobs if "psa" in str(job.output) or "crf_only" in str(job.output)]


def test_names_of_classes_reach_the_script_letter_for_letter(project: Callable[[str], Any]) -> None:
    """Blanks, quotes, braces, dollars, other alphabets, and what a shell would take for a command."""
    names = ['"; rm -rf ~', "it's", "$HOME `id` $(id)", "{split} {{x}}", "飞机", "a\nb", "*", "-n", "c\\d"]
    made = project("names")
    change = {"retab.scheme": None, "retab.novel_classes": {"mine": names}, "retab.folds": ["mine"]}
    made.build(["results/retab/mine/split/split.json"], change)
    (call,) = calls_of(made, "retab/split.py")
    assert json.loads(call["--options"][0])["novel"] == names
    assert call["--output split"] == ["results/retab/mine/split/split.json"]


def test_the_results_folder_may_have_blanks(project: Callable[[str], Any]) -> None:
    made = project("blanks")
    made.build(["my results/retab/fold0/split/split.json"], {"results": "my results"})
    (call,) = calls_of(made, "retab/split.py")
    assert call["--output split"] == ["my results/retab/fold0/split/split.json"]
    assert (made.folder / "my results/retab/fold0/split/split.json").is_file()


def test_all_folds_is_every_enabled_split(project: Callable[[str], Any]) -> None:
    plan = project("folds").plan(["all_folds"])
    evaluated = {job.wildcards.split for job in plan.jobs if job.rule.name == "retab_evaluate"}
    assert evaluated == {"fold0", "fold1", "fold2", "fold3"}
    assert "report" not in plan.rules


def test_one_split_makes_no_other(project: Callable[[str], Any]) -> None:
    plan = project("one").plan(["results/retab/fold2/miou.json"])
    assert {job.wildcards.get("split") for job in plan.jobs} <= {"fold2", "shared", None}


def test_joint_training_of_pop_draws_no_supports_and_updates_nothing(project: Callable[[str], Any]) -> None:
    plan = project("joint").plan(["pop_all"], {"pop.folds": ["joint"]})
    stages = {name for name in plan.rules if name.startswith("pop_")}
    assert stages == {"pop_index", "pop_base", "pop_predict", "pop_evaluate", "pop_summary"}
    for job in plan.jobs:
        assert job.wildcards.get("split", "joint") == "joint"
        if job.rule.name == "pop_predict":
            assert not job.input.get("heads")
        if job.rule.name == "pop_base":
            assert json.loads(job.params.options)["dataset"]["novel"] == []


def test_memory_and_time_grow_with_the_attempt_to_three_times_as_much(project: Callable[[str], Any]) -> None:
    jobs = [job for job in project("attempts").plan().jobs if not job.is_norun]
    assert jobs
    for job in jobs:
        first = {name: job.resources[name] for name in ("mem_mb", "runtime")}
        assert min(first.values()) > 0
        for attempt, times in ((2, 2), (3, 3), (11, 3)):
            job.attempt = attempt
            job.reset_params_and_resources()
            assert {name: job.resources[name] for name in first} == {
                name: times * value for name, value in first.items()
            }


def test_the_repository_s_own_rules_of_rules(repository: Path) -> None:
    """workflow.md: a rule's retries, scripts, run blocks and protected outputs each break something."""
    for path in [repository / "Snakefile", *sorted((repository / "rules").glob("*.smk"))]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s+(retries|script|run|notebook):|protected\(", text, re.MULTILINE), path
        assert len(text.splitlines()) <= (60 if path.name == "Snakefile" else 400), path


def test_the_slurm_profile_is_found_and_plans(snakemake: Run) -> None:
    done = snakemake("--profile", "slurm", "all_folds", "--dry-run")
    assert done.returncode == 0, done.stdout
    assert "Using profile slurm" in done.stdout
    assert "retab_evaluate" in done.stdout or "Nothing to be done" in done.stdout


def test_a_dry_run_imports_nothing_heavy(snakemake: Run) -> None:
    """It takes about 1.5 s on two idle cores; torch alone would double that."""
    done = snakemake("-n", "--quiet", "all", "--", "all_folds", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stdout
    imported = set(re.findall(r"\| +(\S+)$", done.stdout, re.MULTILINE))
    assert "anyshot.config" in imported
    assert not {"torch", "cv2", "h5py", "matplotlib", "timm"} & imported


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["-n", "results/retab/fold9/miou.json"],
            ['there is no split "fold9"', "allowed: fold0, fold1, fold2, fold3"],
        ),
        (["-n", "--config", "sed=3"], ['sed: unknown key; did you mean "seed"?']),
        (["-n", "--config", "seed=three"], ['seed: found "three", expected an integer >= 0']),
        (["-n", "results/retab/fold0/random_walk/psa/1of2.h5"], ["psa, and no other, lies under shared"]),
    ],
)
def test_mistakes_are_told_by_the_command(snakemake: Run, words: list[str], parts: list[str]) -> None:
    done = snakemake(*words)
    assert done.returncode == 1
    for part in parts:
        assert part in done.stdout
    assert "pydantic" not in done.stdout
    assert "Traceback (most recent call last)" not in done.stdout


def test_a_key_missing_from_an_overlay_is_named(snakemake: Run, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("retab:\n  classifier:\n    optimiser:\n      learning_rate: 1e-3\n")
    done = snakemake("-n", f"--configfile={overlay}")
    assert done.returncode == 1
    assert 'retab.classifier.optimiser.learning_rate: found "1e-3", expected a number > 0' in done.stdout


def test_elsewhere_it_says_where_to_run(snakemake: Run, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").symlink_to(repository / "config.yaml")
    done = snakemake("-n", "--snakefile", str(repository / "Snakefile"), folder=tmp_path)
    assert done.returncode == 1
    assert "run Snakemake in the root of the repository" in done.stdout


def test_the_published_overlay_reaches_every_stage(project: Callable[[str], Any], repository: Path) -> None:
    """By Snakemake's own merging of files, over the shipped file as it is, YAML anchors included."""
    made = project("published")
    overlay = repository / "config" / "paper" / "retab_voc.yaml"
    shipped = (repository / "config.yaml").read_text(encoding="utf-8")
    (made.folder / "config.yaml").write_text(shipped, encoding="utf-8")
    jobs = made.execute(["results/paper/retab/fold1/miou.json"], "dryrun", [overlay]).jobs
    published = Retab()
    for job in [job for job in jobs if job.rule.name.startswith("retab_")]:
        stage = re.sub("^(retab|raml|pop|simformer|larvseg)_", "", job.rule.name)
        found = json.loads(job.params.options)
        split = job.wildcards.get("split")
        expected = json.loads(published.stage(stage, split=split, walk=job.wildcards.get("walk")).canonical())
        if stage == "split":
            expected["novel"] = ["bus", "car", "cat", "chair", "cow"]
        if stage == "affinity":
            expected["labels"] = job.wildcards.labels
        assert found == expected, stage


@pytest.mark.parametrize("overlay", ["demo.yaml"])
def test_overlays_plan(snakemake: Run, repository: Path, overlay: str) -> None:
    done = snakemake(
        "-n", "--quiet", "all", f"--configfile={repository / 'config' / overlay}", "--", "all_folds"
    )
    assert done.returncode == 0, done.stdout


def test_lint_is_clean(snakemake: Run) -> None:
    done = snakemake("--lint")
    assert done.returncode == 0, done.stdout


def test_the_conda_environment_has_the_tested_pins(repository: Path) -> None:
    constraints = set((repository / "constraints.txt").read_text(encoding="utf-8").splitlines())
    (pip,) = [
        entry["pip"]
        for entry in yaml.safe_load((repository / "envs" / "anyshot.yaml").read_text())["dependencies"]
        if isinstance(entry, dict)
    ]
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    names = {re.split(r"[<>=]", line)[0] for line in wanted}
    assert set(pip) <= constraints
    assert {line.split("==")[0].lower() for line in pip} == names
