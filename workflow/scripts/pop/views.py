"""Encode scaled, mirrored and cropped views of a draw's support images, once for all methods (pop.md 5.3)."""

import numpy as np
import torch

from anyshot.data.manifest import read_samples
from anyshot.engine.stores import StoreWriter
from anyshot.job import Job, run
from anyshot.pop.artifacts import load_base, read_supports
from anyshot.pop.datasets import Augmented, support_view, view_id
from anyshot.pop.options import Views
from anyshot.pop.tables import read_tables

BATCH = 8  # views


def main(job: Job[Views]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    model, card = load_base(job.input("base"), tables=tables, split=options.dataset.split)
    model.to(job.device)
    augmented = Augmented(
        tables=tables, options=options, mean=card["input"]["mean"], std=card["input"]["std"]
    )
    samples = {one.id: one for one in read_samples(job.input("manifest"), options.dataset.subsets)}
    supports = sorted(set(read_supports(job.input("supports"), tables).ids))
    facts = {**job.provenance(), "size": str(options.crop), "views": str(options.number)}
    with StoreWriter(job.output("views"), attributes=facts) as store, torch.inference_mode():
        for place, sample_id in enumerate(job.progress(supports)):
            made = [
                support_view(augmented, samples[sample_id], place=place, view=view, seed=job.seed)
                for view in range(options.number)
            ]
            for first in range(0, options.number, BATCH):
                pixels, labels = zip(*made[first : first + BATCH], strict=True)
                features = model.features(torch.from_numpy(np.stack(pixels)).to(job.device))
                for view, one in enumerate(features.float().cpu().numpy(), start=first):
                    store.add(
                        view_id(sample_id, view), range(len(one)), one, height=options.crop,
                        width=options.crop, stride=options.crop // one.shape[-1], dtype=options.dtype,
                        extra={"labels": labels[view - first]},
                    )  # fmt: skip
    job.log.info("%d views of each of %d support images", options.number, len(supports))


if __name__ == "__main__":
    run("pop.views", Views, main)
