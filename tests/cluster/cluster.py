"""The private Slurm of the tests: started, asked, broken on purpose, stopped."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.checkout import Checkout

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("CLUSTER_DIR", "/tmp/anyshot-cluster"))
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
# Jobs of the tests take seconds, and there are two cores: ask for states soon, and give each job one thread.
QUICK = {"ANYSHOT_SLURM_FIRST_CHECK": "1", "ANYSHOT_SLURM_MAX_THREADS": "1"}


def missing() -> str:
    """Why no Slurm can be started here, in words; empty when it can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install --no-install-recommends slurm-wlm munge"
    check = subprocess.run([HERE / "slurm_up.sh", "--check"], capture_output=True, text=True, timeout=30)
    return check.stderr.strip() if check.returncode else ""


@dataclass(frozen=True)
class Task:
    """One task that Slurm ran: `step` is `batch` for the job's script, else the number of an srun in it."""

    job: str
    step: str
    node: str
    devices: tuple[str, ...]
    begin: float
    end: float


@dataclass(frozen=True)
class Submitted:
    """A job as Snakemake submitted it."""

    job: str
    rule: str
    log: Path


class Cluster:
    """A running Slurm with two nodes of two CPUs and four pretended GPUs."""

    def start(self) -> None:
        subprocess.run([HERE / "slurm_up.sh"], check=True, timeout=180)

    def stop(self) -> None:
        subprocess.run([HERE / "slurm_down.sh", "--purge"], check=True, timeout=120)

    def snakemake(
        self, checkout: Checkout, *words: str, timeout: float, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """`snakemake --profile slurm WORDS` to its end. Raises TimeoutError, after everything was ended."""
        with self.started(checkout, *words, timeout=timeout, **variables) as run:
            return run.finish()

    @contextmanager
    def started(
        self, checkout: Checkout, *words: str, timeout: float, **variables: str
    ) -> Iterator[RunningSnakemake]:
        """`snakemake --profile slurm WORDS` in the background; at the end nothing of it is left."""
        log = checkout.folder / "snakemake.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [Path(sys.executable).with_name("snakemake"), "--profile", "slurm", *words],
                cwd=checkout.folder,
                env={**os.environ, **QUICK, **variables},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield RunningSnakemake(process, log, time.monotonic() + timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self.ask("scancel", "--user=root")

    def ask(self, *words: str) -> str:
        """What a Slurm command prints."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise OSError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """The state of every job that Slurm remembers, by its number."""
        lines = self.ask("squeue", "--states=all", "--noheader", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says, by word."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.ask("scontrol", "show", "job", job)))

    def tasks(self) -> list[Task]:
        """Every task so far; one that has not ended ends now."""
        begun: dict[str, Task] = {}
        found = []
        now = time.time()
        for line in (FOLDER / "log" / "tasks").read_text().splitlines():
            kind, moment, name, node, devices = line.split()
            job, step = name.split(".")
            if kind == "begin":
                listed = () if devices == "-" else tuple(devices.split(","))
                begun[f"{name} {node}"] = Task(job, step, node, listed, float(moment), now)
            elif task := begun.pop(f"{name} {node}", None):
                found.append(dataclasses.replace(task, end=float(moment)))
        found += begun.values()
        return found


@dataclass
class RunningSnakemake:
    """A `snakemake --profile slurm` that was started."""

    process: subprocess.Popen[bytes]
    log: Path
    deadline: float

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end. Raises TimeoutError."""
        try:
            code = self.process.wait(max(self.deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"Snakemake did not end in time:\n{self.text()[-6000:]}") from None
        return subprocess.CompletedProcess(self.process.args, code, stdout=self.text(), stderr="")

    def await_that(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds. Raises TimeoutError, RuntimeError when Snakemake ended before."""
        while not condition():
            if self.process.poll() is not None:
                raise RuntimeError(f"Snakemake ended before {what}:\n{self.text()[-6000:]}")
            if time.monotonic() > self.deadline:
                raise TimeoutError(f"{what}: not seen in time:\n{self.text()[-6000:]}")
            time.sleep(0.05)

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def submitted(self) -> list[Submitted]:
        """The jobs it has given to Slurm so far, in order."""
        return submitted(self.text())


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until the condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not seen within {seconds:g} s")
        time.sleep(0.05)


def submitted(text: str) -> list[Submitted]:
    """The jobs that a Snakemake with this output has given to Slurm, in order."""
    found = re.findall(r"SLURM jobid (\d+) \(log: (\S+/rule_(\w+)/\S*)\)", text)
    return [Submitted(job=job, rule=rule, log=Path(log)) for job, log, rule in found]
