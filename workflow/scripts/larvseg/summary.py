"""The summary of LarvSeg: one row per experiment, method and target, from all `miou.json`.

Inputs: miou, one per experiment. Output: summary (csv, fractions in [0, 1]).
"""

from __future__ import annotations

from anyshot.job import Job, run
from anyshot.larvseg.options import Summary
from anyshot.report.tables import write_summary


def main(job: Job[Summary]) -> None:
    rows = write_summary(job.output("summary"), job.inputs("miou"))
    job.log.info("%d rows", rows)


if __name__ == "__main__":
    run("larvseg.summary", Summary, main)
