"""Stage 2: learn the novel classes on the frozen base model, by one method, from one draw (pop.md 2.4)."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Sample
from anyshot.engine.artifacts import write_text
from anyshot.engine.checkpoints import save_weights
from anyshot.engine.fitting import fit
from anyshot.engine.model_folder import model_card
from anyshot.engine.stores import Store
from anyshot.job import Job, run
from anyshot.pop.artifacts import load_base, read_samples, read_supports, read_tables
from anyshot.pop.datasets import (
    Augmented,
    CachedPairDataset,
    PairDataset,
    Pairing,
    mask_of,
    whole_image,
    whole_labels,
)
from anyshot.pop.heads import HEAD_NETWORK, OnFrozen, head_options
from anyshot.pop.index import PixelIndex
from anyshot.pop.networks import PopNet
from anyshot.pop.options import NovelUpdate
from anyshot.pop.selection import draw_base
from anyshot.pop.tables import FoldTables
from anyshot.pop.update import averaged_head, trained_head, update_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What every method starts from."""

    tables: FoldTables
    base: PopNet
    mean: Sequence[float]
    std: Sequence[float]
    samples: Mapping[str, Sample]
    supports: dict[int, list[str]]
    shots: int
    lists: dict[int, list[str]]  # of the base classes
    store: Store | None  # of features

    @property
    def size(self) -> int:
        """px to which whole images are scaled."""
        return int(self.store.attributes["size"]) if self.store is not None else 0


def average(job: Job[NovelUpdate], given: Inputs) -> None:
    """Make the prototype baseline; nothing is trained."""
    options = job.options
    base = given.base.to(job.device)
    size = given.size or options.crop

    def features_of(sample_id: str) -> Tensor:
        if given.store is not None:
            return torch.from_numpy(given.store.read(sample_id).scores.astype(np.float32))
        image = read_image(given.samples[sample_id].image)
        pixels, _ = whole_image(image, size, mean=given.mean, std=given.std)
        return base.features(pixels[None].to(job.device))[0].float()

    def labels_of(sample_id: str, novel: bool) -> np.ndarray:
        mask = read_mask(mask_of(given.samples[sample_id]))
        return whole_labels(given.tables.labels(mask, novel=novel), size)

    rng = np.random.default_rng(job.seed)
    drawn = draw_base(given.lists, options.prototype_images, rng, policy="voc")
    with torch.inference_mode():
        head = averaged_head(
            given.tables,
            supports=given.supports,
            base_images=job.progress(sorted({one for ids in drawn.values() for one in ids})),
            features_of=features_of,
            labels_of=labels_of,
            temperature=options.temperature,
        )
    card = model_card(
        system="pop", split=options.dataset.split, network=HEAD_NETWORK, network_options=head_options(head),
        table=given.tables.table, mean=given.mean, std=given.std,
        **{**facts_of(job, given), **job.provenance()},
    )  # fmt: skip
    save_weights(job.output("weights"), OnFrozen(head=head, encoder=None).state_dict(), card)
    write_text(job.output("curve"), "")


def facts_of(job: Job[NovelUpdate], given: Inputs) -> dict[str, object]:
    """Entries of the head's card: what it belongs to, and whose it is."""
    return {
        "tables": given.tables.to_json(),
        "method": job.options.method,
        "shots": given.shots,
        "supports": {str(number): ids for number, ids in given.supports.items()},
    }


def train(job: Job[NovelUpdate], given: Inputs) -> None:
    """Train a head on the frozen features of augmented or of stored images."""
    options = job.options
    head = trained_head(given.base.head, given.tables, options)
    pairing = Pairing(
        supports=[one for ids in given.supports.values() for one in ids],
        base_lists=given.lists,
        shots=given.shots,
        seed=job.seed,
        replay=options.replay,
    )
    encoder = None if given.store is not None else given.base.decoder.to(job.device)
    fit(
        job,
        OnFrozen(head=head, encoder=encoder),
        system="pop",
        network=HEAD_NETWORK,
        network_options=head_options(head),
        table=given.tables.table,
        split=options.dataset.split,
        mean=given.mean,
        std=given.std,
        dataset=(
            CachedPairDataset(
                pairing=pairing, samples=given.samples, tables=given.tables, store=given.store,
                size=given.size,
            )
            if given.store is not None
            else PairDataset(
                pairing=pairing, samples=given.samples,
                augmented=Augmented(tables=given.tables, options=options, mean=given.mean, std=given.std),
            )
        ),
        loss=update_loss(head, options),
        parameter_groups=[{"params": [one for one in head.parameters() if one.requires_grad]}],
        options=options.optimiser,
        card=facts_of(job, given),
    )  # fmt: skip


def main(job: Job[NovelUpdate]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    base, card = load_base(job.input("base"), tables=tables, split=options.dataset.split)
    supports, shots = read_supports(job.input("supports"), tables)
    given = Inputs(
        tables=tables,
        base=base,
        mean=card["input"]["mean"],
        std=card["input"]["std"],
        samples={one.id: one for one in read_samples(job.input("manifest"), options.dataset.subsets)},
        supports=supports,
        shots=shots,
        lists=PixelIndex.read(job.input("index")).class_lists(
            tables.base_ids, min_pixels=options.min_pixels, fold=tables, filter_novel=options.filter_novel
        ),
        store=Store(job.inputs("features")) if job.has_input("features") else None,
    )
    (average if options.method == "prototype" else train)(job, given)


if __name__ == "__main__":
    run("pop.novel_update", NovelUpdate, main)
