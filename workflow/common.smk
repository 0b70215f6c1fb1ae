# What the rules share: the validated configuration, folders, and the command line of a stage script.
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from anyshot import config as anyshot_config
from anyshot.errors import AnyshotError

try:
    settings = anyshot_config.load(config)
    anyshot_config.check_targets(settings, sys.argv[1:])
except AnyshotError as error:
    raise WorkflowError(str(error)) from None

# `python` in the rules is the interpreter that runs Snakemake. It is found by PATH and not named in the commands:
# a command that named it would differ, and every stage rerun, when the checkout or the environment moves. PYTHONPATH
# serves `--sdm conda`, whose environment has the dependencies but not anyshot.
for name, folder in (("PATH", Path(sys.executable).parent), ("PYTHONPATH", Path(workflow.basedir) / "src")):
    others = [part for part in os.environ.get(name, "").split(os.pathsep) if part not in ("", str(folder))]
    os.environ.update({name: os.pathsep.join([str(folder), *others])})

# Threads that wait let others run: on a busy machine, spinning ones slow each other down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

R = settings.results.rstrip("/")
LOGS = f"{R}/logs"
BENCHMARKS = f"{R}/benchmarks"

if not Path("workflow", "scripts").is_dir():
    raise WorkflowError(f"{os.getcwd()} has no workflow/scripts: run Snakemake in the root of the repository")


def one_of(words):
    """A regular expression for exactly these words."""
    return "|".join(re.escape(word) for word in words)


def stage(script, inputs, outputs, *, seed=False, sharded=False):
    """The shell command of a stage script; `inputs` and `outputs` are names, in one string, of the rule's own.

    Everything that may hold a blank or a quote is filled in by Snakemake with `:q`.
    """
    parts = [f"python workflow/scripts/{script} --options {{params.options:q}}"]
    parts += [f"--input {name} {{input.{name}:q}}" for name in inputs.split()]
    parts += [f"--output {name} {{output.{name}:q}}" for name in outputs.split()]
    parts += ["--threads {threads} --gpus {resources.gpu}"]
    parts += ["--seed {params.seed}"] if seed else []
    parts += ["--shard {params.shard} --shards {params.shards}"] if sharded else []
    return " ".join([*parts, "--log {log:q}"])


# Wildcards that choose among the options of a stage.
WILDCARDS = ("name", "split", "labels", "walk", "shot", "support", "method", "target")


def options(name):
    """A rule's `params.options`: the canonical JSON of exactly this stage's options, for the rule's wildcards."""

    def dump(wildcards):
        known = {key: value for key, value in wildcards.items() if key in WILDCARDS}
        return settings.stage(name, **known).canonical()

    return dump


def network(folder):
    """Outputs of a training: weights, what they are, and the course of the training."""
    return {
        "weights": f"{folder}/model.safetensors",
        "card": f"{folder}/model.json",
        "curve": f"{folder}/train.jsonl",
    }


# Params of the sharded rules. The wildcard {shard} `2of4` is number 1, counted from 0, of 4.
SHARD = {
    "shard": lambda wildcards: int(wildcards.shard.split("of")[0]) - 1,
    "shards": lambda wildcards: int(wildcards.shard.split("of")[1]),
}


def need(*, gpu, megabytes, minutes):
    """A rule's `resources`. Memory and time grow with the attempt, for the retries of a cluster profile.

    They stay at three times the first: further attempts are there for trainings that the limit of a partition stops
    again and again, and that continue; no node has eleven times the memory.
    """
    return {
        "gpu": gpu,
        "mem_mb": lambda wildcards, attempt: megabytes * min(attempt, 3),
        "runtime": lambda wildcards, attempt: minutes * min(attempt, 3),
    }


def reported_files():
    """Inputs of the report by name: those of the enabled systems, each file once."""
    reported = {
        "retab": retab_reported,
        "raml": raml_reported,
        "pop": pop_reported,
        "simformer": simformer_reported,
        "larvseg": larvseg_reported,
    }
    found = {}
    for system in settings.systems:
        for name, paths in reported[system]().items():
            found.setdefault(name, []).extend([paths] if isinstance(paths, str) else paths)
    return {name: list(dict.fromkeys(paths)) for name, paths in found.items()}


def wanted(targets):
    """The files that `targets` of the configuration mean: groups of results, or files as they are."""
    systems = {
        "retab": rules.retab_all.input,
        "raml": rules.raml_all.input,
        "pop": rules.pop_all.input,
        "simformer": rules.simformer_all.input,
        "larvseg": rules.larvseg_all.input,
    }
    groups = {
        "all_folds": [path for system in settings.systems for path in systems[system]],
        **{f"{system}_all": files for system, files in systems.items()},
        "report": rules.report.output,
    }
    return [path for target in targets for path in groups.get(target, [target])]
