"""LarvSeg's pictures: what every method made of a few images, and the attention to each of their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Manifest
from anyshot.engine.label_maps import LabelMaps
from anyshot.engine.stores import Store
from anyshot.report.blocks import Gallery, GalleryRow, Panel, PanelRow, Section, Text
from anyshot.report.gallery import Painter
from anyshot.report.larvseg import ATTENTIVE, SYSTEM, first_target, leading, measured
from anyshot.report.material import Material, SplitResult, place_of
from anyshot.report.tables import VARIANTS, rank

REMARK = (
    "First what every method made of an image of the first target; hatched is void. Pixels of classes that"
    " the target lacks, background among them, are not scored. Then the attention: where the bank of features"
    " of other images finds a label of this one, bright = much. It is what the second loss pools with."
)
COLD = "bank not full"  # of a class past whose warm-up the training did not come


@dataclass(frozen=True)
class TargetPictures:
    """The picture sources of one experiment on its first target.

    classes: of the target, by class index: `id` and `name`.
    """

    material: Material
    split: str
    target: str
    manifest: Manifest
    painter: Painter
    classes: tuple[Mapping[str, Any], ...]

    def _by_method(self, name: str) -> dict[str, list[Path]]:
        """The target's files `name` by method, in the order of the tables."""
        found: dict[str, list[Path]] = {}
        for path in self.material.files(name, system=SYSTEM, split=self.split):
            method, _, target = place_of(path).variant.partition("/")
            if target == self.target:
                found.setdefault(method, []).append(path)
        return {method: found[method] for method in sorted(found, key=rank)}

    @cached_property
    def stores(self) -> dict[str, Store]:
        return {method: Store(paths) for method, paths in self._by_method("shown").items()}

    @cached_property
    def labels(self) -> dict[str, LabelMaps]:
        return {method: LabelMaps(paths) for method, paths in self._by_method("predict").items()}

    @property
    def ids(self) -> list[str]:
        """The images that were kept, in manifest order."""
        kept = {image_id for store in self.stores.values() for image_id in store}
        return [image_id for image_id in self.manifest.ids if image_id in kept]

    def row(self, image_id: str) -> GalleryRow:
        """Photograph, truth and the maps of an image; below them its attention, where it was kept."""
        sample = self.manifest.by_id(image_id)
        image = read_image(sample.image)
        panels = [Panel("Photograph", self.painter.photograph(image), f"photograph {image_id}")]
        masks: list[np.ndarray] = []
        if sample.mask is not None:
            masks.append(read_mask(sample.mask))
            panels.append(Panel("Truth", self.painter.mask(masks[-1]), f"true classes of {image_id}"))
        for method, maps in self.labels.items():
            if image_id in maps:
                masks.append(np.asarray(maps[image_id]))
                title = VARIANTS.get(method, method)
                panels.append(Panel(title, self.painter.mask(masks[-1]), f"{title} on {image_id}"))
        below = self._attention(image_id, image)
        return GalleryRow(image_id, "", panels, self.painter.legend(masks), below=below)

    def _attention(self, image_id: str, image: np.ndarray) -> list[PanelRow]:
        """The attention to each label of the image, over the photograph."""
        store = self.stores.get(ATTENTIVE)
        if store is None or image_id not in store or "attention" not in store.extra_names(image_id):
            return []
        height, width = image.shape[:2]
        maps, labels, warm = (store.extra(image_id, name) for name in ("attention", "labels", "warm"))
        panels = []
        for grid, index, is_warm in zip(maps, labels.tolist(), warm.tolist(), strict=True):
            name = str(self.classes[index]["name"]) if index < len(self.classes) else f"class {index}"
            heat = cv2.resize(grid.astype(np.float32), (width, height))
            alt = f"attention of {image_id} to {name}"
            panels.append(Panel(name, self.painter.heat(image, heat), alt, "" if is_warm else COLD))
        return [PanelRow("Attention to each label", panels)] if panels else []


def gallery(material: Material) -> Section | None:
    """The images that `larvseg_predict` kept of the first target, per experiment: maps, attention."""
    if material.options.gallery_images == 0:
        return None
    parts = []
    for result in material.results_of(SYSTEM):
        pictures = _pictures(material, result)
        if pictures is not None and pictures.ids:
            rows = [pictures.row(image_id) for image_id in pictures.ids]
            anchor = f"{SYSTEM}-pictures-{result.split}"
            parts.append(Section(anchor, result.split, [Gallery("Evaluation images", rows)]))
    return Section(f"{SYSTEM}-pictures", "Pictures", [Text([REMARK])], subsections=parts) if parts else None


def _pictures(material: Material, result: SplitResult) -> TargetPictures | None:
    """The sources of an experiment; None where manifest, classes or results are absent."""
    target = first_target(result)
    manifest, table = material.manifest(result.dataset), material.class_table(result.dataset)
    if not target or manifest is None or table is None:
        return None
    entries = leading(measured(result)[target]).classes
    roles = {int(entry["id"]): str(entry.get("role", "")) for entry in entries}
    painter = Painter.of(table, roles, material.options)
    return TargetPictures(material, result.split, target, manifest, painter, tuple(entries))
