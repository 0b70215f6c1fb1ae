"""Train the boundary network on the masks of base images (retab.md 2.6)."""

from torch import Tensor, nn

from anyshot.engine.train import all_reduce_sum
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.ops.losses import boundary_loss
from anyshot.retab.datasets import BoundaryDataset, mask_reader
from anyshot.retab.networks import upsample_boundary
from anyshot.retab.options import Boundary
from anyshot.retab.samples import read_data, read_supervision
from anyshot.retab.training import fit


def loss(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    labels = batch["labels"]
    logits = upsample_boundary(model(batch["image"]), labels.shape[-2:])
    return boundary_loss(logits, labels, all_reduce_sum=all_reduce_sum)


def main(job: Job[Boundary]) -> None:
    options = job.options
    samples, table = read_data(job.input("manifest"), job.input("classes"), options.dataset.subsets)
    supervision = read_supervision(job.input("samples"))
    supervision.check(samples)
    samples = [sample for sample in samples if sample.id in supervision.base]
    read = mask_reader(samples)
    with_contour = [sample for sample in samples if (read(sample.id) == 255).any()]
    job.log.info("%d of %d base masks have a contour (255)", len(with_contour), len(samples))
    if options.contour == "mask" and not with_contour:
        raise DataError(
            f"none of the {len(samples)} base masks has a contour (255), so there is no positive:"
            " set retab.boundary.contour: synthesise"
        )
    if options.only_with_contour:
        samples = with_contour
    network = {
        "backbone": options.backbone.model_dump(),
        "branch_channels": options.branch_channels,
        "initial_gain": options.initial_gain,
    }
    fit(
        job,
        network="retab_boundary",
        network_options=network,
        table=table,
        split=supervision.split,
        dataset=lambda mean, std: BoundaryDataset(
            samples=samples, table=table, read_base_mask=read, options=options, mean=mean, std=std
        ),
        loss=loss,
        options=options.optimiser,
    )


if __name__ == "__main__":
    run("retab.boundary", Boundary, main)
