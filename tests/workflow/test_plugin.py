"""The package that lets targets follow `--resources NAME=VALUE` and keeps the scheduler calm."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakemake_logger_plugin_anyshot import calm, targets_apart, wake_later

LITERAL = "--cores 8 --resources gpu=4 results/retab/fold0/miou.json"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (LITERAL, "--cores 8 --resources gpu=4 -- results/retab/fold0/miou.json"),
        ("--resources gpu=4 mem_mb=9 a b --cores 2", "--resources gpu=4 mem_mb=9 --cores 2 -- a b"),
        ("--res gpu=4 a", "--res gpu=4 -- a"),
        ("a --resources gpu=4 b", "b a --resources gpu=4"),
        ("--resources gpu=4 a -- b", "--resources gpu=4 -- a b"),
        # nothing to do
        ("--cores 8 --resources=gpu=4 a", "--cores 8 --resources=gpu=4 a"),
        ("--resources gpu=4 -- a", "--resources gpu=4 -- a"),
        ("--resources gpu=4 --cores 8 a", "--resources gpu=4 --cores 8 a"),
        ("a --resources gpu=4", "a --resources gpu=4"),
        ("-- --resources a", "-- --resources a"),
        ("--resources base64//Z3B1PTQ= --cores 1", "--resources base64//Z3B1PTQ= --cores 1"),
        ("--set-resources rule:gpu=1 --config a=b", "--set-resources rule:gpu=1 --config a=b"),
        ("", ""),
    ],
)
def test_words_are_moved(line: str, expected: str) -> None:
    assert targets_apart(line.split()) == expected.split()


@given(
    st.lists(
        st.sampled_from(["--resources", "--cores", "8", "--", "a", "x=1", "-n", "base64//x"]), max_size=8
    )
)
def test_no_word_is_lost_and_twice_is_once(words: list[str]) -> None:
    once = targets_apart(words)
    assert sorted(word for word in once if word != "--") == sorted(word for word in words if word != "--")
    assert targets_apart(once) == once


@pytest.mark.parametrize(
    "line",
    [
        f"--dry-run {LITERAL}",
        f"{LITERAL} --dry-run",
        "-n --cores 8 --resources=gpu=4 results/retab/fold0/miou.json",
        "-n --cores 8 results/retab/fold0/miou.json --resources gpu=4",
        "-n --cores 8 --resources gpu=4 -- results/retab/fold0/miou.json",
    ],
)
def test_commands_find_their_target(
    snakemake: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, repository: Path, line: str
) -> None:
    for name in ("Snakefile", "rules", "workflow", "config.yaml"):
        (tmp_path / name).symlink_to(repository / name)
    done = snakemake(*line.split(), folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "rule retab_evaluate" in done.stdout
    assert "results/retab/fold0/miou.json" in done.stdout


def test_the_literal_command_runs(
    snakemake: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """The users' command, letter for letter, with a workflow of one rule."""
    (tmp_path / "Snakefile").write_text(
        'rule all:\n    output: "results/retab/fold0/miou.json"\n'
        '    resources: gpu=1\n    shell: "echo 1 > {output}"\n'
    )
    done = snakemake(*LITERAL.split(), folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "results/retab/fold0/miou.json").read_text() == "1\n"


PARSER, SCHEDULER = "snakemake.common.argparse", "snakemake.scheduling.job_scheduler"


@pytest.mark.parametrize(
    ("mend", "damage"),
    [
        ("install", f"import {PARSER} as a; del a.ArgumentParser"),
        ("install", f"import sys; sys.modules['{PARSER}'] = None"),
        ("install", f"import {PARSER} as a; a.ArgumentParser = None"),
        ("calm", f"import {SCHEDULER} as s; del s.JobScheduler._schedule_reevalutation"),
        ("calm", f"import sys; sys.modules['{SCHEDULER}'] = None"),
        ("calm", f"import {SCHEDULER} as s; s.JobScheduler._schedule_reevalutation = print"),
    ],
)
def test_another_snakemake_is_left_alone(mend: str, damage: str) -> None:
    code = f"{damage}\nimport snakemake_logger_plugin_anyshot as p; print(p.{mend}())"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_installing_twice_wraps_once() -> None:
    code = (
        "import snakemake_logger_plugin_anyshot as p\n"
        "from snakemake.common.argparse import ArgumentParser as A\n"
        "before = A.parse_args; print(p.install(), A.parse_args is before)"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout == "True True\n"


def test_many_wishes_to_be_woken_are_one_timer() -> None:
    """After it has gone off, the next wish counts again; an earlier one counts beside a later one."""
    scheduler = SimpleNamespace(_open_jobs=threading.Semaphore(0))
    before = threading.active_count()
    for _ in range(50):
        wake_later(scheduler, 0.2)
    assert threading.active_count() == before + 1
    assert scheduler._open_jobs.acquire(timeout=10)
    assert not scheduler._open_jobs.acquire(timeout=0.4)
    begin = time.monotonic()
    wake_later(scheduler, 30)
    wake_later(scheduler, 0.05)
    assert scheduler._open_jobs.acquire(timeout=10)
    assert time.monotonic() - begin < 10
    wake_later(scheduler, 0.05)
    assert scheduler._open_jobs.acquire(timeout=10)


def test_snakemakes_scheduler_is_calm() -> None:
    """If this fails after an update of Snakemake: see how it wakes now, and whether this is still needed."""
    from snakemake.scheduling.job_scheduler import JobScheduler

    assert calm()
    assert JobScheduler._schedule_reevalutation is wake_later


COUNTING = """
import threading
onsuccess:
    print("threads:", threading.active_count())
rule all:
    input: expand("{i}.txt", i=range(25))
rule one:
    output: "{i}.txt"
    shell: "sleep 0.1; touch {output}"
"""


def test_a_run_of_many_jobs_ends_with_few_threads(
    snakemake: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "Snakefile").write_text(COUNTING)
    done = snakemake("--cores", "1", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith("threads:")]
    assert int(line.split()[1]) < 12  # of 25 jobs each would leave one
