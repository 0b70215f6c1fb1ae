"""A folder in which the workflow runs as in the repository, and what to do with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path(__file__).with_name("tiny.yaml")
PARTS = ("Snakefile", "rules", "workflow", "envs", "slurm", "src")


@dataclass(frozen=True)
class Checkout:
    """A folder in which the workflow runs as in the repository."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, repository: Path) -> Checkout:
        folder.mkdir(parents=True)
        for part in PARTS:
            (folder / part).symlink_to(repository / part)
        shutil.copy(CONFIG, folder / "config.yaml")
        return cls(folder)

    def command(self, *targets: str) -> list[str]:
        snakemake = Path(sys.executable).with_name("snakemake")
        # one thread each: jobs this small are mostly the start of Python, two of which fit side by side
        limits = ["--cores", "2", "--max-threads", "1"]
        return [str(snakemake), *limits, "--quiet", "all", "--", *targets]

    def run(self, *targets: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*targets), cwd=self.folder, capture_output=True, text=True, timeout=900
        )

    def start(self, *targets: str) -> subprocess.Popen[str]:
        log = (self.folder / "started.log").open("w")
        return subprocess.Popen(self.command(*targets), cwd=self.folder, stdout=log, stderr=log, text=True)

    def __truediv__(self, path: str) -> Path:
        return self.folder / "results" / path


def processes_of(script: str, folder: Path) -> list[int]:
    """Processes that run a stage script in `folder`, oldest first (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if os.readlink(entry / "cwd") == str(folder) and any(
                word.endswith(script.encode()) for word in words[1:3]
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def succeeded(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def files_of(folder: Path, ignored: Sequence[str] = ("logs", "benchmarks")) -> list[str]:
    """All files below `folder`, relative, but for some subfolders."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if path.parts[0] not in ignored)
