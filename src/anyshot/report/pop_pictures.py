"""POP's pictures: the support images of a draw, and what every method made of a few evaluation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Manifest, Sample
from anyshot.engine.stores import Store
from anyshot.report.blocks import Gallery, GalleryRow, Panel, Section
from anyshot.report.few_shot import of_most_shots
from anyshot.report.gallery import Painter, ids_in
from anyshot.report.material import Material, SplitResult, read_json
from anyshot.report.picture_sources import split_galleries
from anyshot.report.pop import SYSTEM
from anyshot.report.tables import VARIANTS, rank, scored_variants

REMARK = (
    "What every method that was run made of the same images, all taught by the same draw of support images:"
    " the first with the most of them. Hatched is void, which is not scored."
)
SUPPORT_REMARK = (
    "The images that taught the novel classes, of the draw that made the pictures above. All labels of a"
    " support image are used, also those of base classes and of further novel ones: outlined are all"
    " of them, each in its class's colour, and tinted is the class that the image was drawn for."
)
PER_CLASS = 10  # support images shown; the most that is published
SUPPORT_SIDE = 0.7  # of the other pictures' side
BACKGROUND = 0


def gallery(material: Material) -> Section | None:
    """The images that `pop_predict` kept, per split: truth, base model, and every method."""

    def of_split(result: SplitResult, manifest: Manifest, painter: Painter) -> Gallery:
        shown = Store(material.files("shown", system=SYSTEM, split=result.split))
        rows = [
            _row(manifest.by_id(image_id), _maps(shown, image_id), painter)
            for image_id in manifest.ids
            if image_id in shown
        ]
        return Gallery(f"Evaluation images{_draw(result)}", rows)

    return split_galleries(material, "shown", f"{SYSTEM}-pictures", REMARK, of_split)


def _draw(result: SplitResult) -> str:
    """The number of shots and the draw that the pictures show, for people."""
    drawn = [item for item in of_most_shots(scored_variants(result)) if item.draws]
    return f", {drawn[0].shots}-shot draw {min(drawn[0].draws)}" if drawn else ""


def _maps(shown: Store, image_id: str) -> dict[str, np.ndarray]:
    """Label maps by method, in the order of the tables."""
    names = sorted(shown.extra_names(image_id), key=rank)
    return {name: shown.extra(image_id, name) for name in names}


def _row(sample: Sample, maps: Mapping[str, np.ndarray], painter: Painter) -> GalleryRow:
    masks = dict(maps)
    panels = [Panel("Photograph", painter.photograph(read_image(sample.image)), f"photograph {sample.id}")]
    if sample.mask is not None:
        masks["truth"] = read_mask(sample.mask)
        panels.append(Panel("Truth", painter.mask(masks["truth"]), f"true classes of {sample.id}"))
    for name, labels in maps.items():
        title = VARIANTS.get(name, name)
        panels.append(Panel(title, painter.mask(labels), f"{title} on {sample.id}"))
    return GalleryRow(sample.id, "", panels, painter.legend(masks.values()))


def supports(material: Material) -> Section | None:
    """The support images of a split's first draw with the most of them, a row per novel class."""

    def of_split(result: SplitResult, manifest: Manifest, painter: Painter) -> Gallery:
        draws = [read_json(path) for path in material.files("supports", system=SYSTEM, split=result.split)]
        drawn = max(draws, key=lambda draw: (draw["shots"], -draw["support_seed"]))
        small = replace(painter, side=max(32, round(SUPPORT_SIDE * painter.side)))
        rows = [_support_row(entry, manifest, small) for entry in drawn["classes"]]
        return Gallery(f"{drawn['shots']}-shot draw {drawn['support_seed']}", rows)

    return split_galleries(
        material, "supports", f"{SYSTEM}-supports", SUPPORT_REMARK, of_split, heading="Support images"
    )


def _support_row(entry: Mapping[str, Any], manifest: Manifest, painter: Painter) -> GalleryRow:
    """The support images of one class, an entry of `classes`."""
    panels, outlined = [], set()
    for image_id in entry["supports"][:PER_CLASS]:
        sample = manifest.by_id(image_id)
        assert sample.mask is not None
        mask = read_mask(sample.mask)
        ids = ids_in([mask]) - {BACKGROUND}
        outlined |= ids
        uri = painter.outlined(read_image(sample.image), mask, sorted(ids), tinted=entry["id"])
        panels.append(Panel(image_id, uri, f"{image_id} supports {entry['name']}"))
    remark = f"{len(panels)} of {len(entry['supports'])} images"
    legend = painter.legend([np.array(sorted(outlined))])
    return GalleryRow(entry["name"], remark if len(panels) < len(entry["supports"]) else "", panels, legend)
