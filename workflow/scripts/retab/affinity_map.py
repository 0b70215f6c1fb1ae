"""Affinities between neighbouring cells of every training image, so that the walk needs no GPU (retab.md
2.9)."""

import numpy as np
import torch
import torch.nn.functional as F

from anyshot.data.images import read_image
from anyshot.data.transforms import normalise
from anyshot.engine.stores import StoreWriter
from anyshot.job import Job, run
from anyshot.ops.affinity import affinity_planes
from anyshot.ops.neighbours import fitting_radius
from anyshot.ops.resample import padded
from anyshot.retab.networks import GRID
from anyshot.retab.options import AffinityMap
from anyshot.retab.samples import read_data
from anyshot.retab.training import load_network


def main(job: Job[AffinityMap]) -> None:
    options = job.options
    samples, table = read_data(job.input("manifest"), job.input("classes"), options.dataset.subsets)
    model, card = load_network(
        job.input("affinity"), network="retab_affinity", table=table, split=options.dataset.split
    )
    model.to(job.device)
    attributes = {**job.provenance(), "split": card["split"], "labels": card["labels"]}

    with StoreWriter(job.output("store"), attributes=attributes) as out, torch.inference_mode():
        for sample in job.progress(job.mine(samples)):
            image = read_image(sample.image)
            height, width = image.shape[:2]
            pixels = normalise(image, mean=card["input"]["mean"], std=card["input"]["std"])[None].to(
                job.device
            )
            # zeros right and bottom, after the normalisation, up to whole cells
            pixels = F.pad(pixels, (0, padded(width, GRID) - width, 0, padded(height, GRID) - height))
            features = model(pixels)[0]
            radius = fitting_radius(card["radius"], *features.shape[-2:])
            planes = affinity_planes(features, radius=radius, border=options.border).cpu().numpy()
            out.add(
                sample.id,
                range(len(planes)),
                planes,
                height=height,
                width=width,
                stride=GRID,
                dtype=options.dtype,
                extra={"radius": np.int64(radius)},
            )


if __name__ == "__main__":
    run("retab.affinity_map", AffinityMap, main)
