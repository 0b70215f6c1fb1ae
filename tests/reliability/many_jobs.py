"""A program for test_load.py: jobs that lease pretended GPUs, some of them killed; prints what each one saw.

    python many_jobs.py JOBS AT_ONCE KILLED    # KILLED: their numbers, separated by commas

A process of its own, because it forks, which a process with threads (a test's) must not.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from anyshot.lease import lease

SECONDS = 0.03  # that a job holds its GPUs


def hold(count: int, seconds: float, report: Connection) -> None:
    """A job: say what is held and since when, hold it, say until when."""
    held = lease(count, timeout=300)
    report.send(([gpu.word for gpu in held.gpus], time.monotonic()))
    time.sleep(seconds)
    report.send(time.monotonic())
    held.release()


@dataclasses.dataclass
class Job:
    process: BaseProcess
    report: Connection
    killed: bool  # whether it is to be killed while it holds
    gpus: list[str] = dataclasses.field(default_factory=list)
    begin: float = 0.0
    end: float = 0.0  # of the time in which it surely held the GPUs

    @classmethod
    def start(cls, number: int, killed: bool) -> Job:
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        count = 2 if number % 6 == 0 else 1
        process = context.Process(target=hold, args=(count, 600 if killed else SECONDS, sender))
        process.start()
        sender.close()
        return cls(process, receiver, killed)

    def read(self) -> None:
        """Take what the job says; kill it when it is a victim and holds its GPUs."""
        said = self.report.recv()
        if isinstance(said, float):
            self.end = said
            return
        self.gpus, self.begin = said
        if self.killed:
            self.end = time.monotonic()
            self.process.kill()


def main(jobs: int, at_once: int, victims: set[int]) -> None:
    numbers = iter(range(jobs))
    running: list[Job] = []
    while True:
        for number in itertools.islice(numbers, at_once - len(running)):
            running.append(Job.start(number, number in victims))
        if not running:
            return
        ready = wait([job.report for job in running], timeout=300)
        if not ready:
            raise SystemExit(f"nothing happened for 300 s; {len(running)} jobs are waiting")
        for job in [job for job in running if job.report in ready]:
            try:
                job.read()
            except EOFError:  # the process has ended
                job.process.join()
                running.remove(job)
                record = {"exit": job.process.exitcode, "gpus": job.gpus, "begin": job.begin, "end": job.end}
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), {int(number) for number in sys.argv[3].split(",")})
