"""The workflow in a folder of its own, run and dry-run by Snakemake's API (far cheaper than a command)."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness
from snakemake.settings.types import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings

from anyshot.config import merged

# Instead of `python`: notes its arguments and makes the outputs it was asked for.
STUB = """#!/usr/bin/env bash
set -eu
printf '%s\\0' "$@" > "$CALLS/$$-$RANDOM"
while [ $# -gt 0 ]; do
    if [ "$1" = --output ]; then mkdir -p "$(dirname "$3")"; echo made > "$3"; shift 3; else shift; fi
done
"""


@dataclass
class Plan:
    """What a dry run would do."""

    rules: set[str]
    """rules with a job"""
    direct: set[str]
    """rules with a job whose parameters, code or set of inputs changed, or whose output is missing"""
    jobs: list[Any]
    """all jobs"""


class Project:
    """A folder with a `config.yaml` in which the repository's Snakefile runs."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder, self.repository = folder, repository
        self.calls = folder / "calls"
        self.calls.mkdir(parents=True)
        (folder / "workflow").symlink_to(repository / "workflow")
        stub = folder / "bin" / "python"
        stub.parent.mkdir()
        stub.write_text(STUB)
        stub.chmod(0o755)
        self.shipped = merged([repository / "config.yaml"])

    def changed(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """The shipped configuration with `{"dotted.key": value}` changed."""
        content = copy.deepcopy(self.shipped)
        for path, value in change.items():
            *groups, key = path.split(".")
            group = content
            for name in groups:
                group = group.setdefault(name, {})
            group[key] = value
        return content

    def configure(self, change: Mapping[str, Any] | None = None) -> None:
        """Write `config.yaml`: the shipped one with `{"dotted.key": value}` changed."""
        content = self.changed(change or {})
        (self.folder / "config.yaml").write_text(yaml.safe_dump(content, allow_unicode=True))

    def plan(self, targets: Sequence[str] = (), change: Mapping[str, Any] | None = None) -> Plan:
        """A dry run under a changed configuration."""
        self.configure(change)
        return self.execute(targets, "dryrun")

    def build(self, targets: Sequence[str] = (), change: Mapping[str, Any] | None = None) -> Plan:
        """A run in which every stage is the stub."""
        self.configure(change)
        return self.execute(targets, "local")

    def execute(self, targets: Sequence[str], executor: str, overlays: Sequence[Path] = ()) -> Plan:
        """Run or dry-run under the `config.yaml` that lies there, with overlays as by `--configfile`."""
        with self._stub(), SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=8),
                config_settings=ConfigSettings(configfiles=list(overlays)),
                snakefile=self.repository / "Snakefile",
                workdir=self.folder,
            )
            workflow.dag(dag_settings=DAGSettings(targets=set(targets))).execute_workflow(executor=executor)
            dag, record = workflow._workflow.dag, workflow._workflow.persistence
            todo = [job for job in dag.jobs if dag.needrun(job) and not job.is_norun]
            # Snakemake tells one reason per job; a job behind another that runs may have one of its own.
            direct = {
                job.rule.name
                for job in todo
                if record.params_changed(job)
                or any(record.code_changed(job))
                or any(record.input_changed(job))
                or not all(Path(path).exists() for path in job.output)
            }
            return Plan(rules={job.rule.name for job in todo}, direct=direct, jobs=list(dag.jobs))

    @contextmanager
    def _stub(self) -> Iterator[None]:
        """Within it, the interpreter that the Snakefile puts first on PATH is the stub."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("PATH", "PYTHONPATH"):  # the Snakefile changes them
                patch.setenv(name, os.environ.get(name, ""))
            patch.setenv("CALLS", str(self.calls))
            patch.setattr(sys, "executable", str(self.folder / "bin" / "python"))
            yield

    def arguments(self) -> list[list[str]]:
        """The arguments of every call of the stub."""
        return [path.read_text().rstrip("\0").split("\0") for path in sorted(self.calls.iterdir())]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Callable[[str], Project]:
    """Makes a project in a folder of this name."""
    return lambda name: Project(tmp_path_factory.mktemp(name), repository)


@pytest.fixture(scope="session")
def snakemake(repository: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command `snakemake` as a user does; `folder` is the repository unless given."""
    command = Path(sys.executable).parent / "snakemake"

    def run(*words: str, folder: Path = repository, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", **variables}
        return subprocess.run(
            [str(command), *words],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )

    return run
