"""Confident background and foreground from the CAMs by two CRFs per image (retab.md 2.5). CPU work."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from anyshot.data.images import read_image
from anyshot.data.manifest import Sample
from anyshot.engine.stores import Store, StoreWriter
from anyshot.job import Job, run
from anyshot.ops.crf import CrfParameters, confident_labels, map_processes
from anyshot.ops.resample import upsample_grid
from anyshot.retab.options import CrfLabel
from anyshot.retab.samples import read_data


def label(sample: Sample, *, cams: Callable[[str], np.ndarray], options: CrfLabel) -> np.ndarray:
    """`la` then `ha`: float (2(K+1), H, W)."""
    parameters = CrfParameters(**options.crf.model_dump())
    alphas = (options.alpha_low, options.alpha_high)
    both = confident_labels(read_image(sample.image), cams(sample.id), alphas=alphas, parameters=parameters)
    return np.concatenate(both).astype(options.dtype)


class CamReader:
    """CAMs at the image's size, (K, H, W); opens the stores in the process that uses it."""

    def __init__(self, paths: list[Path]) -> None:
        self.store = Store(paths)

    def __call__(self, sample_id: str) -> np.ndarray:
        cam = self.store[sample_id]
        return upsample_grid(cam.scores, stride=cam.stride, height=cam.height, width=cam.width)


def main(job: Job[CrfLabel]) -> None:
    options = job.options
    samples, table = read_data(job.input("manifest"), job.input("classes"), options.dataset.subsets)
    samples = job.mine(samples)
    store = Store(job.inputs("cam"))
    work = partial(label, cams=CamReader(job.inputs("cam")), options=options)

    with StoreWriter(job.output("store"), attributes=job.provenance()) as out:
        results = map_processes(work, samples, processes=job.threads)
        for sample, scores in job.progress(zip(samples, results, strict=True), total=len(samples)):
            classes = [table.background_id, *store[sample.id].classes.tolist()]
            height, width = scores.shape[1:]
            out.add(sample.id, classes * 2, scores, height=height, width=width)


if __name__ == "__main__":
    run("retab.crf_label", CrfLabel, main)
