"""Segment the evaluation images with one network: maps, counts, what the report draws (simformer.md 2.10)."""

from typing import Any

import numpy as np
import torch

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import read_samples, shown_ids
from anyshot.engine.artifacts import write_json
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import StoreWriter
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.ops.metrics import confusion_counts
from anyshot.simformer.artifacts import load_network
from anyshot.simformer.inference import segment, views
from anyshot.simformer.options import Predict
from anyshot.simformer.shown import shown_proposals, similarity_maps
from anyshot.simformer.tables import read_tables


def main(job: Job[Predict]) -> None:
    options = job.options
    split = options.dataset.split
    tables = read_tables(job.input("classes"), options.dataset)
    model, card = load_network(job.input("network"), tables=tables, split=split)
    model.to(job.device)
    mean, std = card["input"]["mean"], card["input"]["std"]
    every = read_samples(job.input("manifest"), options.dataset.subsets)
    novel_ids = [tables.table.ids[index] for index in tables.novel]
    samples, kept = job.mine(every), shown_ids(every, novel_ids, options.shown_images)
    classes = len(tables.table)
    matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)

    with (
        LabelMapWriter(job.output("labels"), tables.table) as out,
        StoreWriter(job.output("shown"), attributes=job.provenance()) as pictures,
        torch.inference_mode(),
    ):
        for sample in job.progress(samples):
            if sample.mask is None:
                raise DataError(f"image {sample.id} has no mask, so nothing can be scored on it")
            image, truth = read_image(sample.image), tables.lut[read_mask(sample.mask)]
            found = views(model, image, scales=options, mean=mean, std=std, device=job.device)
            prediction = segment(found, *truth.shape)
            matrix += confusion_counts(truth, prediction, classes)
            out.add(sample.id, tables.ids_of(prediction))
            if sample.id in kept:
                extra: dict[str, Any] = {
                    **shown_proposals(found[0], count=options.shown_proposals),
                    **similarity_maps(
                        model, image, truth, scales=options, mean=mean, std=std, device=job.device
                    ),
                }
                height, width = truth.shape
                nothing = np.zeros((0, 1, 1), np.float32)
                pictures.add(sample.id, [], nothing, height=height, width=width, extra=extra)

    content = {
        "split": split,
        "variant": card["variant"],
        "images": len(samples),
        "matrix": matrix.tolist(),
        **job.provenance(),
    }
    write_json(job.output("counts"), content)


if __name__ == "__main__":
    run("simformer.predict", Predict, main)
