"""A throw-away checkout in which Snakemake plans and its stages run in this process: no torch import each.

What a stage does is what its rule's command line says; `anyshot.job.run` reads it here as in a process.
"""

from __future__ import annotations

import json
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness
from snakemake.settings.types import DAGSettings, OutputSettings, ResourceSettings

from tests.end_to_end.checkout import Checkout

# What differs between two runs of the same work: its duration, and what names the files it read.
OF_THE_RUN = ("seconds", "fingerprint", "options_hash", "input_hashes")


@dataclass(frozen=True)
class Command:
    """The command of one job, `python workflow/scripts/<system>/<stage>.py ...`."""

    words: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def stage(self) -> str:
        system, name = Path(self.words[1]).with_suffix("").parts[-2:]
        return f"{system}.{name}"


@dataclass(frozen=True)
class Run:
    """A checkout with a configuration of its own."""

    checkout: Checkout

    @classmethod
    def make(cls, folder: Path, repository: Path, change: Mapping[str, Any]) -> Run:
        """The tiny configuration of tests/end_to_end with `{"dotted.key": value}` changed."""
        checkout = Checkout.make(folder, repository)
        content = yaml.safe_load((folder / "config.yaml").read_text())
        for path, value in change.items():
            *groups, key = path.split(".")
            group = content
            for name in groups:
                group = group[name]
            group[key] = value
        smaller = yaml.safe_dump(content).replace("resnet18", "test_resnet")  # 0.4 million weights, not 11
        (folder / "config.yaml").write_text(smaller)
        return cls(checkout)

    @property
    def folder(self) -> Path:
        return self.checkout.folder

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def take_results_of(self, other: Run) -> None:
        """Have the same results, as links: every stage replaces its outputs as a whole."""
        shutil.copytree(other.results, self.results, copy_function=os.link)

    def plan(self, *targets: str) -> list[Command]:
        """The commands of the jobs that Snakemake would run now, in an order that works."""
        with (
            pytest.MonkeyPatch.context() as patch,
            SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api,
        ):
            for name in ("PATH", "PYTHONPATH"):  # the Snakefile changes them
                patch.setenv(name, os.environ.get(name, ""))
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=1),
                snakefile=self.folder / "Snakefile",
                workdir=self.folder,
            )
            dag = workflow.dag(dag_settings=DAGSettings(targets=set(targets)))
            dag.execute_workflow(executor="dryrun")
            jobs = [job for level in workflow._workflow.dag.toposorted() for job in level]
            todo = [job for job in jobs if workflow._workflow.dag.needrun(job) and not job.is_norun]
            return [Command(tuple(shlex.split(job.shellcmd)), tuple(map(str, job.output))) for job in todo]

    def execute(self, command: Command) -> None:
        """Do the job in this process; raises SystemExit as the script does."""
        before = signal.getsignal(signal.SIGTERM)
        environment = dict(os.environ)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", list(command.words[1:]))
            for path in command.outputs:
                Path(path).unlink(missing_ok=True)  # as Snakemake does
            try:
                runpy.run_path(command.words[1], run_name="__main__")
            finally:
                signal.signal(signal.SIGTERM, before)
                os.environ.clear()
                os.environ.update(environment)

    def build(self, *targets: str) -> list[str]:
        """Do all that is left for the targets; the stages that ran."""
        commands = self.plan(*targets)
        for command in commands:
            self.execute(command)
        return [command.stage for command in commands]

    def snakemake(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """The command as a user gives it, its output in one."""
        return subprocess.run(
            self.command(*words), cwd=self.folder, env={**os.environ, **variables}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
        )  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The same, not waited for; its output goes to `started.log`."""
        log = (self.folder / "started.log").open("w")
        return subprocess.Popen(self.command(*words), cwd=self.folder, stdout=log, stderr=log, text=True)

    def command(self, *words: str) -> list[str]:
        snakemake = Path(sys.executable).with_name("snakemake")
        return [str(snakemake), "--cores", "2", "--max-threads", "1", *words]


def numbers(path: Path) -> str:
    """A result as JSON text, but for what names the run that made it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps({key: value for key, value in content.items() if key not in OF_THE_RUN}, sort_keys=True)
