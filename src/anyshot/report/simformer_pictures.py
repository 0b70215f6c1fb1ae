"""SimFormer's pictures: what every network made of a few evaluation images, and how the method came to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Manifest
from anyshot.engine.label_maps import LabelMaps
from anyshot.engine.stores import Store
from anyshot.report.blocks import Gallery, GalleryRow, Panel, PanelRow, Section
from anyshot.report.gallery import VOID_IDS, Painter
from anyshot.report.material import Material, SplitResult, place_of
from anyshot.report.picture_sources import split_galleries
from anyshot.report.simformer import FULL, SYSTEM
from anyshot.report.tables import VARIANTS, rank

REMARK = (
    "First what every network made of an image; hatched is void, which is not scored. Then the method's"
    " proposals that are surest of a class: each has a class, the probability of it, and a mask, outlined"
    " where a pixel is more likely in it than not. Then similarity: bright is what the method's similarity"
    " network takes for the class of the marked point."
)


@dataclass(frozen=True)
class SplitPictures:
    """The picture sources of one split."""

    material: Material
    split: str
    manifest: Manifest
    painter: Painter
    class_ids: tuple[int, ...]  # of the class indices of proposals

    def _by_variant(self, name: str) -> dict[str, list[Path]]:
        """The split's files `name` by variant, in the order of the tables."""
        found: dict[str, list[Path]] = {}
        for path in self.material.files(name, system=SYSTEM, split=self.split):
            found.setdefault(place_of(path).variant, []).append(path)
        return {variant: found[variant] for variant in sorted(found, key=rank)}

    @cached_property
    def stores(self) -> dict[str, Store]:
        return {variant: Store(paths) for variant, paths in self._by_variant("shown").items()}

    @cached_property
    def labels(self) -> dict[str, LabelMaps]:
        return {variant: LabelMaps(paths) for variant, paths in self._by_variant("predict").items()}

    @property
    def ids(self) -> list[str]:
        """The images that were kept, in manifest order."""
        kept = {image_id for store in self.stores.values() for image_id in store}
        return [image_id for image_id in self.manifest.ids if image_id in kept]

    def row(self, image_id: str) -> GalleryRow:
        """The maps of an image; below them proposals and similarities, where they were kept."""
        sample = self.manifest.by_id(image_id)
        image = read_image(sample.image)
        panels = [Panel("Photograph", self.painter.photograph(image), f"photograph {image_id}")]
        masks: list[np.ndarray] = []
        truth = None
        if sample.mask is not None:
            truth = read_mask(sample.mask)
            masks.append(truth)
            panels.append(Panel("Truth", self.painter.mask(truth), f"true classes of {image_id}"))
        for variant, maps in self.labels.items():
            if image_id in maps:
                masks.append(np.asarray(maps[image_id]))
                title = VARIANTS.get(variant, variant)
                panels.append(Panel(title, self.painter.mask(masks[-1]), f"{title} on {image_id}"))
        below = []
        if FULL in self.stores and image_id in self.stores[FULL]:
            proposed, found = self._proposals(image_id, image)
            masks.append(np.array(proposed))
            below = [found, *self._similarities(image_id, image, truth)]
        return GalleryRow(image_id, "", panels, self.painter.legend(masks), below=below)

    def _proposals(self, image_id: str, image: np.ndarray) -> tuple[list[int], PanelRow]:
        """The proposals that are surest of a class, the surest first, and the ids of their classes."""
        store, panels, shown = self.stores[FULL], [], []
        scores, masks = (store.extra(image_id, f"proposal_{name}") for name in ("scores", "masks"))
        for index, score, mask in zip(store.extra(image_id, "proposal_classes"), scores, masks, strict=True):
            identity = self.class_ids[int(index)]
            shown.append(identity)
            name = self.painter.names.get(identity, f"id {identity}")
            uri = self.painter.proposal(image, mask.astype(np.float32) / 255, identity)
            alt = f"proposal of {image_id}: {name}, probability {score:.2f}"
            panels.append(Panel(name, uri, alt, f"{score:.2f}"))
        return shown, PanelRow("Surest proposals", panels)

    def _similarities(self, image_id: str, image: np.ndarray, truth: np.ndarray | None) -> list[PanelRow]:
        """What the similarity network finds like each of a few points."""
        store, panels = self.stores[FULL], []
        if "similarities" not in store.extra_names(image_id):
            return []
        height, width = image.shape[:2]
        for (row, column), similar in zip(
            store.extra(image_id, "points").tolist(), store.extra(image_id, "similarities"), strict=True
        ):
            grid = cv2.resize(similar.astype(np.float32) / 255, (width, height))
            name = self._name_at(truth, row, column)
            uri = self.painter.heat(image, grid, mark=(row, column))
            panels.append(Panel(name, uri, f"{image_id}: similarity to the marked point, {name}"))
        return [PanelRow("Similarity to the marked point", panels)]

    def _name_at(self, truth: np.ndarray | None, row: int, column: int) -> str:
        identity = VOID_IDS[0] if truth is None else int(truth[row, column])
        return "a point" if identity in VOID_IDS else self.painter.names.get(identity, f"id {identity}")


def gallery(material: Material) -> Section | None:
    """The images that `simformer_predict` kept, per split: maps, proposals, similarities."""

    def of_split(result: SplitResult, manifest: Manifest, painter: Painter) -> Gallery:
        table = material.class_table(result.dataset)
        assert table is not None  # there is a painter
        pictures = SplitPictures(material, result.split, manifest, painter, table.ids)
        return Gallery("Evaluation images", [pictures.row(image_id) for image_id in pictures.ids])

    return split_galleries(material, "shown", f"{SYSTEM}-pictures", REMARK, of_split)
