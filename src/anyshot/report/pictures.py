"""RETAB's gallery: reads the images that the report shows from manifest, stores and label maps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Manifest
from anyshot.engine.label_maps import LabelMaps
from anyshot.engine.stores import Store
from anyshot.report.blocks import Block, Gallery, GalleryRow, Panel, Section, Text
from anyshot.report.gallery import Painter, extremes, strongest_score, winning_ids
from anyshot.report.material import UNSPLIT, Material, SplitResult
from anyshot.report.picture_sources import sources
from anyshot.report.retab import SYSTEM
from anyshot.report.tables import VARIANTS

REMARK = (
    "The number beside a picture is the image's own mean IoU over the classes it shows, in percent "
    "(of a CAM, at a fixed background score). "
    "CAM: the strongest class's score at each pixel over the photograph, bright = high. Walks: the "
    "class of the highest score, background included. Masks are drawn in the data set's colours; "
    "hatched is void, which is not scored."
)

RANKED_BY = ("retab_walk", "pseudo_label", "psa_walk", "cam")


@dataclass(frozen=True)
class SplitPictures:
    """The picture sources of one split; sources that were not given are None."""

    material: Material
    split: str
    manifest: Manifest
    painter: Painter

    def _paths(self, name: str) -> list[Path]:
        # What does not depend on the split is stored once, under `shared`.
        own = self.material.files(name, system=SYSTEM, split=self.split)
        return own or self.material.files(name, system=SYSTEM, split=UNSPLIT)

    def _store(self, name: str) -> Store | None:
        paths = self._paths(name)
        return Store(paths) if paths else None

    def _label_maps(self, name: str) -> LabelMaps | None:
        paths = self._paths(name)
        return LabelMaps(paths) if paths else None

    @cached_property
    def cam(self) -> Store | None:
        return self._store("cam")

    @cached_property
    def walks(self) -> dict[str, Store]:
        stores = {name: self._store(name) for name in ("psa_walk", "retab_walk")}
        return {name: store for name, store in stores.items() if store is not None}

    @cached_property
    def labels(self) -> dict[str, LabelMaps]:
        maps = {"pseudo_label": self._label_maps("pseudo_label"), "segmentation": self._label_maps("predict")}
        return {name: found for name, found in maps.items() if found is not None}

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """Per variant, the images' own mean IoU."""
        found: dict[str, dict[str, float]] = {}
        for path in self.material.files("images", system=SYSTEM, split=self.split):
            table = self.material.table(path).set_index("id")
            for variant in table.columns:
                if variant in VARIANTS:
                    values = table[variant].dropna()
                    found.setdefault(variant, {}).update({str(i): float(v) for i, v in values.items()})
        return found

    @cached_property
    def novel(self) -> set[str]:
        """Ids of the images that train without a mask in this split."""
        found: set[str] = set()
        for path in self.material.files("samples", system=SYSTEM, split=self.split):
            table = self.material.table(path)
            found |= set(table.loc[table["role"] == "novel", "id"])
        return found

    def row(self, image_id: str, ranked_by: str) -> GalleryRow:
        """All pictures of one image, those of absent sources left out."""
        sample = self.manifest.by_id(image_id)
        image = read_image(sample.image)
        panels = [Panel("Photograph", self.painter.photograph(image), f"photograph {image_id}")]
        masks: dict[str, np.ndarray] = {}
        if sample.mask is not None:
            masks["truth"] = read_mask(sample.mask)
            panels.append(Panel("Truth", self.painter.mask(masks["truth"]), f"true classes of {image_id}"))
        if self.cam is not None and image_id in self.cam:
            heat = self.painter.heat(image, strongest_score(self.cam[image_id]))
            panels.append(self._panel("cam", image_id, heat, f"class activation of {image_id}"))
        for variant, store in self.walks.items():
            if image_id in store:
                masks[variant] = winning_ids(store[image_id])
        for variant, maps in self.labels.items():
            if image_id in maps:
                masks[variant] = np.asarray(maps[image_id])
        for variant in (name for name in masks if name != "truth"):
            uri = self.painter.mask(masks[variant])
            panels.append(self._panel(variant, image_id, uri, f"{VARIANTS[variant]} of {image_id}"))
        score = self.scores.get(ranked_by, {}).get(image_id)
        remark = f"{VARIANTS[ranked_by]} {100 * score:.1f}" if score is not None else ""
        return GalleryRow(image_id, remark, panels, self.painter.legend(masks.values()))

    def _panel(self, variant: str, image_id: str, uri: str, alt: str) -> Panel:
        score = self.scores.get(variant, {}).get(image_id)
        return Panel(VARIANTS[variant], uri, alt, "" if score is None else f"{100 * score:.1f}")

    def groups(self, ranked_by: str, among: set[str] | None, what: str) -> list[Block]:
        """Galleries of the best, middle and worst images by a variant's own score."""
        known = set(self.manifest.ids)
        scores = {
            i: value
            for i, value in self.scores.get(ranked_by, {}).items()
            if i in known and (among is None or i in among)
        }
        return [
            Gallery(f"{what}: {name}", [self.row(i, ranked_by) for i in ids])
            for name, ids in extremes(scores, self.material.options.gallery_images).items()
        ]


def gallery(material: Material) -> Section | None:
    """Best, middle and worst images of every split, what each stage made of them."""
    if material.options.gallery_images == 0:
        return None
    parts = []
    for result in material.results_of(SYSTEM) or [SplitResult(SYSTEM, s) for s in _splits(material)]:
        found = sources(material, result)
        blocks = _split_blocks(SplitPictures(material, result.split, *found)) if found else []
        if blocks:
            parts.append(Section(f"retab-pictures-{result.split}", result.split, blocks))
    if not parts:
        return None
    return Section("retab-pictures", "Pictures", [Text([REMARK])], subsections=parts)


def _splits(material: Material) -> list[str]:
    return sorted({place.parent.parent.name for place in material.files("images", system=SYSTEM)})


def _split_blocks(pictures: SplitPictures) -> list[Block]:
    ranked_by = next((variant for variant in RANKED_BY if pictures.scores.get(variant)), None)
    blocks: list[Block] = []
    if ranked_by is not None:
        novel = pictures.novel & set(pictures.scores[ranked_by])
        what = "Training images of novel classes" if novel else "Training images"
        blocks += pictures.groups(ranked_by, novel or None, f"{what}, by {VARIANTS[ranked_by]}")
    if pictures.scores.get("segmentation"):
        blocks += pictures.groups("segmentation", None, "Evaluation images, by segmentation")
    return blocks
