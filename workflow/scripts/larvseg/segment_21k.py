"""Segment images with every class of the vocabulary at once (larvseg.md 5.2 item 5).

Outputs: labels (maps of vocabulary rows), classes (what the rows are), segments (csv, one line per segment
and likely class).
"""

import csv
import io
from typing import Any

import torch

from anyshot.data.images import read_image
from anyshot.data.manifest import read_samples
from anyshot.engine.artifacts import write_text
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.job import Job, run
from anyshot.larvseg.artifacts import load_network, vocabulary_table
from anyshot.larvseg.head import ActiveClasses
from anyshot.larvseg.inference import Classifier, see
from anyshot.larvseg.options import Segment
from anyshot.larvseg.segments import COLUMNS, best_classes, segment_rows, segments_of
from anyshot.larvseg.tables import read_tables
from anyshot.larvseg.words import rows_of_words
from anyshot.ops.postprocess import label_nearest


def main(job: Job[Segment]) -> None:
    options = job.options
    tables = read_tables(
        options.experiment, classes=job.inputs("classes"), vocabulary=job.input("vocabulary")
    )
    vocabulary = tables.vocabulary
    model, card = load_network(job.input("network"), tables=tables, split=options.split)
    model.to(job.device)
    reading: dict[str, Any] = {
        "mean": card["input"]["mean"], "std": card["input"]["std"], "device": job.device
    }  # fmt: skip
    wanted = range(len(vocabulary)) if options.classes is None else rows_of_words(vocabulary, options.classes)
    rows = torch.tensor(sorted(set(wanted)))
    classifier = Classifier(model.head, ActiveClasses(rows=rows))
    table = vocabulary_table(vocabulary)
    samples = read_samples(job.input("manifest"), options.subsets)
    job.log.info("%d images, %d classes at every pixel", len(samples), len(rows))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    with LabelMapWriter(job.output("labels"), table) as out, torch.inference_mode():
        for sample in job.progress(samples):
            seen = see(model, read_image(sample.image), view=options, **reading)
            top = best_classes(classifier, seen, best=options.best, memory_mib=options.memory_mib)
            labels = label_nearest(top.classes[0], height=seen.height, width=seen.width).cpu()
            out.add(sample.id, rows[labels.long()].numpy())
            found = segments_of(top, best=options.best)
            lines.writerows(segment_rows(sample.id, found, rows=rows.tolist(), vocabulary=vocabulary))
    table.write(job.output("classes"))
    write_text(job.output("segments"), text.getvalue())


if __name__ == "__main__":
    run("larvseg.segment_21k", Segment, main)
