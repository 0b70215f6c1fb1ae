"""Merge the shards' confusion matrices into `miou.json` (raml.md 4.1)."""

import json

from anyshot.engine.artifacts import write_json
from anyshot.job import Job, run
from anyshot.raml.artifacts import read_tables
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
    provenance = job.provenance()
    content = {
        "system": "raml",
        "dataset": job.input("manifest").parent.name,
        "split": options.dataset.split,
        "subset": " ".join(options.dataset.subsets),
        "variant": shown["variant"],
        "shots": shown["shots"],
        "protocol": PROTOCOL,
        "images": sum(part["images"] for part in parts),
        "miou": shown["mean"],
        "spread": shown["spread"],
        "classes": shown["classes"],
        "variants": variants,
        "reference": reference(options.dataset.split) if options.published else {},
        "options_hash": provenance["fingerprint"],
        "versions": {name: provenance[name] for name in ("anyshot", "torch") if name in provenance},
        **provenance,
        "seconds": float(provenance["seconds"]),
    }
    write_json(job.output("miou"), content)
    for row in variants:
        mean = {key: "-" if value is None else f"{100 * value:.2f}" for key, value in row["mean"].items()}
        job.log.info("%s, %d shots: %s", row["variant"], row["shots"], mean)


if __name__ == "__main__":
    run("raml.evaluate", Evaluate, main)
