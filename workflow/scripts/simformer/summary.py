"""The summary of SimFormer: one row per split and variant, from all `miou.json`.

Inputs: miou, one per split. Output: summary (csv, fractions in [0, 1]).
"""

from __future__ import annotations

from anyshot.job import Job, run
from anyshot.report.tables import write_summary
from anyshot.simformer.options import Summary


def main(job: Job[Summary]) -> None:
    rows = write_summary(job.output("summary"), job.inputs("miou"))
    job.log.info("%d rows", rows)


if __name__ == "__main__":
    run("simformer.summary", Summary, main)
