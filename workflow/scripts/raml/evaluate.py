"""Merge the shards' confusion matrices into `miou.json` (raml.md 4.1)."""

import json

from anyshot.data.split_tables import read_tables
from anyshot.engine import draws
from anyshot.engine.artifacts import made_by, write_json
from anyshot.job import Job, run
from anyshot.raml.evaluation import PROTOCOL, merge_counts, scored_variants
from anyshot.raml.options import Evaluate
from anyshot.raml.reference import reference


def main(job: Job[Evaluate]) -> None:
    options = job.options
    tables = read_tables(job.input("split"), job.input("classes"))
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in job.inputs("counts")]
    variants = scored_variants(merge_counts(parts), tables)
    shown = max(
        (row for row in variants if row["variant"] in (options.variant, "closed_set")),
        key=lambda row: row["shots"],
    )
    content = draws.result(
        variants,
        shown,
        manifest=job.input("manifest"),
        images=sum(part["images"] for part in parts),
        system="raml",
        split=options.dataset.split,
        subset=" ".join(options.dataset.subsets),
        protocol=PROTOCOL,
        reference=reference(options.dataset.split) if options.published else {},
        **made_by(job.provenance()),
    )
    write_json(job.output("miou"), content)
    for row in variants:
        job.log.info("%s", draws.in_words(row))


if __name__ == "__main__":
    run("raml.evaluate", Evaluate, main)
