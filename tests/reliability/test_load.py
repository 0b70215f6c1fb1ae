"""Two hundred jobs, eight at a time, on four pretended GPUs: none is held twice, all come back."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from anyshot.lease import lease
from tests.pretended_gpus import pretended_gpus

JOBS, AT_ONCE, GPUS = 200, 8, ("0", "1", "2", "3")
DRIVER = Path(__file__).with_name("many_jobs.py")
STAGE = """
import os
import time
from pathlib import Path
from anyshot.job import Job, run
from anyshot.options import StageOptions

class Held(StageOptions):
    until: str = ""  # the job holds its GPU until this file exists

def main(job: Job[Held]) -> None:
    job.output("gpu").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    while not Path(job.options.until).exists():
        time.sleep(0.01)

if __name__ == "__main__":
    run("test.held", Held, main)
"""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path) -> Iterator[None]:
    """Four pretended GPUs, locks in a folder of the test."""
    with pretended_gpus(GPUS, tmp_path / "locks"):
        yield


def test_no_gpu_is_held_twice_and_all_come_back() -> None:
    victims = random.Random(7).sample(range(JOBS), JOBS // 10)
    words = [str(JOBS), str(AT_ONCE), ",".join(map(str, victims))]
    done = subprocess.run([sys.executable, str(DRIVER), *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    jobs = [json.loads(line) for line in done.stdout.splitlines()]
    exits = Counter(job["exit"] for job in jobs)
    assert exits == {0: JOBS - len(victims), -signal.SIGKILL: len(victims)}
    for gpu in GPUS:
        spans = sorted((job["begin"], job["end"]) for job in jobs if gpu in job["gpus"])
        assert len(spans) > JOBS / 8, "every GPU does its share"
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans)), gpu
    taken = [(job["begin"], len(job["gpus"])) for job in jobs]
    returned = [(job["end"], -len(job["gpus"])) for job in jobs]
    in_use = itertools.accumulate(count for _, count in sorted(taken + returned))
    assert max(in_use) == len(GPUS), "all of them at a time"
    held = lease(len(GPUS), timeout=0)
    assert {gpu.word for gpu in held.gpus} == set(GPUS)
    held.release()


def test_stages_of_a_killed_and_of_living_jobs(tmp_path: Path) -> None:
    """The same by the command of a stage: four hold the four GPUs, the fifth gets that of the killed one."""
    script, until = tmp_path / "stage.py", tmp_path / "go on"
    script.write_text(STAGE)

    def start(number: int) -> tuple[subprocess.Popen[bytes], Path]:
        out = tmp_path / f"gpu{number}"
        words = ["--options", f'{{"until": "{until}"}}', "--gpus", "1", "--output", "gpu", str(out)]
        return subprocess.Popen([sys.executable, str(script), *words], stderr=subprocess.DEVNULL), out

    def gpu_of(out: Path) -> str:
        end = time.monotonic() + 120
        while not (out.exists() and out.read_text()):
            assert time.monotonic() < end, f"{out.name}: no GPU within 120 s"
            time.sleep(0.02)
        return out.read_text()

    jobs = [start(number) for number in range(4)]
    assert {gpu_of(out) for _, out in jobs} == set(GPUS)
    fifth, fifth_gpu = start(4)
    victim, victim_gpu = jobs[2]
    victim.kill()
    assert gpu_of(fifth_gpu) == gpu_of(victim_gpu)
    until.touch()
    assert [process.wait(120) for process, _ in jobs] == [0, 0, -signal.SIGKILL, 0]
    assert fifth.wait(120) == 0
    lease(len(GPUS), timeout=0).release()
