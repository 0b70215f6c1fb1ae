"""Sub-stage 2: train meta channels that explain what is no known class (raml.md 2.3)."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from anyshot.data.manifest import read_samples
from anyshot.data.split_tables import read_tables
from anyshot.engine.fitting import fit
from anyshot.engine.train import all_reduce_sum
from anyshot.job import Job, run
from anyshot.ops.losses import pixel_cross_entropy
from anyshot.raml.artifacts import load_network
from anyshot.raml.datasets import ClosedSetDataset
from anyshot.raml.meta_losses import inter_loss, known_loss, reconstruction_loss, split_loss
from anyshot.raml.networks import build_open_net, parameter_groups
from anyshot.raml.options import MetaChannel


def channel_losses(
    channels: Tensor, batch: dict[str, Tensor], *, known: int, options: Any
) -> dict[str, Tensor]:
    """The four losses of full-size channels (B, K + M, H, W) that have a weight above 0."""
    printed = "paper" if options.profile == "paper" else "official"
    parts: dict[str, Tensor] = {}
    if options.known_weight and options.profile != "paper":  # the paper has no such term
        parts["known"] = options.known_weight * known_loss(channels, batch["labels"], known)
    if options.split_weight:
        # the printed form has no lower bound: the paper's profile takes the code's, too (raml.md 2.3)
        form = "fixed" if options.profile == "fixed" else "official"
        parts["split"] = options.split_weight * split_loss(
            channels, known, coverage=options.coverage, form=form
        )
    if options.inter_weight:
        parts["inter"] = options.inter_weight * inter_loss(channels, form=printed)
    if options.reconstruction_weight:
        parts["reconstruction"] = options.reconstruction_weight * reconstruction_loss(
            channels, batch["image"], form=printed
        )
    return parts


def main(job: Job[MetaChannel]) -> None:
    options = job.options
    tables = read_tables(job.input("split"), job.input("classes"))
    samples = read_samples(job.input("manifest"), options.dataset.subsets)
    closed, card = load_network(
        job.input("closed_set"), network="raml_open", tables=tables, split=options.dataset.split
    )
    activation = "softmax" if options.profile == "paper" else "sigmoid"
    meta = options.channels or tables.meta
    network = {**card["network"]["options"], "meta": meta, "activation": activation}
    model = build_open_net(network, load=False)
    state = {name: value for name, value in closed.state_dict().items() if not name.startswith("meta_head.")}
    model.load_state_dict(state, strict=False)
    mean, std = card["input"]["mean"], card["input"]["std"]
    divisor = options.optimiser.batch_size if options.divide_by_batch else 1

    def loss(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        labels = batch["labels"]
        maps = model(batch["image"])
        size = labels.shape[-2:]
        logits = interpolate(maps.logits.float(), size=size, mode="bilinear", align_corners=False)
        channels = interpolate(maps.channels.float(), size=size, mode="bilinear", align_corners=False)
        entropy = pixel_cross_entropy(logits, labels, all_reduce_sum=all_reduce_sum)
        parts = channel_losses(channels, batch, known=tables.known, options=options)
        logged = {name: part.detach() for name, part in parts.items()}
        total = entropy / divisor + sum(parts.values())
        return {"loss": total, "cross_entropy": entropy.detach(), **logged}

    fit(
        job,
        model,
        system="raml",
        network="raml_open",
        network_options=network,
        table=tables.table,
        split=options.dataset.split,
        mean=mean,
        std=std,
        dataset=ClosedSetDataset(samples=samples, tables=tables, options=options, mean=mean, std=std),
        loss=loss,
        parameter_groups=parameter_groups(model, options.optimiser, meta_multiplier=options.meta_multiplier),
        options=options.optimiser,
        card={"tables": tables.to_json()},
    )


if __name__ == "__main__":
    run("raml.meta_channel", MetaChannel, main)
