"""Sub-stage 3: learn an embedding of regions on the frozen network (raml.md 2.4)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Sample, read_samples
from anyshot.data.split_tables import SplitTables, read_tables
from anyshot.data.transforms import normalise
from anyshot.engine.fitting import fit
from anyshot.errors import ArtifactError
from anyshot.job import Job, run
from anyshot.ops.circle_loss import circle_loss
from anyshot.ops.drop_block import keep_masks, pool_by_class
from anyshot.ops.regions import masked_mean
from anyshot.raml.artifacts import load_network
from anyshot.raml.bank import quarter_mask
from anyshot.raml.datasets import ClosedSetDataset
from anyshot.raml.networks import MetricNet, build_metric_net, parameter_groups
from anyshot.raml.options import Metric


def metric_loss(
    model: nn.Module, batch: dict[str, Tensor], *, known: int, options: Metric
) -> dict[str, Tensor]:
    """Cross entropy and circle loss of the class regions' embeddings."""
    feature = model(batch["image"]).feature
    images, _, height, width = feature.shape
    labels = batch["labels"][:, ::4, ::4][:, :height, :width]
    generator = torch.Generator(device=feature.device).manual_seed(int(torch.randint(2**31, (1,))))
    keep = keep_masks(
        draws=options.draws or known,
        images=images,
        height=height,
        width=width,
        block=options.drop_block,
        probability=options.drop_probability,
        generator=generator,
    )
    vectors, classes, _ = pool_by_class(feature, labels, keep, known)
    raw, scores = model(vectors, embed=True)
    # a batch of void alone has no region: the sum keeps the gradient's graph
    entropy = F.cross_entropy(scores, classes) if len(classes) else scores.sum()
    form = "paper" if options.profile == "paper" else "official"
    circle = circle_loss(
        F.normalize(raw, dim=1), classes, margin=options.margin, gamma=options.gamma, form=form
    )
    loss = entropy + options.circle_weight * circle
    return {"loss": loss, "cross_entropy": entropy.detach(), "circle": circle.detach()}


@torch.inference_mode()
def known_prototypes(
    model: MetricNet,
    samples: Sequence[Sample],
    tables: SplitTables,
    job: Job[Any],
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Mean unit embedding of each known class's regions over whole images (K, D); 0 where none is seen."""
    model.eval()
    device = next(model.parameters()).device
    sums = torch.zeros_like(model.embedding.known_prototypes)
    counts = torch.zeros(len(sums))
    for sample in job.progress(samples):
        labels = tables.closed_lut[read_mask(sample.mask)]  # type: ignore[arg-type]
        feature = model(normalise(read_image(sample.image), mean=mean, std=std)[None].to(device)).feature[0]
        for index in np.unique(labels[labels < tables.known]):
            cells = torch.from_numpy(quarter_mask(labels == index, *feature.shape[-2:])).to(device)
            vector = masked_mean(feature, cells)
            if vector is not None:
                sums[index] += model.embedding.unit(vector[None])[0]
                counts[index] += 1
    unseen = [tables.eval_names[k] for k in range(tables.known) if counts[k] == 0]
    if unseen:
        job.log.warning("no prototype for %s: not in the %d images read", ", ".join(unseen), len(samples))
    if not sums.isfinite().all():
        raise ArtifactError("a prototype has values that are no numbers: train raml.meta_channel again")
    return sums / counts.clamp(min=1)[:, None].to(sums.device)


def main(job: Job[Metric]) -> None:
    options = job.options
    tables = read_tables(job.input("split"), job.input("classes"))
    samples = read_samples(job.input("manifest"), options.dataset.subsets)
    trained, card = load_network(
        job.input("meta_channel"), network="raml_open", tables=tables, split=options.dataset.split
    )
    network = {**card["network"]["options"], "hidden": options.hidden, "embedding": options.embedding}
    model = build_metric_net(network, load=False)
    model.network.load_state_dict(trained.state_dict())
    mean, std = card["input"]["mean"], card["input"]["std"]

    def finish(model: nn.Module) -> None:
        assert isinstance(model, MetricNet)
        step = max(1, len(samples) // options.prototype_images)
        found = known_prototypes(model, samples[::step], tables, job, mean=mean, std=std)
        model.embedding.known_prototypes.copy_(found)

    fit(
        job,
        model,
        system="raml",
        network="raml_metric",
        network_options=network,
        table=tables.table,
        split=options.dataset.split,
        mean=mean,
        std=std,
        dataset=ClosedSetDataset(samples=samples, tables=tables, options=options, mean=mean, std=std),
        loss=lambda model, batch, step: metric_loss(model, batch, known=tables.known, options=options),
        parameter_groups=parameter_groups(model, options.optimiser),
        options=options.optimiser,
        card={"tables": tables.to_json()},
        finish=finish,
    )


if __name__ == "__main__":
    run("raml.metric", Metric, main)
