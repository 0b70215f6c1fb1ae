"""Stage 2: learn the novel classes on the frozen base model, by one method, from one draw (pop.md 2.4)."""

import dataclasses

import numpy as np

from anyshot.data.manifest import read_samples
from anyshot.engine.artifacts import write_text
from anyshot.engine.checkpoints import save_weights
from anyshot.engine.fitting import fit
from anyshot.engine.model_folder import model_card
from anyshot.engine.stores import Store
from anyshot.job import Job, run
from anyshot.pop.artifacts import LaterBase, Supports, head_facts, load_base_head, read_supports
from anyshot.pop.datasets import (
    Augmented,
    CachedPairDataset,
    PairDataset,
    Pairing,
    SupportViews,
    WholeImages,
)
from anyshot.pop.head import PrototypeHead
from anyshot.pop.heads import HEAD_NETWORK, OnFrozen, head_options
from anyshot.pop.index import PixelIndex
from anyshot.pop.options import NovelUpdate
from anyshot.pop.selection import prototype_base, scarce_text
from anyshot.pop.tables import read_tables
from anyshot.pop.update import averaged_head, trained_head, update_groups, update_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What every method starts from."""

    head: PrototypeHead
    network: LaterBase
    images: WholeImages
    supports: Supports
    views: SupportViews | None
    lists: dict[int, list[str]]  # images of the base classes


def average(job: Job[NovelUpdate], given: Inputs) -> None:
    """Make the prototype baseline; nothing is trained."""
    options, images = job.options, given.images
    rng = np.random.default_rng(job.seed)
    drawn = prototype_base(
        given.lists, options.prototype_images, rng, given.supports.ids, names=images.tables.name_of_id
    )
    head = averaged_head(
        images,
        supports=given.supports.images,
        base_images=job.progress(sorted({one for ids in drawn.values() for one in ids})),
        temperature=options.temperature,
    )
    card = model_card(
        system="pop", split=options.dataset.split, network=HEAD_NETWORK, network_options=head_options(head),
        table=images.tables.table, mean=images.mean, std=images.std,
        **{**head_facts(options, images, given.supports), **job.provenance()},
    )  # fmt: skip
    save_weights(job.output("weights"), OnFrozen(head=head, encoder=None).state_dict(), card)
    write_text(job.output("curve"), "")


def train(job: Job[NovelUpdate], given: Inputs) -> None:
    """Train a head on the frozen features of augmented or of stored images."""
    options, images = job.options, given.images
    head = trained_head(given.head, images.tables, options)
    pairing = Pairing(
        supports=given.supports.ids,
        base_lists=given.lists,
        shots=given.supports.shots,
        seed=job.seed,
        replay=options.replay,
        names=images.tables.name_of_id,
    )
    if pairing.scarce:
        job.log.warning("%s", scarce_text(pairing.scarce, given.supports.shots, images.tables.name_of_id))
    cached = images.store is not None
    fit(
        job,
        OnFrozen(head=head, encoder=None if cached else given.network().decoder),
        system="pop",
        network=HEAD_NETWORK,
        network_options=head_options(head),
        table=images.tables.table,
        split=options.dataset.split,
        mean=images.mean,
        std=images.std,
        dataset=(
            CachedPairDataset(pairing=pairing, images=images, views=given.views)
            if cached
            else PairDataset(
                pairing=pairing,
                samples=images.samples,
                augmented=Augmented(tables=images.tables, options=options, mean=images.mean, std=images.std),
            )
        ),
        loss=update_loss(head, options),
        parameter_groups=update_groups(head, options.optimiser),
        options=options.optimiser,
        card=head_facts(options, images, given.supports, given.views),
    )


def main(job: Job[NovelUpdate]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    head, card = load_base_head(job.input("base"), tables=tables, split=options.dataset.split)
    network = LaterBase(job.input("base"), tables=tables, split=options.dataset.split, device=job.device)
    images = WholeImages(
        samples={one.id: one for one in read_samples(job.input("manifest"), options.dataset.subsets)},
        tables=tables,
        store=Store(job.inputs("features")) if job.has_input("features") else None,
        encode=lambda square: network().features(square.to(job.device)),
        size=options.crop,
        mean=card["input"]["mean"],
        std=card["input"]["std"],
    )
    supports, views = read_supports(job.input("supports"), tables), None
    if job.has_input("views"):
        views = SupportViews(Store(job.inputs("views")), supports=supports.ids, size=images.size)
    else:
        added = images.keep(supports.ids)
        if added:
            job.log.info("encoded now, since the store lacks them: supports %s", ", ".join(added))
    given = Inputs(
        head=head,
        network=network,
        images=images,
        supports=supports,
        views=views,
        lists=PixelIndex.read(job.input("index")).class_lists(
            tables.base_ids, min_pixels=options.min_pixels, fold=tables, filter_novel=options.filter_novel
        ),
    )
    (average if options.method == "prototype" else train)(job, given)


if __name__ == "__main__":
    run("pop.novel_update", NovelUpdate, main)
