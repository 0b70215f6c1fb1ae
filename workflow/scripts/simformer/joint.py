"""Phase 1: MaskFormer and the similarity network, trained together on pairs of images (simformer.md 2.8)."""

import torch
from torch import Tensor, nn

from anyshot.data.manifest import read_samples
from anyshot.engine.fitting import fit
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.simformer.datasets import CropDataset, Crops, PairDataset, mask_labels
from anyshot.simformer.learning import SUMMED, supervision_of, training_loss, variant_losses
from anyshot.simformer.networks import NETWORK, build_simformer, parameter_groups
from anyshot.simformer.options import Joint
from anyshot.simformer.pairing import ImageLabels, Partners, read_image_labels
from anyshot.simformer.tables import read_tables


def main(job: Job[Joint]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    by_id = {sample.id: sample for sample in read_samples(job.input("manifest"), options.dataset.subsets)}
    labels = read_image_labels(job.input("pairs"), split=options.dataset.split)
    unseen = options.variant == "ignore_novel"
    samples = [by_id[one] for one in labels.ids]
    if unseen:  # an image without a base class would teach nothing
        samples = [sample for sample in samples if tables.labels_of(sample)[0]]
    if not samples:
        raise DataError("no training image shows a base class: choose other novel classes")
    job.log.info("%s: %d training images", options.variant, len(samples))
    of_set, of_pairs = variant_losses(options)
    similarity = None
    if of_pairs is not None:
        similarity = {"depth": of_pairs.depth, "norm": of_pairs.norm, "window": of_pairs.window}
    network = {
        "backbone": options.backbone.model_dump(),
        "classes": len(tables.table),
        "network": options.network.model_dump(),
        "similarity": similarity,
    }
    model = build_simformer(network, load=True)
    backbone = model.maskformer.backbone
    novel = torch.zeros(len(tables.table), dtype=torch.bool)
    novel[list(tables.novel)] = True

    def loss(wrapped: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return training_loss(
            model,
            wrapped,
            batch,
            matching=options.matching,
            of_set=of_set,
            of_pairs=of_pairs,
            novel=novel.to(batch["image"].device),
        )

    supervision = supervision_of(options)
    images = CropDataset(
        samples=samples,
        read=mask_labels(tables, supervision=supervision),
        tables=tables,
        supervision=supervision,
        crops=Crops(options.augmentation, mean=backbone.mean, std=backbone.std),
    )
    partners = Partners(
        ImageLabels.of((sample.id, *tables.labels_of(sample)) for sample in samples),
        mode="random" if unseen else options.pairing,
        rare_share=options.rare_share,
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
        dataset=PairDataset(images=images, partners=partners),
        loss=loss,
        parameter_groups=parameter_groups(model, options.optimiser),
        options=options.optimiser,
        summed=SUMMED,
        card={
            "variant": options.variant,
            "novel": list(options.dataset.novel),
            "input_size": options.augmentation.crop,
            "longest": options.augmentation.longest,
            "novel_label_source": options.novel_label_source,
        },
    )


if __name__ == "__main__":
    run("simformer.joint", Joint, main)
