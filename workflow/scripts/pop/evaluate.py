"""Merge the shards' confusion matrices into `miou.json` (pop.md 4.1)."""

import json

from anyshot.engine import draws
from anyshot.engine.artifacts import made_by, write_json
from anyshot.job import Job, run
from anyshot.pop.evaluation import PROTOCOLS
from anyshot.pop.options import Evaluate
from anyshot.pop.reference import reference
from anyshot.pop.scores import merge_counts, scored_methods
from anyshot.pop.tables import read_tables


def main(job: Job[Evaluate]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in job.inputs("counts")]
    variants = scored_methods(merge_counts(parts), tables)
    shown = max(variants, key=lambda row: (row["variant"] == "pop", row["shots"]))
    content = draws.result(
        variants,
        shown,
        manifest=job.input("manifest"),
        images=sum(part["images"] for part in parts),
        system="pop",
        split=options.dataset.split,
        subset=" ".join(options.dataset.subsets),
        protocol=PROTOCOLS["pop"],
        protocols=PROTOCOLS,
        cosines=parts[0].get("cosines", {}),  # every shard's are the same
        reference=reference(options.scheme) if options.published else {},
        **made_by(job.provenance()),
    )
    write_json(job.output("miou"), content)
    for row in variants:
        job.log.info("%s", draws.in_words(row))


if __name__ == "__main__":
    run("pop.evaluate", Evaluate, main)
