"""Predict the evaluation images with the segmenter: scales, mirror, and a CRF if wanted (retab.md 4)."""

from collections.abc import Iterator

import numpy as np
import torch

from anyshot.data.images import read_image
from anyshot.data.manifest import Sample
from anyshot.engine.inference import multi_scale_logits
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.job import Job, run
from anyshot.ops.crf import CrfParameters, DenseCrf, map_processes
from anyshot.retab.options import Predict
from anyshot.retab.samples import id_map, read_data
from anyshot.retab.training import load_network


def refine(item: tuple[Sample, np.ndarray, CrfParameters | None]) -> np.ndarray:
    """Class indices (H, W) of probabilities (C, H, W), after a CRF if wanted."""
    sample, probabilities, parameters = item
    if parameters is None:
        return probabilities.argmax(axis=0)
    crf = DenseCrf(read_image(sample.image), channels=len(probabilities), parameters=parameters)
    return crf.infer(probabilities.astype(np.float32)).argmax(axis=0)


def main(job: Job[Predict]) -> None:
    options = job.options
    samples, table = read_data(job.input("manifest"), job.input("classes"), options.dataset.subsets)
    samples = job.mine(samples)
    model, card = load_network(
        job.input("segmentation"), network="retab_segmentation", table=table, split=options.dataset.split
    )
    model.to(job.device)
    crf = None if options.crf is None else CrfParameters(**options.crf.model_dump())

    def items() -> Iterator[tuple[Sample, np.ndarray, CrfParameters | None]]:
        for sample in samples:
            logits = multi_scale_logits(
                model,
                read_image(sample.image),
                scales=options.scales,
                flip=options.mirror,
                mean=card["input"]["mean"],
                std=card["input"]["std"],
                device=job.device,
            )
            yield sample, logits.softmax(dim=0).cpu().numpy(), crf

    processes = job.threads if crf is not None else 1
    with LabelMapWriter(job.output("labels"), table) as out, torch.inference_mode():
        results = map_processes(refine, items(), processes=processes)
        for sample, indices in job.progress(zip(samples, results, strict=True), total=len(samples)):
            out.add(sample.id, id_map(indices, table))


if __name__ == "__main__":
    run("retab.predict", Predict, main)
