"""`anyshot predict` with a RAML model folder: known classes, and the novel ones of `novel/` (raml.md 2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from anyshot.data.classes import ClassTable
from anyshot.engine.model_folder import Card, SegmentationModel
from anyshot.engine.novel_folder import StoredClass, result_table
from anyshot.errors import ConfigError
from anyshot.raml.bank import NovelClass
from anyshot.raml.inference import closed_prediction, decide, fuse
from anyshot.raml.networks import ClosedLogits, OpenMaps
from anyshot.raml.novel_folder import Settings, read_classes, read_settings
from anyshot.raml.open_model import OpenModel, load_model, shrunk


@dataclass(frozen=True, kw_only=True)
class OpenSegmenter:
    """A RAML model folder with its novel classes.

    Images go through the network whole. One that is too large for that gets its known classes tile by tile;
    its regions are found on the image scaled down to the limit (with `tile`: to tile x tile px) and painted
    with the nearest cell. `min_area` then counts cells of the smaller image.
    """

    model: OpenModel
    closed: SegmentationModel  # the same network as an ordinary segmenter of the known classes
    novel: tuple[StoredClass[NovelClass], ...]
    settings: Settings

    @property
    def card(self) -> Card:
        return self.closed.card

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def table(self) -> ClassTable:
        """Known classes, then the novel ones."""
        return result_table(self.model.facts, self.novel)

    @property
    def scored_ids(self) -> tuple[int, ...]:
        """The known classes: a novel one has a region's cosine, no probability per pixel."""
        return self.closed.table.ids

    def record(self) -> dict[str, Any]:
        """What decides the results beside the weights, for JSON."""
        novel = {one.novel.name: one.facts.get("weights_sha256") for one in self.novel}
        return {**self.closed.record(), "novel": novel, "settings": self.settings.model_dump(mode="json")}

    def with_infer(self, **changes: Any) -> OpenSegmenter:
        """The same with another `tile`. Raises ConfigError for scales, mirror and CRF, which RAML has not."""
        asked = []
        if changes.get("scales") not in (None, [1.0]):
            asked.append("--scales")
        asked += [f"--{name}" for name in ("flip", "crf") if changes.get(name)]
        if asked:
            raise ConfigError(
                f"{', '.join(asked)}: RAML looks at an image once, at its own size, and its regions are found"
                " in that one look; leave these options out"
            )
        return replace(self, closed=self.closed.with_infer(tile=changes.get("tile")))

    def tile_for(self, image: np.ndarray) -> int | None:
        """Side of the tiles in px for `image` (H, W, 3); None when it goes through whole."""
        return self.closed.tile_for(image)

    def predict(
        self, images: Sequence[np.ndarray], *, scores: bool
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Class ids (H, W) of the images, and with `scores` the known classes' probabilities (K, H, W)."""
        return [self._predict(image, scores=scores) for image in images]

    def _predict(self, image: np.ndarray, *, scores: bool) -> tuple[np.ndarray, np.ndarray | None]:
        probabilities: np.ndarray | None = None
        if self.tile_for(image) is not None:
            ids, probabilities = self.closed.predict([image], scores=scores)[0]
            if not self.novel:
                return self._of_table(ids), probabilities
            tile = self.card.infer.tile
            seen = shrunk(image, None if tile is None else tile * tile)
            return self._with_novel(ids, self.model.maps(seen), seen.shape[:2]), probabilities
        size = image.shape[:2]
        maps = self.model.maps(image)
        ids = self.closed.ids(closed_prediction(maps, *size))
        if scores:
            logits = F.interpolate(maps.logits.float(), size=size, mode="bilinear", align_corners=False)
            probabilities = logits.softmax(dim=1)[0].cpu().numpy()
        return self._with_novel(ids, maps, size), probabilities

    def _of_table(self, ids: np.ndarray) -> np.ndarray:
        return ids.astype(np.uint8 if self.table.ignore == 255 else np.uint16, copy=False)

    @torch.inference_mode()
    def _with_novel(self, ids: np.ndarray, maps: OpenMaps, size: tuple[int, ...]) -> np.ndarray:
        """`ids` (H, W) with the regions of novel classes; `maps` are those of an image of `size` px."""
        ids = self._of_table(ids)
        if not self.novel:
            return ids
        assert self.model.metric is not None  # else there are no novel classes
        found = decide(
            self.model.metric,
            maps,
            [one.novel for one in self.novel],
            height=size[0],
            width=size[1],
            hit_ratio=self.settings.hit_ratio,
            options=self.settings.open_world(),
        )
        values = [one.novel.id for one in self.novel]
        return fuse(ids, found, values, reject_known=self.settings.reject_known)


def load_segmenter(folder: Path, device: torch.device | str) -> OpenSegmenter:
    """Load a RAML model folder and its novel classes. Raises ArtifactError or WeightsError."""
    model = load_model(folder, device)
    closed = SegmentationModel(
        network=ClosedLogits(model.network),
        card=model.facts.card,
        table=result_table(model.facts, ()),
        device=model.device,
    )
    novel = tuple(read_classes(model.facts))
    return OpenSegmenter(model=model, closed=closed, novel=novel, settings=read_settings(folder))
