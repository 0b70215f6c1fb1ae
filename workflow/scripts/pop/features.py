"""Encode the images that any drawn support list or replay of a split can name, once (pop.md 5.3)."""

import torch

from anyshot.data.images import read_image
from anyshot.data.manifest import read_samples
from anyshot.engine.stores import StoreWriter
from anyshot.job import Job, run
from anyshot.pop.artifacts import load_base
from anyshot.pop.datasets import whole_image
from anyshot.pop.index import PixelIndex
from anyshot.pop.options import Features
from anyshot.pop.tables import read_tables

BATCH = 8  # images


def main(job: Job[Features]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    model, card = load_base(job.input("base"), tables=tables, split=options.dataset.split)
    model.to(job.device)
    mean, std = card["input"]["mean"], card["input"]["std"]
    index = PixelIndex.read(job.input("index"))
    lists = index.class_lists(
        (*tables.base_ids, *tables.novel_ids),
        min_pixels=options.min_pixels, fold=tables, filter_novel=options.filter_novel,
    )  # fmt: skip
    wanted = {sample_id for ids in lists.values() for sample_id in ids}
    samples = [s for s in read_samples(job.input("manifest"), options.dataset.subsets) if s.id in wanted]
    facts = {**job.provenance(), "size": str(options.size)}
    with StoreWriter(job.output("features"), attributes=facts) as store, torch.inference_mode():
        waiting = []
        for number, sample in enumerate(job.progress(samples), start=1):
            image = read_image(sample.image)
            pixels, _ = whole_image(image, options.size, mean=mean, std=std)
            waiting.append((sample.id, image.shape[:2], pixels))
            if len(waiting) < BATCH and number < len(samples):
                continue
            batch = torch.stack([pixels for _, _, pixels in waiting]).to(job.device)
            features = model.features(batch).float().cpu().numpy()
            channels = range(features.shape[1])
            for (sample_id, (height, width), _), one in zip(waiting, features, strict=True):
                store.add(
                    sample_id, channels, one, height=height, width=width,
                    stride=options.size // one.shape[-1], dtype=options.dtype,
                )  # fmt: skip
            waiting.clear()
    job.log.info("features of %d images, %d channels each", len(samples), model.head.channels)


if __name__ == "__main__":
    run("pop.features", Features, main)
