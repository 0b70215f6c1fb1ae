"""`anyshot predict` with a POP model folder: its own classes, and the novel ones of `novel/` (pop.md 2.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyshot.data.classes import ClassTable
from anyshot.engine.model_folder import Card
from anyshot.engine.novel_folder import StoredClass, result_table
from anyshot.errors import ConfigError, DataError
from anyshot.pop.inference import decide, probabilities
from anyshot.pop.novel_folder import NovelClass, read_classes, session_head
from anyshot.pop.open_model import PopModel, load_model
from anyshot.pop.sessions import SessionHead


@dataclass(frozen=True, kw_only=True)
class PopSegmenter:
    """A POP model folder with its novel classes.

    Every image goes through the network once, scaled to the card's size whatever its own, so images of any
    size need the same memory but for the masks themselves.
    """

    model: PopModel
    head: SessionHead
    novel: tuple[StoredClass[NovelClass], ...]  # in the order of the head's channels

    @property
    def card(self) -> Card:
        return self.model.facts.card

    @property
    def device(self) -> torch.device:
        return self.model.device

    @cached_property
    def table(self) -> ClassTable:
        """Background, base classes, then the novel ones, in the order of the head's channels."""
        return result_table(self.model.facts, self.novel)

    @property
    def scored_ids(self) -> tuple[int, ...]:
        """Every class has a probability per pixel."""
        return self.table.ids

    def record(self) -> dict[str, Any]:
        """What decides the results beside the weights, for JSON."""
        novel = {one.novel.name: one.facts.get("weights_sha256") for one in self.novel}
        return {"size": self.model.facts.size, "novel": novel}

    def with_infer(self, **changes: Any) -> PopSegmenter:
        """The same. Raises ConfigError for scales, mirror, CRF and tiles, which POP has not."""
        asked = [f"--{name}" for name in ("flip", "crf", "tile") if changes.get(name)]
        if changes.get("scales") not in (None, [1.0]):
            asked.insert(0, "--scales")
        if asked:
            raise ConfigError(
                f"{', '.join(asked)}: POP looks at an image once, scaled to {self.model.facts.size} px,"
                " however large it is; leave these options out"
            )
        return self

    def tile_for(self, image: np.ndarray) -> int | None:
        """None: an image of any size goes through whole."""
        return None

    @torch.inference_mode()
    def predict(
        self, images: Sequence[np.ndarray], *, scores: bool
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Class ids (H, W) of images of one size, and with `scores` the probabilities (C, H, W)."""
        try:
            logits = self.head(self.model.features(images))
        except torch.OutOfMemoryError:
            if len(images) > 1:  # the caller tries them one by one
                raise
            raise DataError(
                f"{self.device} has too little memory for one image of {self.model.facts.size} px; use"
                " --device cpu"
            ) from None
        found: list[tuple[np.ndarray, np.ndarray | None]] = []
        for image, one in zip(images, logits, strict=True):
            size = image.shape[:2]
            found.append((self._ids(decide(one, *size)), probabilities(one, *size) if scores else None))
        return found

    def _ids(self, indices: np.ndarray) -> np.ndarray:
        dtype = np.uint8 if self.table.ignore == 255 else np.uint16
        return np.asarray(self.table.ids, dtype=dtype)[indices]


def load_segmenter(folder: Path, device: torch.device | str) -> PopSegmenter:
    """Load a POP model folder and its novel classes. Raises ArtifactError or WeightsError."""
    model = load_model(folder, device)
    _ = model.facts.size  # says what is missing before the first image is read
    novel = tuple(read_classes(model.facts))
    return PopSegmenter(model=model, head=session_head(model, novel), novel=novel)
