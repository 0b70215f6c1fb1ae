"""`anyshot predict` and `export` with a LarvSeg model folder: one of thousands of classes at every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyshot.data.classes import ClassTable
from anyshot.engine.model_folder import (
    CARD_FILE,
    Card,
    SegmentationModel,
    load_network,
    read_card,
    table_of,
)
from anyshot.errors import AnyshotError, ArtifactError, ConfigError, DataError
from anyshot.larvseg.artifacts import vocabulary_table
from anyshot.larvseg.datasets import fitted_size
from anyshot.larvseg.head import ActiveClasses, class_normalised
from anyshot.larvseg.inference import Classifier, see
from anyshot.larvseg.networks import NETWORK, LarvSegNet
from anyshot.larvseg.options import View
from anyshot.larvseg.vocabulary import Vocabulary
from anyshot.larvseg.words import known_words, rows_of_words

IMAGENET_HEAD = "larvseg_imagenet_head"
BUILDERS = {
    NETWORK: "anyshot.larvseg.networks:build_larvseg",
    IMAGENET_HEAD: "anyshot.larvseg.imagenet_head:build_imagenet_head",
}
MOST_EXPORTED = 2000  # classes of an exported graph, whose logits all exist at the image's size


@dataclass(frozen=True, kw_only=True)
class VocabularySegmenter:
    """A LarvSeg model folder: all classes of its vocabulary compete at every pixel, whatever is asked for.

    Images are fitted to the card's view, whatever their own size; classes are decided there and the labels
    resized, as published (`label_nearest`). `tile` is the side of the sliding window there.
    """

    network: LarvSegNet
    card: Card
    table: ClassTable
    vocabulary: Vocabulary
    view: View
    device: torch.device
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @cached_property
    def classifier(self) -> Classifier:
        """All rows of the vocabulary."""
        return Classifier(self.network.head, ActiveClasses(rows=torch.arange(len(self.vocabulary))))

    @property
    def scored_ids(self) -> tuple[int, ...]:
        """Every class has a probability per pixel."""
        return self.table.ids

    @property
    def words(self) -> set[str]:
        """What classes can be asked for by: ids, names, synonyms, and words that stand for several."""
        return known_words(self.vocabulary, self.groups)

    def ids_of(self, words: Sequence[str]) -> list[int]:
        """Class ids of words, see `rows_of_words`. Raises ConfigError."""
        return rows_of_words(self.vocabulary, words, groups=self.groups)

    def record(self) -> dict[str, Any]:
        """What decides the results beside the weights, for JSON."""
        return {"view": self.view.model_dump(mode="json", exclude={"memory_mib"})}

    def with_infer(self, **changes: Any) -> VocabularySegmenter:
        """The same with another `tile` or one of `scales` (None = as in the card).

        Raises ConfigError for several scales, the mirrored image and a CRF, which LarvSeg has not.
        """
        for name, what in (("flip", "the mirrored image is not added"), ("crf", "masks are not refined")):
            if changes.get(name):
                raise ConfigError(f"--{name}: {what} with LarvSeg (larvseg.md 2.9); leave this option out")
        scales, tile = changes.get("scales"), changes.get("tile")
        if scales is not None and len(scales) != 1:
            raise ConfigError(f"--scales: LarvSeg looks at one size of an image, {len(scales)} are given")
        update: dict[str, Any] = {}
        if scales is not None:
            update = {
                key: max(16, round(getattr(self.view, key) * scales[0]))
                for key in ("short_side", "long_side")
            }
        if tile is not None:
            update |= {"window": tile, "window_stride": tile}
        return replace(self, view=self.view.model_copy(update=update))

    def tile_for(self, image: np.ndarray) -> int | None:
        """Side of the windows, px of the resized image; None when `image` (H, W, 3) goes through whole."""
        window = self.view.window
        size = fitted_size(
            image.shape[0], image.shape[1], short_side=self.view.short_side, long_side=self.view.long_side
        )
        return window if window is not None and max(size) > window else None

    def predict(
        self, images: Sequence[np.ndarray], *, scores: bool
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Class ids (H, W) of the images, and with `scores` the probabilities (G, H, W) of all classes.

        Raises DataError when the device has too little memory for one image.
        """
        try:
            return [self._predict(image, scores=scores) for image in images]
        except torch.OutOfMemoryError:
            if len(images) > 1:  # the caller tries them one by one
                raise
            raise DataError(
                f"{self.device} has too little memory for one image with a shorter side of"
                f" {self.view.short_side} px; give a smaller --tile, or --device cpu"
            ) from None

    @torch.inference_mode()
    def _predict(self, image: np.ndarray, *, scores: bool) -> tuple[np.ndarray, np.ndarray | None]:
        given = self.card.input
        seen = see(
            self.network, image, view=self.view, mean=given.mean, std=given.std, device=self.device
        )  # fmt: skip
        if scores:
            found = self.classifier.probabilities(seen)
            rows = torch.arange(seen.height) * found.shape[1] // seen.height
            columns = torch.arange(seen.width) * found.shape[2] // seen.width
            sized = found[:, rows[:, None], columns].numpy()
            return self._ids(sized.argmax(axis=0)), sized
        labels = self.classifier.decide(seen, postprocess="label_nearest", memory_mib=self.view.memory_mib)
        return self._ids(labels), None

    def _ids(self, rows: np.ndarray) -> np.ndarray:
        return rows.astype(np.uint8 if self.table.ignore == 255 else np.uint16)


