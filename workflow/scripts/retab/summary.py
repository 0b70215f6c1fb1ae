"""The summary of RETAB: one row per split and thing scored, from all splits' `miou.json` and `scores.json`.

Inputs: miou, scores (one per split each, either may be absent). Output: summary (csv, fractions in [0, 1]).
"""

from __future__ import annotations

from anyshot.engine.artifacts import atomic_path
from anyshot.job import Job, run
from anyshot.report.tables import summary_frame
from anyshot.retab.options import Summary


def main(job: Job[Summary]) -> None:
    frame = summary_frame(job.inputs("miou"), job.inputs("scores"))
    with atomic_path(job.output("summary")) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    job.log.info("%d rows", len(frame))


if __name__ == "__main__":
    run("retab.summary", Summary, main)
