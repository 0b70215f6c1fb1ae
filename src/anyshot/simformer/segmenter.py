"""`anyshot predict` and `export` with a SimFormer model folder (simformer.md 2.10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyshot.data.classes import ClassTable
from anyshot.engine.inference import multi_scale_logits, segment_tiled
from anyshot.engine.model_folder import (
    CARD_FILE,
    Card,
    CardInfer,
    SegmentationModel,
    load_network,
    read_card,
    table_of,
)
from anyshot.errors import ArtifactError, ConfigError, DataError
from anyshot.nets.maskformer import MaskFormer
from anyshot.simformer.datasets import short_side_size
from anyshot.simformer.inference import CHUNK, DIVISOR, View, fused_scores, segment, views
from anyshot.simformer.networks import NETWORK, SimFormer
from anyshot.simformer.options import Scales

BUILDERS = {NETWORK: "anyshot.simformer.networks:build_simformer"}
HELD = 64_000_000  # scores (classes times px) held at an image's own size at a time, 0.25 GB
LONGEST = 4  # times the shorter side, where the card does not say how long the longer one may be: published
PIXELS = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # with which a normalised tile is the pixels themselves
FLOOR = 1e-3  # added to a score before its logarithm: below, other programs' sigmoids are too coarse


@dataclass(frozen=True, kw_only=True)
class ProposalSegmenter:
    """A SimFormer model folder.

    Images are scaled so that their shorter side has the card's length, whatever their own size; `scales`
    change that length, and with `tile` every tile is scaled like an image of its own. Without it an image of
    any size needs the same memory but for the mask itself. The fused score of a class, sum over the
    proposals of P(class) P(mask), is no probability: the scores of a pixel need not sum to 1.
    """

    network: MaskFormer
    card: Card
    table: ClassTable
    device: torch.device

    @property
    def scored_ids(self) -> tuple[int, ...]:
        """Every class has a score per pixel."""
        return self.table.ids

    @property
    def sizes(self) -> Scales:
        """To which sizes an image is scaled, and whether its mirror image is averaged in."""
        sides, longest = card_sizes(self.card)
        infer = self.card.infer
        return Scales(
            short_sides=[max(1, round(scale * side)) for side in sides for scale in infer.scales],
            longest=round(longest * max(1.0, *infer.scales)),
            mirror=infer.flip,
        )

    def record(self) -> dict[str, Any]:
        """What decides the results beside the weights, for JSON."""
        return {"sizes": self.sizes.model_dump(mode="json"), "tile": self.card.infer.tile}

    def with_infer(self, **changes: Any) -> ProposalSegmenter:
        """The same with other `scales`, `flip` or `tile` (None = as in the card). Raises ConfigError for a
        CRF, which SimFormer has not."""
        if changes.get("crf"):
            raise ConfigError("--crf: SimFormer's masks are not refined by a CRF; leave this option out")
        given = {name: value for name, value in changes.items() if value is not None}
        infer = CardInfer.model_validate({**self.card.infer.model_dump(), **given, "crf": False})
        return replace(self, card=self.card.model_copy(update={"infer": infer}))

    def tile_for(self, image: np.ndarray) -> int | None:
        """Side of the tiles in px for `image` (H, W, 3); None when it goes through whole."""
        tile = self.card.infer.tile
        return tile if tile is not None and max(image.shape[:2]) > tile else None

    def predict(
        self, images: Sequence[np.ndarray], *, scores: bool
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Class ids (H, W) of the images, and with `scores` their fused scores (K, H, W).

        Raises DataError when the device has too little memory for one image.
        """
        try:
            return [self._predict(image, scores=scores) for image in images]
        except torch.OutOfMemoryError:
            if len(images) > 1:  # the caller tries them one by one
                raise
            raise DataError(
                f"{self.device} has too little memory for one image with a shorter side of"
                f" {max(self.sizes.short_sides)} px; use --device cpu"
            ) from None

    @torch.inference_mode()
    def _predict(self, image: np.ndarray, *, scores: bool) -> tuple[np.ndarray, np.ndarray | None]:
        tile = self.tile_for(image)
        if scores:
            found = (self._tiled_scores(image, tile) if tile else self.scores(image)).numpy()
            return self._ids(found.argmax(axis=0)), found
        if tile:
            tiled = segment_tiled(self._of_tile, image, tile=tile, **self._passes())
            return self._ids(tiled), None
        height, width = image.shape[:2]
        return self._ids(segment(self._views(image), height, width, chunk=_chunk(image))), None

    def scores(self, image: np.ndarray) -> Tensor:
        """Fused scores (K, H, W) float32 of an image (H, W, 3) that goes through whole, on the CPU."""
        found, (height, width) = self._views(image), image.shape[:2]
        every = torch.arange(len(self.table), device=self.device)
        parts = [fused_scores(found, height, width, part).cpu() for part in every.split(_chunk(image))]
        return torch.cat(parts)

    def _tiled_scores(self, image: np.ndarray, tile: int) -> Tensor:
        return multi_scale_logits(self._of_tile, image, tile=tile, **self._passes())

    def _views(self, image: np.ndarray) -> list[View]:
        given = self.card.input
        return views(
            self.network, image, scales=self.sizes, mean=given.mean, std=given.std, device=self.device
        )

    def _of_tile(self, pixels: Tensor) -> Tensor:
        """Scores (1, K, h, w) of the pixels of a tile (1, 3, h, w), 0 to 255: what is blended is scores."""
        image = pixels[0].permute(1, 2, 0).round().byte().cpu().numpy()
        return self.scores(image)[None]

    def _passes(self) -> dict[str, Any]:
        return {"scales": [1.0], "flip": False, "device": "cpu", **PIXELS}

    def _ids(self, indices: np.ndarray) -> np.ndarray:
        dtype = np.uint8 if self.table.ignore == 255 else np.uint16
        return np.asarray(self.table.ids, dtype=dtype)[indices]


