"""What the training stages of LarvSeg share: sources, network, card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from anyshot.data.manifest import read_samples
from anyshot.engine import fitting
from anyshot.engine.parameter_groups import parameter_groups
from anyshot.errors import ConfigError
from anyshot.larvseg.artifacts import vocabulary_table
from anyshot.larvseg.datasets import (
    Crops,
    FolderImages,
    ManifestImages,
    MixedDataset,
    SourceData,
    SourceImages,
)
from anyshot.larvseg.head import ActiveClasses, CosineHead
from anyshot.larvseg.image_sets import ImageSetSource
from anyshot.larvseg.learning import SourcePlan, mixed_loss, rule_of
from anyshot.larvseg.networks import NETWORK, build_larvseg
from anyshot.larvseg.options import Attentive, Baseline, Method, Source
from anyshot.larvseg.tables import IMAGES, Tables
from anyshot.larvseg.vocabulary import Member
from anyshot.nets.contract import NORM_LAYERS

UNDECAYED = (*NORM_LAYERS, nn.Embedding, CosineHead)


def active_classes(member: Member) -> ActiveClasses:
    """V of a source or target, names that share a row counted (larvseg.md 1.4, 2.2)."""
    counts = torch.tensor(member.multiplicity)
    return ActiveClasses(
        rows=torch.tensor(member.active), counts=counts if bool((counts > 1).any()) else None
    )


def sources_of(tables: Tables, method: Method) -> list[Source]:
    """The sources that a method learns from."""
    every = tables.experiment.sources
    return [source for source in every if source.role == "pixel"] if method == "pixel_only" else list(every)


def learns_masks(source: Source, method: Method) -> bool:
    """Whether a method reads the masks of a source as truth."""
    return source.role == "pixel" or method == "oracle"


def mixed_dataset(
    tables: Tables, options: Baseline, *, manifests: Sequence[Path], seed: int,
    mean: Sequence[float], std: Sequence[float],
) -> MixedDataset:  # fmt: skip
    """Bundles of the sources that the options' method learns from.

    manifests: of all data sets, each in a folder of its name. Raises ConfigError for one that is missing.
    """
    by_name = {path.parent.name: path for path in manifests}
    found = []
    for number, source in enumerate(sources_of(tables, options.method)):
        if source.data not in by_name:
            raise ConfigError(f"source {source.name!r} names the data set {source.data!r}, which is no input")
        with_masks = learns_masks(source, options.method)

        images = source_images(
            tables, source, by_name[source.data], with_masks=with_masks, seed=seed * 1000 + number
        )
        crops = Crops(source, mirror=options.mirror, downsample=options.downsample, mean=mean, std=std)
        found.append(
            SourceData(
                source=source,
                images=images,
                crops=crops,
                with_masks=with_masks,
                classes=len(tables.member(source.name).active),
                bundles=options.optimiser.batch_size,
            )
        )
    return MixedDataset(found)


def source_images(tables: Tables, source: Source, path: Path, *, with_masks: bool, seed: int) -> SourceImages:
    """The images of a source, from the manifest of a data set or from `images.json` of an image set.

    Raises ConfigError where masks are wanted of an image set.
    """
    labels = tables.lut_of_labels(source.name)
    if path.name == IMAGES:
        if with_masks:
            raise ConfigError(
                f"source {source.name!r} reads masks, but the image set {source.data!r} has none"
            )
        power = 0.0 if source.balance == "classes" else 1.0
        images = ImageSetSource(path.parent, power=power, seed=seed, classes=sorted(labels))
        return FolderImages(images, labels=labels)
    return ManifestImages(
        samples=read_samples(path, source.subsets),
        lut=tables.lut(source.name),
        labels=lambda sample: tables.labels_of(source.name, sample),
        read_masks=with_masks or source.label_source == "crop",
        by_class=source.balance == "classes",
        seed=seed,
        name=source.name,
    )


def fit(job: fitting.StageJob, *, options: Baseline, tables: Tables, manifests: Sequence[Path]) -> None:
    """Train a network and write the outputs `weights`, `card` (beside it) and `curve`."""
    attention = options.attention if isinstance(options, Attentive) else None
    bank = None
    if attention is not None:
        bank = {"slots": attention.slots, "tokens": attention.tokens, "half": attention.half}
    network = {
        "backbone": options.backbone.model_dump(),
        "neck": options.neck.model_dump(),
        "rows": len(tables.vocabulary),
        "bank": bank,
    }
    model = build_larvseg(network, load=True)
    nn.init.constant_(model.head.scale, options.initial_scale)
    dataset = mixed_dataset(
        tables, options, manifests=manifests, seed=job.seed, mean=model.mean, std=model.std
    )
    plans = [
        SourcePlan.of(
            one.source,
            sources=len(dataset.sources),
            with_masks=one.with_masks,
            attentive=attention is not None,
            active=active_classes(tables.member(one.source.name)),
        )
        for one in dataset.sources
    ]
    rule = None if attention is None else rule_of(attention)
    for one in dataset.sources:
        job.log.info("%s: %d images, %d classes", one.source.name, len(one.images), one.classes)

    def loss(wrapped: nn.Module, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        return mixed_loss(model, wrapped, batch, plans=plans, options=options, rule=rule)

    fitting.fit(
        job,
        model,
        system="larvseg",
        network=NETWORK,
        network_options=network,
        table=vocabulary_table(tables.vocabulary),
        split=options.split,
        mean=model.mean,
        std=model.std,
        dataset=dataset,
        loss=loss,
        parameter_groups=parameter_groups(model, options.optimiser, undecayed=UNDECAYED),
        options=options.optimiser,
        card={
            "method": options.method,
            "novel": novel_rows(tables),
            "vocabulary": tables.vocabulary.to_json(),
            "view": view_of(tables),
        },
    )


def novel_rows(tables: Tables) -> list[str]:
    """Names of the vocabulary's rows that no pixel-labelled source has."""
    with_pixels = {row for name in tables.experiment.pixel for row in tables.member(name).rows}
    names = vocabulary_table(tables.vocabulary).names
    return [name for row, name in enumerate(names) if row not in with_pixels]


def view_of(tables: Tables) -> dict[str, int]:
    """Sides, px, that images had in training: what an image is fitted to when it is segmented elsewhere."""
    source = next(source for source in tables.experiment.sources if source.role == "pixel")
    return {"short_side": source.short_side, "long_side": source.long_side}
