"""Stage data.prepare: read a data set's own layout, check every sample, write manifest, table and card."""

import json

from anyshot.data.files import write_bytes
from anyshot.data.options import Prepare
from anyshot.data.prepare import prepare
from anyshot.job import Job, run


def main(job: Job) -> None:
    """Outputs: manifest (csv), classes (csv), card (json). Generated data sets lie beside the manifest."""
    manifest, table, card = prepare(
        job.options,
        folder=job.output("manifest").parent,
        threads=job.threads,
        progress=lambda checks, total: job.progress(checks, total=total),
    )
    for name, subset in card["subsets"].items():
        job.log.info("%s: %d images, %d with masks", name, subset["images"], subset["masks"])
    if card["problems"]["count"]:
        job.log.warning("%d samples left out, see the card", card["problems"]["dropped_samples"])
    table.write(job.output("classes"))
    write_bytes(job.output("card"), json.dumps(card, indent=1, ensure_ascii=False).encode("utf-8"))
    manifest.write(job.output("manifest"))


if __name__ == "__main__":
    run("data.prepare", Prepare, main)
