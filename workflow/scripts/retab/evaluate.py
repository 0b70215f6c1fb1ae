"""Score the segmenter's predictions on the evaluation images: `miou.json` (retab.md 3.1)."""

import csv
import io
import json

from anyshot.data.images import read_mask
from anyshot.engine.artifacts import made_by, write_json, write_text
from anyshot.engine.label_maps import LabelMaps
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.retab import evaluation
from anyshot.retab.options import Evaluate
from anyshot.retab.reference import reference
from anyshot.retab.samples import index_map, read_data, roles_of

PROTOCOL = evaluation.PROTOCOL.split(" Thresholds")[0]


def main(job: Job[Evaluate]) -> None:
    samples, table = read_data(job.input("manifest"), job.input("classes"), job.options.dataset.subsets)
    split = json.loads(job.input("split").read_text(encoding="utf-8"))
    scores = json.loads(job.input("scores").read_text(encoding="utf-8"))
    if scores["split"] != split["split"]:
        raise DataError(f"the scores belong to split {scores['split']}, expected {split['split']}")
    predictions = LabelMaps(job.inputs("predict"))
    tally = evaluation.Tally(len(table), None)
    for sample in job.progress(samples):
        if sample.mask is None:
            raise DataError(f"image {sample.id} has no mask, so nothing can be scored on it")
        truth = index_map(read_mask(sample.mask), table)
        tally.add_labels(sample.id, truth, index_map(predictions[sample.id], table))

    result = evaluation.measured(tally.labels.iou(), tally.labels.truth_pixels, table, roles_of(table, split))
    content = {
        "system": "retab",
        "dataset": job.input("manifest").parent.name,
        "split": split["split"],
        "subset": " ".join(job.options.dataset.subsets),
        "variant": "segmentation",
        "protocol": PROTOCOL,
        "images": len(samples),
        "miou": {key: result[key] for key in ("all", "base", "novel", "harmonic")},
        "classes": result["classes"],
        "confusion": tally.labels.matrix.tolist(),
        "reference": reference(split["split"]) if job.options.published else {},
        **made_by(job.provenance()),
    }
    write_json(job.output("miou"), content)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "segmentation"])
    writer.writerows([sample.id, f"{tally.images[sample.id]:.6f}"] for sample in samples)
    write_text(job.output("images"), text.getvalue())


if __name__ == "__main__":
    run("retab.evaluate", Evaluate, main)
