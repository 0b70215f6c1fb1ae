"""Model folders: everything `predict` needs, the same for every system.

`model.safetensors` holds the weights, `model.json` (the card) the network with its options, the classes, how
an image is prepared and how to infer; `classes.csv` repeats the classes for other programs.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from anyshot.data.classes import ClassTable
from anyshot.engine.checkpoints import load_into, load_weights, save_weights
from anyshot.engine.inference import (
    Resize,
    multi_scale_logits,
    multi_scale_logits_batch,
    segment_tiled,
)
from anyshot.errors import AnyshotError, ArtifactError, DataError, WeightsError
from anyshot.ops.argmax import argmax
from anyshot.ops.crf import CrfParameters, DenseCrf
from anyshot.options import Options

WEIGHTS_FILE, CARD_FILE, CLASSES_FILE = "model.safetensors", "model.json", "classes.csv"

WHOLE_PIXELS = 6_000_000
"""Largest image, in px at the largest scale, that goes through whole when no tile is asked for."""

TILE = 1024
"""Side in px of the tiles of larger images; smaller with many classes."""

WHOLE_SCORES = 200_000_000
"""Largest number of scores (classes times px) that are held for one image or tile, 0.8 GB of float32."""

PUBLISHED_CRF = CrfParameters(bilateral_sxy=83.0, bilateral_srgb=5.0, bilateral_weight=4.0)
"""The CRF of `"crf": true` (retab.md section 4)."""


class CardClass(Options):
    """One class of the card, in the order of the network's output channels."""

    id: int
    name: str
    kind: str = "thing"
    colour: list[int] = Field(min_length=3, max_length=3, description="red, green, blue, 0..255")


class CardNetwork(Options):
    """The name of a network builder and the options it is called with."""

    name: str
    options: dict[str, Any]


class CardInput(Options):
    """How an image becomes the network's input."""

    mean: list[float] = Field(min_length=3, max_length=3, description="of RGB in [0, 1]")
    std: list[float] = Field(min_length=3, max_length=3, description="of RGB in [0, 1]")
    size_divisor: int = Field(1, ge=1, description="inputs are padded to multiples of this, px")
    resize: Resize = Field("bilinear", description="filter for scales other than 1")
    size: int | None = Field(None, ge=1, description="px to which the longer side is scaled; none = own")


class CardInfer(Options):
    """How predictions are made."""

    scales: list[float] = Field(default_factory=lambda: [1.0], min_length=1, description="image scales")
    flip: bool = Field(False, description="add the mirrored image at every scale")
    crf: bool | dict[str, float] = Field(
        False, description="CRF afterwards: fields of CrfParameters, or true"
    )
    tile: int | None = Field(
        None, ge=4, description="side of tiles in px; none = whole images, large ones tiled"
    )


class Card(BaseModel):
    """The part of `model.json` that inference reads; further keys say where the model came from."""

    model_config = ConfigDict(extra="allow", frozen=True)

    system: str
    split: str | None = None
    network: CardNetwork
    classes: list[CardClass] = Field(min_length=1)
    input: CardInput
    infer: CardInfer = Field(default_factory=CardInfer)


def model_card(
    *,
    system: str,
    split: str | None,
    network: str,
    network_options: Mapping[str, Any],
    table: ClassTable,
    mean: Sequence[float],
    std: Sequence[float],
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: bool | Mapping[str, float] = False,
    size_divisor: int = 1,
    resize: Resize = "bilinear",
    tile: int | None = None,
    input_size: int | None = None,
    **provenance: Any,
) -> dict[str, Any]:
    """The content of `model.json`, ready for JSON.

    `network` is a builder's name, `network_options` what it is called with (`weights` in it, at the top or
    under `backbone`, becomes "none" when the model is loaded); `mean` and `std` are those of RGB in [0, 1];
    `crf` is false, true (the published values) or the fields of `CrfParameters`; `input_size` is for systems
    that scale every image to one size. `provenance` may add any further keys whose values JSON can hold.
    """
    card = Card.model_validate(
        {
            **provenance,
            "system": system,
            "split": split,
            "network": {"name": network, "options": dict(network_options)},
            "classes": table.to_json(),
            "classes_digest": table.digest(),
            "input": {
                "mean": [float(value) for value in mean],
                "std": [float(value) for value in std],
                "size_divisor": size_divisor,
                "resize": resize,
                "size": input_size,
            },
            "infer": {
                "scales": [float(scale) for scale in scales],
                "flip": flip,
                "crf": crf if isinstance(crf, bool) else {name: float(value) for name, value in crf.items()},
                "tile": tile,
            },
        }
    )
    return card.model_dump(mode="json")


