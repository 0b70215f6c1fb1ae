"""Stage 1: train PSPNet and orthogonal prototypes of the base classes (pop.md 2.3)."""

from torch import Tensor, nn

from anyshot.data.manifest import read_samples
from anyshot.engine.fitting import fit
from anyshot.engine.train import all_reduce_sum
from anyshot.job import Job, run
from anyshot.ops.projections import orthogonality
from anyshot.ops.upsampled import upsampled_cross_entropy
from anyshot.pop.datasets import Augmented, BaseDataset
from anyshot.pop.heads import POP_NETWORK
from anyshot.pop.index import PixelIndex
from anyshot.pop.networks import build_pop_net, parameter_groups
from anyshot.pop.options import Base
from anyshot.pop.tables import read_tables


def main(job: Job[Base]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    by_id = {sample.id: sample for sample in read_samples(job.input("manifest"), options.dataset.subsets)}
    ids = PixelIndex.read(job.input("index")).base_list(tables, filter_novel=options.filter_novel)
    job.log.info("%d of %d images show a base class", len(ids), len(by_id))
    network = {
        "backbone": options.backbone.model_dump(),
        "channels": options.channels,
        "base": tables.base_count,
        "novel": 0,
        "background": "residual",
    }
    model = build_pop_net(network, load=True)
    backbone = model.decoder.backbone

    def loss(wrapped: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        logits = wrapped(batch["image"])
        entropy = upsampled_cross_entropy(
            logits, batch["labels"], align_corners=True, all_reduce_sum=all_reduce_sum
        )
        overlap = orthogonality(model.head.base_emb)
        total = entropy + options.orthogonality_weight * overlap
        return {"loss": total, "cross_entropy": entropy.detach(), "orthogonality": overlap.detach()}

    augmented = Augmented(tables=tables, options=options, mean=backbone.mean, std=backbone.std)
    fit(
        job,
        model,
        system="pop",
        network=POP_NETWORK,
        network_options=network,
        table=tables.table,
        split=options.dataset.split,
        mean=backbone.mean,
        std=backbone.std,
        dataset=BaseDataset(samples=[by_id[one] for one in ids], augmented=augmented),
        loss=loss,
        parameter_groups=parameter_groups(
            model, options.optimiser, prototype_multiplier=options.prototype_multiplier
        ),
        options=options.optimiser,
        card={"tables": tables.to_json(), "input_size": options.crop},
    )


if __name__ == "__main__":
    run("pop.base", Base, main)
