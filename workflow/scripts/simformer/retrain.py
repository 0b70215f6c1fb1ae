"""Phase 3: a fresh MaskFormer, trained on pseudo labels as if they were masks (simformer.md 2.8)."""

import numpy as np
import torch
from torch import Tensor, nn

from anyshot.data.manifest import Sample, read_samples
from anyshot.engine.fitting import fit
from anyshot.engine.label_maps import LabelMaps
from anyshot.job import Job, run
from anyshot.simformer.datasets import CropDataset, Crops
from anyshot.simformer.learning import SUMMED, training_loss
from anyshot.simformer.networks import NETWORK, build_simformer, parameter_groups
from anyshot.simformer.options import Retrain
from anyshot.simformer.pairing import read_image_labels
from anyshot.simformer.system import RETRAINED
from anyshot.simformer.tables import IGNORE, read_tables


def main(job: Job[Retrain]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    by_id = {sample.id: sample for sample in read_samples(job.input("manifest"), options.dataset.subsets)}
    ids = read_image_labels(job.input("pairs"), split=options.dataset.split).ids
    maps = LabelMaps(job.inputs("pseudo_label"))
    for one in ids:
        maps.path(one)  # a missing pseudo label stops here; the mask never takes its place

    def read(sample: Sample) -> np.ndarray:
        return np.asarray(tables.lut[maps[sample.id]])

    samples = [by_id[one] for one in ids]
    labelled = [sample for sample in job.progress(samples) if (read(sample) != IGNORE).any()]
    if len(labelled) < len(samples):
        job.log.warning("%d pseudo labels are all void and left out", len(samples) - len(labelled))
    network = {
        "backbone": options.backbone.model_dump(),
        "classes": len(tables.table),
        "network": options.network.model_dump(),
        "similarity": None,
    }
    model = build_simformer(network, load=True)
    backbone = model.maskformer.backbone
    losses = options.losses.model_copy(update={"complementary_weight": 0.0})

    def loss(wrapped: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return training_loss(
            model,
            wrapped,
            batch,
            matching=options.matching,
            of_set=losses,
            of_pairs=None,
            novel=torch.zeros(len(tables.table), dtype=torch.bool),
        )

    fit(
        job,
        model,
        system="simformer",
        network=NETWORK,
        network_options=network,
        table=tables.table,
        split=options.dataset.split,
        mean=backbone.mean,
        std=backbone.std,
        dataset=CropDataset(
            samples=labelled,
            read=read,
            tables=tables,
            supervision="masks",
            crops=Crops(options.augmentation, mean=backbone.mean, std=backbone.std),
        ),
        loss=loss,
        parameter_groups=parameter_groups(model, options.optimiser),
        options=options.optimiser,
        summed=SUMMED,
        card={
            "variant": RETRAINED,
            "novel": list(options.dataset.novel),
            "input_size": options.augmentation.crop,
            "longest": options.augmentation.longest,
        },
    )


if __name__ == "__main__":
    run("simformer.retrain", Retrain, main)
