"""Which segmenter a model folder holds, and what `anyshot predict` needs of it, whatever the system."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch

from anyshot.commands import NETWORKS, PLAIN, SEGMENTERS
from anyshot.data.classes import ClassTable
from anyshot.engine.model_folder import Card, SegmentationModel, load_model_folder, read_card
from anyshot.errors import ConfigError


class Segmenter(Protocol):
    """A loaded model folder.

    Most are an `anyshot.engine.model_folder.SegmentationModel`; a system brings its own where a network with
    one channel per class is not all there is.
    """

    @property
    def card(self) -> Card: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def table(self) -> ClassTable:
        """The classes that results can hold."""

    @property
    def scored_ids(self) -> tuple[int, ...]:
        """Class ids of the channels of the probabilities."""

    def record(self) -> dict[str, Any]:
        """What decides the results beside the weights, for JSON."""

    def with_infer(self, **changes: Any) -> Self:
        """The same model with other values of `scales`, `flip`, `crf` or `tile` (None = its own)."""

    def tile_for(self, image: np.ndarray) -> int | None:
        """Side of the tiles in px for `image` (H, W, 3); None when it goes through whole."""

    def predict(
        self, images: Sequence[np.ndarray], *, scores: bool
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Class ids (H, W) of images of one size, and with `scores` the probabilities (C, H, W)."""


@runtime_checkable
class WithVocabulary(Protocol):
    """A segmenter whose classes have more words than their names in the class table."""

    @property
    def words(self) -> set[str]:
        """All of them, as they are written."""

    def ids_of(self, words: Sequence[str]) -> list[int]:
        """The class ids of words. Raises ConfigError for unknown and ambiguous ones."""


def load(folder: Path, device: torch.device | str) -> Segmenter:
    """Load the model folder of any system's final segmenter. Raises ArtifactError or WeightsError."""
    name = read_card(folder).network.name
    if name not in SEGMENTERS:
        return load_model_folder(folder, device, builders=NETWORKS)
    loader: Callable[[Path, torch.device | str], Segmenter] = _function(SEGMENTERS[name])
    return loader(folder, device)


def load_plain(folder: Path, device: torch.device | str) -> SegmentationModel:
    """Load a folder whose network has one channel per class. Raises ConfigError for any other."""
    name = read_card(folder).network.name
    if name in PLAIN:
        loader: Callable[[Path, torch.device | str], SegmentationModel] = _function(PLAIN[name])
        return loader(folder, device)
    if name in SEGMENTERS:
        raise ConfigError(
            f"{folder} holds the network {name}, whose classes are not channels of one graph: only"
            f" {', '.join(sorted([*NETWORKS, *PLAIN]))} can be exported; use `anyshot predict` for this one"
        )
    return load_model_folder(folder, device, builders=NETWORKS)


def _function(name: str) -> Any:
    """What "module:function" names."""
    module, function = name.split(":")
    return getattr(importlib.import_module(module), function)
