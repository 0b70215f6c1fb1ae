"""Masks of some classes and image labels of all, learnt together; and the limits of it (larvseg.md 2.4)."""

from anyshot.job import Job, run
from anyshot.larvseg.options import Baseline
from anyshot.larvseg.tables import read_tables
from anyshot.larvseg.training import fit


def main(job: Job[Baseline]) -> None:
    options = job.options
    tables = read_tables(
        options.experiment, classes=job.inputs("classes"), vocabulary=job.input("vocabulary")
    )
    fit(job, options=options, tables=tables, manifests=job.inputs("manifest"))


if __name__ == "__main__":
    run("larvseg.baseline", Baseline, main)
