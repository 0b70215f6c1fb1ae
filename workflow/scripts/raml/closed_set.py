"""Sub-stage 1: train DeepLabV3+ on the known classes (raml.md 2.2)."""

from torch import Tensor, nn
from torch.nn.functional import interpolate

from anyshot.data.manifest import read_samples
from anyshot.data.split_tables import read_tables
from anyshot.engine.fitting import fit
from anyshot.engine.train import all_reduce_sum
from anyshot.job import Job, run
from anyshot.ops.losses import pixel_cross_entropy
from anyshot.raml.datasets import ClosedSetDataset
from anyshot.raml.networks import build_open_net, parameter_groups
from anyshot.raml.options import ClosedSet


def main(job: Job[ClosedSet]) -> None:
    options = job.options
    tables = read_tables(job.input("split"), job.input("classes"))
    samples = read_samples(job.input("manifest"), options.dataset.subsets)
    network = {
        "backbone": options.backbone.model_dump(),
        "channels": options.channels,
        "low_channels": options.low_channels,
        "dropout": options.dropout,
        "known": tables.known,
        "meta": tables.meta,
        "activation": "sigmoid",
    }
    model = build_open_net(network, load=True)
    model.meta_head.requires_grad_(False)  # the next sub-stage initialises and trains it
    backbone = model.deeplab.backbone
    divisor = options.optimiser.batch_size if options.divide_by_batch else 1

    def loss(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        labels = batch["labels"]
        logits = model(batch["image"]).logits.float()
        logits = interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        entropy = pixel_cross_entropy(logits, labels, all_reduce_sum=all_reduce_sum)
        return {"loss": entropy / divisor, "cross_entropy": entropy.detach()}

    fit(
        job,
        model,
        system="raml",
        network="raml_open",
        network_options=network,
        table=tables.table,
        split=options.dataset.split,
        mean=backbone.mean,
        std=backbone.std,
        dataset=ClosedSetDataset(
            samples=samples, tables=tables, options=options, mean=backbone.mean, std=backbone.std
        ),
        loss=loss,
        parameter_groups=parameter_groups(model, options.optimiser),
        options=options.optimiser,
        card={"tables": tables.to_json()},
    )


if __name__ == "__main__":
    run("raml.closed_set", ClosedSet, main)