class PlainLogits(nn.Module):
    """All classes' logits at token resolution, as an ordinary segmenter has them: z of larvseg.md 2.2."""

    class_units: Tensor

    def __init__(self, network: LarvSegNet) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            every = ActiveClasses(rows=torch.arange(len(network.head.table)))
            self.register_buffer("class_units", network.head.class_units(every))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), padded to the network's reduction -> logits (B, G, h, w)."""
        head, features = self.network.head, self.network.tokens(images)
        units = F.normalize(features.permute(0, 2, 3, 1) @ head.feature_projection, dim=-1)
        logits = head.scale * class_normalised(units @ self.class_units.T) + head.shift
        return logits.permute(0, 3, 1, 2)


def card_view(card: Card) -> View:
    """The view that a card asks for: its `view`, whole images unless it has a `window`.

    Raises ArtifactError where it has none or a broken one.
    """
    found = (card.model_extra or {}).get("view")
    if not isinstance(found, dict):
        raise ArtifactError(
            f"{CARD_FILE} has no `view`, the px that images are fitted to: write it in, e.g."
            ' "view": {"short_side": 512, "long_side": 2048}, or train again'
        )
    try:
        return View.model_validate({"window": None, **found})
    except ValueError as error:
        raise ArtifactError(f"{CARD_FILE}: `view`: {error}") from error


def card_vocabulary(card: Card, table: ClassTable) -> Vocabulary:
    """The vocabulary of a card, whose rows are its classes. Raises ArtifactError for anything else."""
    try:
        found = Vocabulary.from_json((card.model_extra or {})["vocabulary"])
    except (AnyshotError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{CARD_FILE} has no readable `vocabulary` ({error!r}), without which its classes mean nothing:"
            " copy the whole folder again, or train again"
        ) from error
    rows = card.network.options.get("rows")
    if not len(found) == len(table) == rows or vocabulary_table(found).digest() != table.digest():
        raise ArtifactError(
            f"{CARD_FILE} contradicts itself: its vocabulary has {len(found)} rows, its network {rows}, and"
            f" {len(table)} classes are listed; copy the whole folder again"
        )
    return found


def load_segmenter(folder: Path, device: torch.device | str) -> VocabularySegmenter:
    """Load a LarvSeg model folder. Raises ArtifactError or WeightsError."""
    card = read_card(folder)
    table = table_of(card)
    vocabulary, view = card_vocabulary(card, table), card_view(card)
    network = load_network(folder, card, device, builders=BUILDERS)
    assert isinstance(network, LarvSegNet)
    return VocabularySegmenter(
        network=network,
        card=card,
        table=table,
        vocabulary=vocabulary,
        view=view,
        device=torch.device(device),
        groups=(card.model_extra or {}).get("groups") or {},
    )


def load_plain(folder: Path, device: torch.device | str) -> SegmentationModel:
    """A LarvSeg model folder as an ordinary segmenter with one channel per class.

    Raises ArtifactError or WeightsError, ConfigError where that would be too many channels.
    """
    loaded = load_segmenter(folder, device)
    if len(loaded.table) > MOST_EXPORTED:
        raise ConfigError(
            f"{folder} has {len(loaded.table)} classes: a graph whose logits all exist at the image's size is"
            f" written for up to {MOST_EXPORTED}; use `anyshot predict`, which needs no such tensor"
        )
    padded = loaded.card.input.model_copy(update={"size_divisor": loaded.network.reduction})
    return SegmentationModel(
        network=PlainLogits(loaded.network).eval(),
        card=loaded.card.model_copy(update={"input": padded}),
        table=loaded.table,
        device=loaded.device,
    )
