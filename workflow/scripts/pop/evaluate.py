"""Merge the shards' confusion matrices into `miou.json` (pop.md 4.1)."""

import json

from anyshot.engine.artifacts import write_json
from anyshot.job import Job, run
from anyshot.pop.artifacts import read_tables
from anyshot.pop.evaluation import PROTOCOLS
from anyshot.pop.options import Evaluate
from anyshot.pop.reference import reference
from anyshot.pop.scores import merge_counts, scored_methods


def main(job: Job[Evaluate]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in job.inputs("counts")]
    variants = scored_methods(merge_counts(parts), tables)
    shown = max(variants, key=lambda row: (row["variant"] == "pop", row["shots"]))
    provenance = job.provenance()
    content = {
        "system": "pop",
        "dataset": job.input("manifest").parent.name,
        "split": options.dataset.split,
        "subset": " ".join(options.dataset.subsets),
        "variant": shown["variant"],
        "shots": shown["shots"],
        "protocol": PROTOCOLS["pop"],
        "protocols": PROTOCOLS,
        "images": sum(part["images"] for part in parts),
        "miou": shown["mean"],
        "spread": shown["spread"],
        "classes": shown["classes"],
        "variants": variants,
        "cosines": parts[0].get("cosines", {}),  # every shard's are the same
        "reference": reference(options.scheme) if options.published else {},
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
    run("pop.evaluate", Evaluate, main)
