"""The summary of RETAB: one row per split and thing scored, from all splits' `miou.json` and `scores.json`.

Inputs: miou, scores (one per split each, either may be absent). Output: summary (csv, fractions in [0, 1]).
"""

from __future__ import annotations

from anyshot.job import Job, run
from anyshot.report.tables import write_summary
from anyshot.retab.options import Summary


def main(job: Job[Summary]) -> None:
    rows = write_summary(job.output("summary"), job.inputs("miou"), job.inputs("scores"))
    job.log.info("%d rows", rows)


if __name__ == "__main__":
    run("retab.summary", Summary, main)
