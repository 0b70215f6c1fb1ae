"""Train the mixed-supervised segmenter on base masks and novel pseudo labels (retab.md 4)."""

from torch import Tensor, nn
from torch.nn.functional import interpolate

from anyshot.engine.label_maps import LabelMaps
from anyshot.engine.train import all_reduce_sum
from anyshot.job import Job, run
from anyshot.ops.losses import pixel_cross_entropy
from anyshot.retab.datasets import SegmentationDataset
from anyshot.retab.options import Segmentation
from anyshot.retab.samples import read_data, read_supervision
from anyshot.retab.training import fit


def loss(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    logits, labels = model(batch["image"]), batch["labels"]
    logits = interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return {"loss": pixel_cross_entropy(logits, labels, all_reduce_sum=all_reduce_sum)}


def main(job: Job[Segmentation]) -> None:
    options = job.options
    samples, table = read_data(job.input("manifest"), job.input("classes"), options.dataset.subsets)
    supervision = read_supervision(job.input("samples"))
    supervision.check(samples)
    labels = LabelMaps(job.inputs("pseudo_label"))
    network = {
        "backbone": options.backbone.model_dump(),
        "classes": len(table),
        "head_channels": options.head_channels,
        "head_dilation": options.head_dilation,
        "skip_channels": options.skip_channels,
    }
    fit(
        job,
        network="retab_segmentation",
        network_options=network,
        table=table,
        split=supervision.split,
        dataset=lambda mean, std: SegmentationDataset(
            samples=samples, table=table, read_labels=labels.__getitem__, options=options, mean=mean, std=std
        ),
        loss=loss,
        options=options.optimiser,
        inference={"scales": options.scales, "flip": options.mirror},
    )


if __name__ == "__main__":
    run("retab.segmentation", Segmentation, main)
