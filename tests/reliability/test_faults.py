"""Faults that meet a run on one machine: the numbers are those of a run that met none.

Training, prediction and scoring of POP on tiny scenes; `workflow/scripts` are copied where one of them has to
fail. SIGKILL of a stage at work: tests/end_to_end/test_whole_run.py and tests/engine/test_resume.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.reliability.runs import Run, numbers
from tests.small_disk import small_file_system

TARGET = "results/pop/fold0/miou.json"
PATIENCE = 600  # s, on a busy machine
LOCKED = "Directory cannot be locked"

# A script that meets a fault when it is first called, and does its work from then on.
FAULTY = """
import runpy, time
from pathlib import Path

if not Path("started").exists():
    Path("started").touch()
    {fault}
runpy.run_path({script!r}, run_name="__main__")
"""
FAILS = 'raise SystemExit("the node goes down")'
WAITS = 'while not Path("go on").exists(): time.sleep(0.02)'


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Run:
    change = {"systems": ["pop"], "pop.methods": ["pop"]}
    run = Run.make(tmp_path_factory.mktemp("faults") / "undisturbed", repository, change)
    run.build(TARGET)
    return run


@pytest.fixture
def run(undisturbed: Run, tmp_path: Path, repository: Path) -> Run:
    """A checkout with the results of the undisturbed run, of which a test removes some."""
    run = Run.make(tmp_path / "run", repository, {})
    shutil.copy(undisturbed.folder / "config.yaml", run.folder)
    run.take_results_of(undisturbed)
    return run


@pytest.fixture
def numbers_before(undisturbed: Run) -> str:
    return numbers(undisturbed.folder / TARGET)


def numbers_of(run: Run) -> str:
    return numbers(run.folder / TARGET)


def put_in(run: Run, fault: str, script: str, repository: Path) -> None:
    """Let a stage script meet the fault at its first call."""
    (run.folder / "workflow").unlink()
    shutil.copytree(repository / "workflow", run.folder / "workflow")
    real = str(repository / "workflow" / "scripts" / script)
    (run.folder / "workflow" / "scripts" / script).write_text(FAULTY.format(fault=fault, script=real))


def remove(run: Run, *folders: str) -> None:
    """Remove results, so that the stages that made them run again."""
    (run.folder / TARGET).unlink()
    for folder in folders:
        shutil.rmtree(run.results / "pop" / "fold0" / folder)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE} s"
        time.sleep(0.02)


def started(run: Run, *words: str) -> subprocess.Popen[str]:
    """Snakemake with a script at work that waits for the file `go on`."""
    process = run.start(*words)
    wait_for(lambda: (run.folder / "started").exists() or process.poll() is not None, "the start of a stage")
    assert process.poll() is None, (run.folder / "started.log").read_text()
    return process


def succeeds(run: Run, *words: str) -> str:
    done = run.snakemake(*words)
    assert done.returncode == 0, done.stdout
    return done.stdout


def fails(run: Run, *words: str) -> str:
    done = run.snakemake(*words)
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize("retries", [0, 1])
def test_a_rule_that_fails_once(run: Run, numbers_before: str, repository: Path, retries: int) -> None:
    """With `--retries` in the same call, without it in the next."""
    remove(run)
    put_in(run, FAILS, "pop/evaluate.py", repository)
    if not retries:
        assert "the node goes down" in fails(run, TARGET)
        assert not (run.folder / TARGET).exists()
    succeeds(run, TARGET, f"--retries={retries}")
    assert numbers_of(run) == numbers_before


def test_snakemake_killed_while_its_jobs_go_on(run: Run, numbers_before: str, repository: Path) -> None:
    """The job that nobody waits for any more and the one that is started for it write the same files."""
    remove(run, "predict")
    put_in(run, WAITS, "pop/predict.py", repository)
    first = started(run, TARGET)
    first.kill()
    first.wait()
    assert "--unlock" in fails(run, TARGET)
    succeeds(run, "--unlock")
    (run.folder / "go on").touch()
    succeeds(run, TARGET, "--rerun-incomplete")
    assert numbers_of(run) == numbers_before
    wait_for(lambda: not processes_in(run.folder), "the end of the job without a Snakemake")
    succeeds(run, TARGET, "--rerun-incomplete")
    assert numbers_of(run) == numbers_before


def processes_in(folder: Path) -> list[str]:
    """The command lines of processes that work in a folder (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(folder):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue  # it has ended, or belongs to somebody else
    return [command for command in found if command]


def test_a_stale_lock(run: Run, numbers_before: str, repository: Path) -> None:
    """As after a power failure: Snakemake and all of its jobs are gone, its lock is there."""
    remove(run)
    put_in(run, WAITS, "pop/evaluate.py", repository)
    first = started(run, TARGET)
    for pid in {first.pid, *children_of(first.pid)}:
        os.kill(pid, signal.SIGKILL)
    first.wait()
    message = fails(run, TARGET)
    assert LOCKED in message
    assert "--unlock" in message
    succeeds(run, "--unlock")
    (run.folder / "go on").touch()
    succeeds(run, TARGET)
    assert numbers_of(run) == numbers_before


def children_of(pid: int) -> set[int]:
    """A process's children and theirs (Linux)."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, thread.read_text().split()):
            found |= {child, *children_of(child)}
    return found


def test_two_snakemakes_in_one_folder(run: Run, numbers_before: str, repository: Path) -> None:
    remove(run)
    put_in(run, WAITS, "pop/evaluate.py", repository)
    first = started(run, TARGET)
    assert LOCKED in fails(run, TARGET)
    assert first.poll() is None, "the first goes on"
    (run.folder / "go on").touch()
    assert first.wait(PATIENCE) == 0
    assert numbers_of(run) == numbers_before
    assert "Nothing to be done" in succeeds(run, TARGET)


def test_a_log_folder_that_cannot_be_written(run: Run, numbers_before: str) -> None:
    """A link to a disk that is not there: modes would not stop root."""
    remove(run)
    logs = run.results / "logs" / "pop" / "fold0"
    shutil.rmtree(logs)
    elsewhere = run.folder / "another disk"
    logs.symlink_to(elsewhere)
    message = fails(run, TARGET)
    assert f"cannot write the log {logs.relative_to(run.folder)}/evaluate.log" in message
    assert "a folder that can be written" in message
    elsewhere.mkdir()
    succeeds(run, TARGET)
    assert numbers_of(run) == numbers_before


def test_a_full_disk_under_the_log_alone(
    run: Run, numbers_before: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The work goes on; one line says that the log is not written."""
    remove(run)
    (command,) = run.plan(TARGET)
    words = list(command.words)
    words[words.index("--log") + 1] = "/dev/full"
    run.execute(type(command)(tuple(words), command.outputs))
    assert numbers_of(run) == numbers_before
    written = capfd.readouterr().err
    assert written.count("the log /dev/full is not written: No space left on device") == 1
    assert "Traceback" not in written


@pytest.fixture
def disk(run: Run) -> Iterator[Path]:
    """A small disk of its own for the predictions."""
    remove(run, "predict")
    with small_file_system(run.results / "pop" / "fold0" / "predict") as folder:
        yield folder


def test_a_full_disk(run: Run, disk: Path, numbers_before: str) -> None:
    filler = disk / "something else"
    filler.write_bytes(b"x" * (shutil.disk_usage(disk).free - 8192))
    message = fails(run, TARGET)
    assert "No space left on device" in message
    assert "MiB free" in message
    assert "free space or set `results` to another disk, then run again" in message
    assert not list(disk.rglob("*.tmp"))
    filler.unlink()
    succeeds(run, TARGET)
    assert numbers_of(run) == numbers_before


def test_a_store_cut_off(run: Run, numbers_before: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Snakemake sees no difference, the stage that reads the store does; only the store must be deleted."""
    remove(run, "novel_update", "predict")
    store = run.results / "pop" / "fold0" / "features" / "features.h5"
    content, seen = store.read_bytes(), store.stat().st_mtime_ns
    store.unlink()  # the file of the undisturbed run is the same one
    store.write_bytes(content[: len(content) // 2])
    os.utime(store, ns=(seen, seen))
    with pytest.raises(SystemExit, match="1"):
        run.build(TARGET)
    message = capfd.readouterr().err
    assert f"{store.relative_to(run.folder)} is cut off or damaged" in message
    assert "delete it and run the stage that writes it again" in message
    store.unlink()
    stages = run.build(TARGET)
    assert stages == ["pop.features", "pop.novel_update", "pop.predict", "pop.evaluate"]
    assert numbers_of(run) == numbers_before


def test_a_clock_set_back(run: Run, undisturbed: Run, numbers_before: str) -> None:
    """All that is there is an hour younger than what is made now, which Snakemake alone would delete."""
    shutil.rmtree(run.results)
    shutil.copytree(undisturbed.results, run.results)
    later = time.time() + 3600
    for path in run.results.rglob("*"):
        os.utime(path, (later, later))
    remove(run)
    message = fails(run, TARGET)
    assert "counts.json is from the future" in message
    mend = re.search(r"run again: (t=.* \+)$", message, re.MULTILINE)
    assert mend is not None
    subprocess.run(mend[1], shell=True, cwd=run.folder, check=True)
    succeeds(run, TARGET)
    assert numbers_of(run) == numbers_before
    assert "Nothing to be done" in succeeds(run, TARGET)


def test_a_clock_that_is_slow(run: Run, numbers_before: str) -> None:
    """By less than a minute: the stage waits until its inputs are of the past."""
    remove(run)
    counts = run.results / "pop" / "fold0" / "predict" / "1of1" / "counts.json"
    content = counts.read_bytes()
    counts.unlink()  # the file of the undisturbed run is the same one
    counts.write_bytes(content)
    soon = time.time() + 3
    os.utime(counts, (soon, soon))
    run.build(TARGET)
    assert time.time() >= soon
    assert numbers_of(run) == numbers_before
