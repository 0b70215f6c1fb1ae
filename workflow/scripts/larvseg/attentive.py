"""The baseline with a second loss, of logits pooled by class-specific attention (larvseg.md 2.5)."""

from anyshot.job import Job, run
from anyshot.larvseg.options import Attentive
from anyshot.larvseg.tables import read_tables
from anyshot.larvseg.training import fit


def main(job: Job[Attentive]) -> None:
    options = job.options
    tables = read_tables(
        options.experiment, classes=job.inputs("classes"), vocabulary=job.input("vocabulary")
    )
    fit(job, options=options, tables=tables, manifests=job.inputs("manifest"))


if __name__ == "__main__":
    run("larvseg.attentive", Attentive, main)
