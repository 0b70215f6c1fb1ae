"""Train the multi-label classifier whose weights give the CAMs (retab.md 2.3)."""

from torch import Tensor, nn

from anyshot.job import Job, run
from anyshot.ops.losses import multilabel_soft_margin
from anyshot.retab.datasets import ClassifierDataset
from anyshot.retab.options import Classifier
from anyshot.retab.samples import read_data
from anyshot.retab.training import fit


def loss(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    return {"loss": multilabel_soft_margin(model(batch["image"]), batch["target"])}


def main(job: Job[Classifier]) -> None:
    options = job.options
    samples, table = read_data(job.input("manifest"), job.input("classes"), options.dataset.subsets)
    network = {
        "backbone": options.backbone.model_dump(),
        "classes": len(table.foreground_ids),
        "dropout": options.dropout,
    }
    fit(
        job,
        network="retab_classifier",
        network_options=network,
        table=table,
        split="shared",
        dataset=lambda mean, std: ClassifierDataset(
            samples=samples, table=table, options=options, mean=mean, std=std
        ),
        loss=loss,
        options=options.optimiser,
    )


if __name__ == "__main__":
    run("retab.classifier", Classifier, main)
