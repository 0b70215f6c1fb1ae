"""Phase 3: a fresh MaskFormer, trained on pseudo labels as if they were masks (simformer.md 2.8)."""

import numpy as np

from anyshot.data.manifest import Sample, read_samples
from anyshot.engine.label_maps import LabelMaps
from anyshot.job import Job, run
from anyshot.simformer.datasets import CropDataset, Crops
from anyshot.simformer.options import Retrain
from anyshot.simformer.pairing import read_image_labels
from anyshot.simformer.system import RETRAINED
from anyshot.simformer.tables import IGNORE, read_tables
from anyshot.simformer.training import fit


def main(job: Job[Retrain]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    by_id = {sample.id: sample for sample in read_samples(job.input("manifest"), options.dataset.subsets)}
    ids = read_image_labels(job.input("pairs"), split=options.dataset.split).ids
    maps = LabelMaps(job.inputs("pseudo_label"))

    def read(sample: Sample) -> np.ndarray:
        return np.asarray(tables.lut[maps[sample.id]])

    samples = [by_id[one] for one in ids]
    # a missing pseudo label stops here; the mask never takes its place
    labelled = [sample for sample in job.progress(samples) if (read(sample) != IGNORE).any()]
    if len(labelled) < len(samples):
        job.log.warning("%d pseudo labels are all void and left out", len(samples) - len(labelled))

    def dataset(crops: Crops) -> CropDataset:
        return CropDataset(samples=labelled, read=read, tables=tables, supervision="masks", crops=crops)

    fit(
        job,
        options=options,
        tables=tables,
        of_set=options.losses.model_copy(update={"complementary_weight": 0.0}),
        of_pairs=None,
        dataset=dataset,
        variant=RETRAINED,
    )


if __name__ == "__main__":
    run("simformer.retrain", Retrain, main)
