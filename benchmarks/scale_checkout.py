"""A throw-away copy of the workflow whose stages only touch their outputs."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

from anyshot.config import Config, load, merged
from benchmarks.scale_counts import stages, total_jobs

REPOSITORY = Path(__file__).resolve().parent.parent
COPIED = ("Snakefile", "rules", "envs", "slurm")

# In the place of every stage script.
STUB = """import os
import sys

for place, word in enumerate(sys.argv):
    if word == "--output":
        path = sys.argv[place + 2]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
"""

# One split of everything, for small numbers of jobs.
ONE_SPLIT = {"retab": {"folds": ["fold0"]}, "pop": {"folds": ["fold0"], "shots": [1], "support_seeds": [0]}}
SPLITS_FROM = 500  # jobs from which on the splits of the shipped configuration are kept


def configuration(jobs: int) -> tuple[dict[str, Any], int]:
    """The shipped configuration with all five systems and about so many jobs, and their exact number.

    Only splits, draws and `shards` differ from what is shipped.
    """
    content = merged([REPOSITORY / "config.yaml"])
    if jobs < SPLITS_FROM:
        for system, changes in ONE_SPLIT.items():
            content[system].update(changes)

    def cut(shards: int) -> tuple[dict[str, Any], int]:
        changed = copy.deepcopy(content)
        for system in changed["systems"]:
            changed[system]["shards"] = shards
        return changed, total_jobs(stages(load(changed))) + 1  # and the report

    first = cut(1)[1]
    per_shard = cut(2)[1] - first
    return cut(max(1, 1 + round((jobs - first) / per_shard)))


@dataclass(frozen=True)
class Checkout:
    """A folder in which the repository's rules run on pretended stages."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, content: Mapping[str, Any]) -> Checkout:
        for part in COPIED:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, folder / part)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder / part)
        ignored = shutil.ignore_patterns("scripts", "__pycache__")
        shutil.copytree(REPOSITORY / "workflow", folder / "workflow", ignore=ignored)
        for script in (REPOSITORY / "workflow" / "scripts").rglob("*.py"):
            target = folder / script.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(STUB, encoding="utf-8")
        text = yaml.safe_dump(dict(content), allow_unicode=True, sort_keys=False)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        return cls(folder)

    def command(self, *words: str, cores: int = 8) -> list[str]:
        snakemake = Path(sys.executable).with_name("snakemake")
        return [str(snakemake), "--cores", str(cores), "--quiet", "all", *words]

    def make_all(self, targets: Sequence[str]) -> None:
        """Outputs of every stage and Snakemake's records of them, without running a job.

        (`snakemake --touch` waits a tenth of a second per job.)
        """
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(_finish_all, (self.folder, list(targets)))

    def config(self) -> Config:
        return load(merged([self.folder / "config.yaml"]))


def _finish_all(folder: Path, targets: list[str]) -> None:
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=8),
            config_settings=ConfigSettings(),
            snakefile=folder / "Snakefile",
            workdir=folder,
        )
        workflow.dag(dag_settings=DAGSettings(targets=set(targets))).execute_workflow(executor="dryrun")
        record = workflow._workflow.persistence
        now = time.time()
        for job in workflow._workflow.dag.jobs:
            if job.is_norun:
                continue
            for path in (folder / made for made in (*job.output, job.benchmark)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                os.utime(path, (now, now))
            asyncio.run(record.finished(job))
