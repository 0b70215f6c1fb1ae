"""Labels for the segmenter: masks of base images, walk results of novel images (retab.md 4)."""

import numpy as np

from anyshot.data.manifest import Sample
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import Store
from anyshot.errors import ArtifactError
from anyshot.job import Job, run
from anyshot.retab.datasets import mask_reader
from anyshot.retab.evaluation import label_map
from anyshot.retab.options import PseudoLabel
from anyshot.retab.samples import read_data, read_supervision


def main(job: Job[PseudoLabel]) -> None:
    options = job.options
    samples, table = read_data(job.input("manifest"), job.input("classes"), options.dataset.subsets)
    supervision = read_supervision(job.input("samples"))
    supervision.check(samples)
    walks = Store(job.inputs("random_walk"))
    if walks.attributes["split"] not in (supervision.split, "shared"):
        raise ArtifactError(
            f"the walk belongs to split {walks.attributes['split']}, the samples to {supervision.split}:"
            " give the inputs of one split"
        )
    read_base = mask_reader([sample for sample in samples if sample.id in supervision.base])
    threshold = options.threshold if options.mode == "const_bg" else None

    def labels_of(sample: Sample) -> np.ndarray:
        if sample.id in supervision.base:
            return read_base(sample.id)
        return label_map(walks[sample.id], threshold=threshold, background=int(table.ids[0]))

    with LabelMapWriter(job.output("labels"), table) as out:
        for sample in job.progress(job.mine(samples)):
            out.add(sample.id, labels_of(sample))


if __name__ == "__main__":
    run("retab.pseudo_label", PseudoLabel, main)
