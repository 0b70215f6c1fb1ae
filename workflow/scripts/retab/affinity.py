"""Train the affinity network on base masks and novel CRF labels (retab.md 2.8), or as PSA does on CRF labels
alone."""

import numpy as np
from torch import Tensor, nn

from anyshot.data.manifest import Sample
from anyshot.engine.stores import Store
from anyshot.engine.train import all_reduce_sum
from anyshot.job import Job, run
from anyshot.ops.affinity import affinity_loss, pair_affinity, pair_labels
from anyshot.ops.neighbours import fitting_radius
from anyshot.retab.datasets import AffinityDataset, mask_reader
from anyshot.retab.options import Affinity
from anyshot.retab.samples import Supervision, read_data, read_supervision
from anyshot.retab.training import fit


def supervised(job: Job[Affinity], samples: list[Sample]) -> tuple[list[Sample], Supervision]:
    """The samples to learn from and who carries masks, for the kind of labels."""
    if job.options.labels == "crf_only":
        everyone = frozenset(sample.id for sample in samples)
        return samples, Supervision("shared", base=frozenset(), novel=everyone)
    supervision = read_supervision(job.input("samples"))
    supervision.check(samples)
    if job.options.labels == "gt_only":
        samples = [sample for sample in samples if sample.id in supervision.base]
    return samples, supervision


class CrfResults:
    """Windows of the stored CRF results: `la` and `ha`, (K+1, h, w) each."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, sample_id: str, window: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.split(self.store.read(sample_id, window).scores, 2)
        return low, high


class OpenMaps:
    """Stored boundary maps, (H, W), 0 = boundary."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, sample_id: str) -> np.ndarray:
        return (self.store[sample_id].scores[0] != 0).astype(np.uint8)


def main(job: Job[Affinity]) -> None:
    options = job.options
    samples, table = read_data(job.input("manifest"), job.input("classes"), options.dataset.subsets)
    samples, supervision = supervised(job, samples)
    base = [sample for sample in samples if sample.id in supervision.base]
    job.log.info("labels %s: %d masks, %d CRF results", options.labels, len(base), len(samples) - len(base))
    crf = CrfResults(Store(job.inputs("crf_label"))) if job.has_input("crf_label") else None
    opened = OpenMaps(Store(job.inputs("boundary_map"))) if job.has_input("boundary_map") else None
    radius = fitting_radius(options.radius, options.crops.crop // 8, options.crops.crop // 8)

    def loss(model: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        affinity = pair_affinity(model(batch["image"]), radius=radius)
        groups = pair_labels(batch["labels"], radius=radius)
        return affinity_loss(affinity, *groups, all_reduce_sum=all_reduce_sum)

    fit(
        job,
        network="retab_affinity",
        network_options={
            "backbone": options.backbone.model_dump(),
            "branch_channels": options.branch_channels,
            "initial_gain": options.initial_gain,
        },
        table=table,
        split=supervision.split,
        dataset=lambda mean, std: AffinityDataset(
            samples=samples,
            table=table,
            base_ids=supervision.base,
            read_base_mask=mask_reader(base),
            read_crf=crf,
            open_maps=opened,
            options=options,
            mean=mean,
            std=std,
        ),
        loss=loss,
        options=options.optimiser,
        inference={"radius": options.radius, "labels": options.labels},
    )


if __name__ == "__main__":
    run("retab.affinity", Affinity, main)