def save_model_folder(folder: Path, *, state_dict: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write `model.safetensors`, `model.json` (see `model_card`) and `classes.csv` into `folder`.

    Raises ArtifactError when the folder cannot be written.
    """
    try:
        table_of(Card.model_validate(card)).write(folder / CLASSES_FILE)
    except OSError as error:
        raise ArtifactError(f"cannot write {folder}: {error.strerror}; choose another --output") from error
    save_weights(folder / WEIGHTS_FILE, dict(state_dict), dict(card))


def read_card(folder: Path) -> Card:
    """Read and check `model.json` of a model folder. Raises ArtifactError naming what is missing or wrong."""
    if not folder.is_dir():
        raise ArtifactError(
            f"model folder {folder} does not exist; give a folder with {WEIGHTS_FILE} and {CARD_FILE},"
            " e.g. results/retab/fold0/segmentation"
        )
    missing = [name for name in (WEIGHTS_FILE, CARD_FILE) if not (folder / name).is_file()]
    if missing:
        raise ArtifactError(
            f"model folder {folder} is incomplete: {' and '.join(missing)} missing; run the stage that trains"
            " the model to its end, or copy the whole folder"
        )
    path = folder / CARD_FILE
    try:
        return Card.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        if isinstance(error, ValidationError):
            found = "; ".join(
                f"{'.'.join(map(str, part['loc']))}: {part['msg']}"
                for part in error.errors(include_url=False)[:5]
            )
            raise ArtifactError(
                f"{path} does not describe a segmenter ({found}); give the folder of a final segmenter"
            ) from error
        raise ArtifactError(f"{path} cannot be read ({error}); write the model again") from error


def table_of(card: Card) -> ClassTable:
    """The class table of a card. Raises ArtifactError for repeated ids and the like."""
    try:
        return ClassTable.from_json([row.model_dump() for row in card.classes])
    except DataError as error:
        raise ArtifactError(f"{CARD_FILE}: {error}; write the model again") from error


def build_network(card: Card, builders: Mapping[str, str]) -> nn.Module:
    """Build the card's network with random weights. `builders` maps names to "module:function".

    A builder is called with the card's `network.options` as one dict, `weights` set to "none".
    Raises ArtifactError for an unknown name or options that the builder does not take.
    """
    name = card.network.name
    if name not in builders:
        raise ArtifactError(
            f"network {name!r} of {CARD_FILE} is not known; known are: {', '.join(sorted(builders))}"
        )
    module, function = builders[name].split(":")
    build: Callable[[dict[str, Any]], nn.Module] = getattr(importlib.import_module(module), function)
    try:
        return build(_without_pretrained(card.network.options))
    except AnyshotError:
        raise
    except (TypeError, ValueError, KeyError) as error:  # pydantic's ValidationError is a ValueError
        raise ArtifactError(
            f"network {name!r} cannot be built with the options of {CARD_FILE}: {error}"
        ) from error


def _without_pretrained(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with `weights: none`: all weights come from the folder, ImageNet files may be gone."""
    result = dict(options)
    if "weights" in result:
        result["weights"] = "none"
    if isinstance(result.get("backbone"), Mapping):
        result["backbone"] = _without_pretrained(result["backbone"])
    return result


def load_model_folder(
    folder: Path, device: torch.device | str = "cpu", *, builders: Mapping[str, str]
) -> SegmentationModel:
    """Load a model folder onto `device`, in evaluation mode.

    Raises ArtifactError for an incomplete folder or an unknown network, WeightsError for weights that do not
    fit it.
    """
    card = read_card(folder)
    table = table_of(card)
    network = load_network(folder, card, device, builders=builders)
    model = SegmentationModel(network=network, card=card, table=table, device=torch.device(device))
    model.check_channels()
    return model


def load_network(
    folder: Path, card: Card, device: torch.device | str, *, builders: Mapping[str, str]
) -> nn.Module:
    """The folder's network with its weights on `device`, frozen and in evaluation mode. Raises as
    `load_model_folder`."""
    network = build_network(card, builders)
    state, _ = load_weights(folder / WEIGHTS_FILE)
    load_into(network, state)
    network.requires_grad_(False)
    return network.eval().to(device)


@dataclass(frozen=True, kw_only=True)
class SegmentationModel:
    """A loaded model folder.

    `network` maps (B, 3, h, w) normalised images to (B, C, h', w') logits, one channel per row of `table`.
    """

    network: nn.Module
    card: Card
    table: ClassTable
    device: torch.device

    def check_channels(self) -> None:
        """Raises WeightsError unless the network has one output channel per class."""
        with torch.no_grad():
            side = max(64, self.card.input.size_divisor)
            channels = self.network(torch.zeros(1, 3, side, side, device=self.device)).shape[1]
        if channels != len(self.table):
            raise WeightsError(
                f"the network has {channels} output channels, but {CARD_FILE} lists {len(self.table)}"
                " classes; the two files are not of one model: copy the whole folder again"
            )

    def with_infer(self, **changes: Any) -> SegmentationModel:
        """The same model with other values of `scales`, `flip`, `crf` or `tile` (None = as in the card)."""
        given = {name: value for name, value in changes.items() if value is not None}
        infer = CardInfer.model_validate({**self.card.infer.model_dump(), **given})
        return replace(self, card=self.card.model_copy(update={"infer": infer}))

    def tile_for(self, image: np.ndarray) -> int | None:
        """Side of the tiles in px for `image` (H, W, 3); None when it goes through whole."""
        tile = self.card.infer.tile
        height, width = image.shape[:2]
        if tile is None:
            largest = max(1.0, *self.card.infer.scales)
            pixels, scores = height * width * largest**2, height * width * len(self.table)
            if pixels > WHOLE_PIXELS or scores > WHOLE_SCORES:
                # A multiple of 128 px keeps the cells of the network where they are in the whole image.
                tile = min(TILE, max(128, math.isqrt(WHOLE_SCORES // len(self.table)) // 128 * 128))
        return tile if tile is not None and max(height, width) > tile else None

    @property
    def scored_ids(self) -> tuple[int, ...]:
        """Class ids of the channels of `scores`."""
        return self.table.ids

    def record(self) -> dict[str, Any]:
        """What decides the results beside the weights, for JSON."""
        return {"infer": self.card.infer.model_dump(mode="json")}

    def predict(
        self, images: Sequence[np.ndarray], *, scores: bool
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Class ids (H, W) of images of one size, and with `scores` the probabilities (C, H, W)."""
        tiled = self.tile_for(images[0]) is not None
        if not scores:
            found = [self.segment(image) for image in images] if tiled else self.segment_batch(images)
            return [(ids, None) for ids in found]
        scored = [self.scores(image) for image in images] if tiled else self.scores_batch(images)
        return [(self.ids(one.argmax(axis=0)), one) for one in scored]

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Class ids of `image` (H, W, 3) uint8 RGB: (H, W) uint8, or uint16 where ids reach 255.

        Large images go through in tiles and never hold their scores as a whole; those get no CRF.
        """
        tile = self.tile_for(image)
        if tile is None:
            return self.segment_batch([image])[0]
        return self.ids(segment_tiled(self.network, image, **self._passes(), tile=tile))

    def segment_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`segment` of images of one size that need no tiles, through the network together."""
        found = self._probabilities(images)
        return [self.ids(argmax(one, dim=0).cpu().numpy()) for one in found]

    def scores(self, image: np.ndarray) -> np.ndarray:
        """Class probabilities of `image` (H, W, 3) uint8 RGB: (C, H, W) float32, after the CRF if any.

        Large images go through in tiles; those get no CRF.
        """
        tile = self.tile_for(image)
        if tile is None:
            return self.scores_batch([image])[0]
        logits = multi_scale_logits(self.network, image, **self._passes(), tile=tile)
        return logits.softmax(dim=0).numpy()

    def scores_batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`scores` of images of one size that need no tiles, through the network together."""
        return [one.cpu().numpy() for one in self._probabilities(images)]

    def ids(self, indices: np.ndarray) -> np.ndarray:
        """Class ids (H, W) of table positions (H, W)."""
        dtype = np.uint8 if self.table.ignore == 255 else np.uint16
        return np.asarray(self.table.ids, dtype=dtype)[indices]

    def _probabilities(self, images: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """(C, H, W) float32 of each image, after the CRF if any."""
        logits = multi_scale_logits_batch(self.network, images, **self._passes())
        for image, one in zip(images, logits, strict=True):
            yield self._refined(image, one.softmax(dim=0))

    def _refined(self, image: np.ndarray, probabilities: Tensor) -> Tensor:
        """The CRF's marginals (C, H, W), or the probabilities themselves when the card asks for no CRF."""
        crf = self.card.infer.crf
        if crf is False:
            return probabilities
        parameters = PUBLISHED_CRF if crf is True else crf_parameters(crf)
        # A copy, because pydensecrf refuses read-only arrays.
        refined = DenseCrf(image.copy(), channels=len(self.table), parameters=parameters)
        return torch.from_numpy(refined.infer(probabilities.cpu().numpy()))

    def _passes(self) -> dict[str, Any]:
        given, infer = self.card.input, self.card.infer
        return {
            "scales": infer.scales,
            "flip": infer.flip,
            "mean": given.mean,
            "std": given.std,
            "device": self.device,
            "size_divisor": given.size_divisor,
            "resize": given.resize,
        }


def crf_parameters(values: Mapping[str, float]) -> CrfParameters:
    """CRF parameters from the card. Raises ArtifactError for a name that does not exist."""
    try:
        return CrfParameters(**{**values, "steps": int(values.get("steps", 10))})  # type: ignore[arg-type]
    except TypeError as error:
        raise ArtifactError(f"{CARD_FILE}: infer.crf: {error}") from error
