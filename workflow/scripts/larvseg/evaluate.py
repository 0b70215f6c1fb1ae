"""Merge the shards' confusion matrices of all methods and targets into `miou.json` (larvseg.md 4)."""

import json

from anyshot.engine import draws
from anyshot.engine.artifacts import made_by, write_json
from anyshot.job import Job, run
from anyshot.larvseg.evaluation import PROTOCOL, merged, scored_variants
from anyshot.larvseg.options import Evaluate
from anyshot.larvseg.reference import reference
from anyshot.larvseg.tables import read_tables


def main(job: Job[Evaluate]) -> None:
    options = job.options
    assert options.experiment is not None, "filled in by Larvseg.stage"
    tables = read_tables(
        options.experiment, classes=job.inputs("classes"), vocabulary=job.input("vocabulary")
    )
    mapping = json.loads(job.input("mapping").read_text(encoding="utf-8"))
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in job.inputs("counts")]
    variants = scored_variants(merged(parts, tables), tables, images=mapping["images"], bands=options.bands)
    shown = next((one for one in variants if one["variant"] == "attentive"), variants[0])
    content = draws.result(
        variants,
        shown,
        manifest=job.input("manifest"),
        images=shown["images"],
        system="larvseg",
        split=options.split,
        subset=options.experiment.targets[0].subset,
        protocol=PROTOCOL,
        reference=reference(options.published),
        **made_by(job.provenance()),
    )
    write_json(job.output("miou"), content)
    for row in variants:
        job.log.info("%s", draws.in_words(row))


if __name__ == "__main__":
    run("larvseg.evaluate", Evaluate, main)
