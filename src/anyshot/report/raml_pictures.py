"""RAML's gallery: what became of a few evaluation images, from the photograph to the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pandas as pd

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Manifest
from anyshot.engine.label_maps import LabelMaps
from anyshot.engine.stores import Store
from anyshot.report.blocks import Colour, Gallery, GalleryRow, Panel, Section
from anyshot.report.gallery import Painter
from anyshot.report.material import Material, SplitResult
from anyshot.report.picture_sources import split_galleries
from anyshot.report.raml import SYSTEM, chosen_variant
from anyshot.report.tables import VARIANTS

REMARK = (
    "Meta channels: the strongest of the channels that the support images select, bright = high. Regions are"
    " tinted in the colour of the novel class they were given, in grey where the closed-set labels were kept;"
    " below the pictures stands why. Cosines are to the prototypes of the classes."
)
CLOSED_SET = "closed set"  # a decision in regions.csv
KEPT: Colour = (150, 150, 150)


@dataclass(frozen=True)
class OpenPictures:
    """The picture sources of one split."""

    material: Material
    result: SplitResult
    manifest: Manifest
    painter: Painter

    @cached_property
    def shown(self) -> Store:
        return Store(self.material.files("shown", system=SYSTEM, split=self.result.split))

    @cached_property
    def labels(self) -> LabelMaps:
        return LabelMaps(self.material.files("predict", system=SYSTEM, split=self.result.split))

    @cached_property
    def regions(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of regions.csv by image."""
        paths = self.material.files("regions", system=SYSTEM, split=self.result.split)
        tables = [table for path in paths if len(table := self.material.table(path))]
        if not tables:
            return {}
        whole = pd.concat(tables)
        return {str(name): part.to_dict("records") for name, part in whole.groupby("id")}

    def row(self, image_id: str) -> GalleryRow:
        """All pictures of one image and the decisions on its regions."""
        sample, painter = self.manifest.by_id(image_id), self.painter
        image, closed = read_image(sample.image), self.shown.extra(image_id, "closed")
        regions, rows = self.shown.extra(image_id, "regions"), self.regions.get(image_id, [])
        colours = {int(row["region"]): self._colour(row) for row in rows}
        masks = {"closed": closed}
        panels = [
            Panel("Photograph", painter.photograph(image), f"photograph {image_id}"),
            Panel("Closed set", painter.mask(closed), f"closed-set map of {image_id}"),
            Panel("Meta channels", painter.heat(image, self._proposal(image_id)), f"proposal of {image_id}"),
            Panel("Regions", painter.regions(image, regions, colours), f"{len(rows)} regions of {image_id}"),
        ]
        if image_id in self.labels:
            masks["result"] = np.asarray(self.labels[image_id])
            name = VARIANTS[chosen_variant(self.result)]
            panels.append(Panel(name, painter.mask(masks["result"]), f"result of {image_id}"))
        if sample.mask is not None:
            masks["truth"] = read_mask(sample.mask)
            panels.append(Panel("Truth", painter.mask(masks["truth"]), f"true classes of {image_id}"))
        remark = f"{len(rows)} region{'s' * (len(rows) != 1)}"
        lines = [self._decision(row) for row in rows]
        return GalleryRow(image_id, remark, panels, painter.legend(masks.values()), lines)

    def _proposal(self, image_id: str) -> np.ndarray:
        """The selected meta channels' strongest response at the image's size, float32 (H, W)."""
        found = self.shown[image_id]
        if not len(found.scores):
            return np.zeros((found.height, found.width), np.float32)
        grid = found.scores.max(axis=0).astype(np.float32)
        return cv2.resize(grid, (found.width, found.height), interpolation=cv2.INTER_LINEAR)

    def _kept(self, row: Mapping[str, Any]) -> bool:
        """Whether a region kept its closed-set labels in the map that is shown."""
        strict = chosen_variant(self.result) == "raml_reject_known"
        return row["decision"] == CLOSED_SET or (strict and bool(row["rejected"]))

    def _colour(self, row: Mapping[str, Any]) -> Colour:
        ids = {name: number for number, name in self.painter.names.items()}
        return KEPT if self._kept(row) else self.painter.colours.get(ids.get(row["decision"], -1), KEPT)

    def _decision(self, row: Mapping[str, Any]) -> str:
        cosines = {
            key.removeprefix("cosine_"): float(value)
            for key, value in row.items()
            if key.startswith("cosine_") and key != "cosine_known"
        }
        best = max(cosines, key=lambda name: cosines[name], default="")
        name = row["decision"] if row["decision"] in cosines else best
        novel = f"{name} {cosines[name]:.2f}" if cosines else "no novel class"
        known = f"nearest base class {row['nearest_known']} {float(row['cosine_known']):.2f}"
        said = f"closed set kept; best novel class {novel}" if self._kept(row) else novel
        return f"{row['region']}: {said}; {known}"


def gallery(material: Material) -> Section | None:
    """The images that `raml_open_world` kept, per split, what each step made of them."""

    def of_split(result: SplitResult, manifest: Manifest, painter: Painter) -> Gallery:
        pictures = OpenPictures(material, result, manifest, painter)
        ids = [image_id for image_id in manifest.ids if image_id in pictures.shown]
        return Gallery("Evaluation images", [pictures.row(image_id) for image_id in ids])

    return split_galleries(material, "shown", f"{SYSTEM}-pictures", REMARK, of_split)
