"""Merge the shards' confusion matrices of all variants into `miou.json` (simformer.md 4.1)."""

import json

from anyshot.engine import draws
from anyshot.engine.artifacts import made_by, write_json
from anyshot.job import Job, run
from anyshot.simformer.evaluation import PROTOCOL, merged, scored_variants
from anyshot.simformer.options import Evaluate
from anyshot.simformer.reference import reference
from anyshot.simformer.tables import read_tables


def main(job: Job[Evaluate]) -> None:
    dataset = job.options.dataset
    tables = read_tables(job.input("classes"), dataset)
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in job.inputs("counts")]
    variants = scored_variants(merged(parts), tables)
    shown = variants[-1] if variants[-1]["variant"] == "retrained" else variants[0]
    content = draws.result(
        variants,
        shown,
        manifest=job.input("manifest"),
        images=sum(part["images"] for part in parts if part["variant"] == shown["variant"]),
        system="simformer",
        split=dataset.split,
        subset=" ".join(dataset.subsets),
        protocol=PROTOCOL,
        reference=reference(job.options.scheme) if job.options.published else {},
        **made_by(job.provenance()),
    )
    write_json(job.output("miou"), content)
    for row in variants:
        job.log.info("%s", draws.in_words(row))


if __name__ == "__main__":
    run("simformer.evaluate", Evaluate, main)
