"""Phase 2: maps of the training images, novel classes as predicted (simformer.md 2.8)."""

import torch

from anyshot.data.images import read_image
from anyshot.data.manifest import read_samples
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.job import Job, run
from anyshot.simformer.artifacts import load_network
from anyshot.simformer.datasets import mask_labels
from anyshot.simformer.inference import segment, views
from anyshot.simformer.options import PseudoLabel
from anyshot.simformer.pairing import read_image_labels
from anyshot.simformer.pseudo import pseudo_labels
from anyshot.simformer.tables import read_tables


def main(job: Job[PseudoLabel]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    model, card = load_network(job.input("joint"), tables=tables, split=options.dataset.split)
    model.to(job.device)
    by_id = {sample.id: sample for sample in read_samples(job.input("manifest"), options.dataset.subsets)}
    ids = read_image_labels(job.input("pairs"), split=options.dataset.split).ids
    read = mask_labels(tables, supervision="image")

    with LabelMapWriter(job.output("labels"), tables.table) as out, torch.inference_mode():
        for sample in job.progress(job.mine([by_id[one] for one in ids])):
            image = read_image(sample.image)
            _, novel = tables.labels_of(sample)
            found = views(
                model,
                image,
                scales=options,
                mean=card["input"]["mean"],
                std=card["input"]["std"],
                device=job.device,
            )
            allowed = [*tables.base, *novel] if options.restrict else None
            prediction = segment(found, *image.shape[:2], allowed=allowed)
            labels = pseudo_labels(prediction, base=read(sample), novel=novel)
            out.add(sample.id, tables.ids_of(labels))


if __name__ == "__main__":
    run("simformer.pseudo_label", PseudoLabel, main)