class LogScores(nn.Module):
    """Fused scores s as the logits log(s + 0.001) of an ordinary segmenter.

    An image whose shorter side has the card's length is not scaled. Others are, with plain bilinear weights:
    the shrunk image of `predict` is smoother.

    Args:
        network: the MaskFormer.
        short_side, longest: px, as an image is scaled.
    """

    def __init__(self, *, network: MaskFormer, short_side: int, longest: int) -> None:
        super().__init__()
        self.network, self.short_side, self.longest = network, short_side, longest

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), not padded -> logits (B, K, H, W)."""
        own = (int(images.shape[2]), int(images.shape[3]))
        height, width = short_side_size(*own, self.short_side, self.longest)
        if (height, width) != own:
            images = F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False)
        found = self.network(F.pad(images, (0, -width % DIVISOR, 0, -height % DIVISOR)), every_layer=False)
        logits = found.mask_logits[-1]
        whole = [height + -height % DIVISOR, width + -width % DIVISOR]
        masks = F.interpolate(logits, size=whole, mode="bilinear", align_corners=False).sigmoid()
        classes = found.class_logits[-1].softmax(dim=-1)[..., :-1]
        scores = torch.einsum("bqc,bqhw->bchw", classes, masks[..., :height, :width])
        if (height, width) != own:
            scores = F.interpolate(scores, size=own, mode="bilinear", align_corners=False)
        return (scores + FLOOR).log()


def _chunk(image: np.ndarray) -> int:
    """Classes whose scores are held at the size of an image (H, W, 3) at a time."""
    return min(CHUNK, max(1, HELD // (image.shape[0] * image.shape[1])))


def card_sizes(card: Card) -> tuple[list[int], int]:
    """px of the shorter side, one or several, and px that the longer side never exceeds.

    The card's `short_sides`, else the side of the training's crops; its `longest`, else four times that, as
    published. Raises ArtifactError where the card has neither, or something else than whole numbers.
    """
    further = card.model_extra or {}
    sides = further.get("short_sides") or ([card.input.size] if card.input.size else [])
    longest = further.get("longest") or LONGEST * max([1, *sides])
    if not sides:
        raise ArtifactError(
            f"{CARD_FILE} has no `size` under `input`, the px to which the shorter side of an image is"
            " scaled: write it in, it is the crop of the training (640 is published), or train again"
        )
    if not all(isinstance(value, int) and value > 0 for value in (*sides, longest)):
        raise ArtifactError(
            f"{CARD_FILE}: `short_sides` is {sides}, `longest` {longest}; expected whole numbers of px"
        )
    return list(sides), longest


def load_segmenter(folder: Path, device: torch.device | str) -> ProposalSegmenter:
    """Load a SimFormer model folder. Raises ArtifactError or WeightsError."""
    card = read_card(folder)
    table = table_of(card)
    card_sizes(card)  # says what is missing before the first image is read
    if card.network.options.get("classes") != len(table):
        raise ArtifactError(
            f"the card of {folder} contradicts itself: its network has {card.network.options.get('classes')}"
            f" classes, {len(table)} are listed; copy the whole folder again"
        )
    network = load_network(folder, card, device, builders=BUILDERS)
    assert isinstance(network, SimFormer)
    return ProposalSegmenter(network=network.maskformer, card=card, table=table, device=torch.device(device))


def load_plain(folder: Path, device: torch.device | str) -> SegmentationModel:
    """A SimFormer model folder as an ordinary segmenter: its logits are logarithms of the fused scores.

    Raises ArtifactError or WeightsError.
    """
    loaded = load_segmenter(folder, device)
    (side, *_), longest = card_sizes(loaded.card)
    network = LogScores(network=loaded.network, short_side=side, longest=longest)
    return SegmentationModel(
        network=network.eval(), card=loaded.card, table=loaded.table, device=loaded.device
    )
