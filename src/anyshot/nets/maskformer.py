"""MaskFormer over any backbone with a map of stride 4 (simformer.md 2.1; arXiv 2107.06278).

A pixel decoder gives every cell of stride 4 an embedding. A transformer decoder turns learnt queries into
proposals, each with class logits and a mask embedding; its product with a cell is the cell's mask logit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from anyshot.errors import ConfigError
from anyshot.nets.contract import Backbone
from anyshot.ops.precision import full

STRIDES = (4, 8, 16, 32)  # of the maps in use, px; the first one is that of the masks
GROUPS = 32  # of every GroupNorm
TEMPERATURE = 10000.0
EPSILON = 1e-6


class Proposals(NamedTuple):
    """Classes and masks of every query, after every decoder layer or after the last alone; all float32.

    class_logits: (L, B, Q, K + 1), the last one is `no object`.
    mask_logits: (L, B, Q, h, w) at stride 4, of which `sigmoid` is the chance that a cell belongs to the
        mask; a view of memory in which images are outermost.
    pixels: (B, C, h, w), the embeddings E of the cells.
    """

    class_logits: Tensor
    mask_logits: Tensor
    pixels: Tensor


def sine_position(height: int, width: int, *, channels: int, device: torch.device | None = None) -> Tensor:
    """The position code of a map: (channels, height, width) float32, rows in the first half, then columns.

    Coordinates 1..n become angles up to 2 pi; features 2k and 2k + 1 of an axis are sine and cosine of the
    angle / 10000^(2k / F), F = channels / 2 (simformer.md 2.1). `channels` is a multiple of 4.
    """
    features = channels // 2
    steps = torch.arange(0, features, 2, device=device, dtype=torch.float32)
    periods = TEMPERATURE ** (steps / features)

    def axis(cells: int) -> Tensor:
        places = torch.arange(1, cells + 1, device=device, dtype=torch.float32)
        angles = places / (cells + EPSILON) * 2 * math.pi / periods[:, None]
        return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)  # (F, cells)

    rows = axis(height)[:, :, None].expand(-1, -1, width)
    columns = axis(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])


def _initialised(layer: nn.Conv2d) -> nn.Conv2d:
    """Kaiming-uniform with a = 1, bias 0."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _normed(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(_initialised(conv), nn.GroupNorm(GROUPS, outputs))


class PixelDecoder(nn.Module):
    """A feature pyramid from the deepest map up to stride 4, and the embedding of each of its cells.

    Args:
        channels: of the maps, finest first.
        width: channels of every map of the pyramid and of the embeddings; a multiple of 32.
    """

    def __init__(self, *, channels: Sequence[int], width: int) -> None:
        super().__init__()
        *finer, deepest = channels
        self.stem = _normed(deepest, width, 3)
        self.lateral = nn.ModuleList(_normed(count, width, 1) for count in finer)
        self.output = nn.ModuleList(_normed(width, width, 3) for _ in finer)
        self.embed = _initialised(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, h_i, w_i), finest first -> embeddings (B, width, h_0, w_0), signed."""
        *finer, deepest = maps
        state = functional.relu(self.stem(deepest))
        for lateral, output, feature in zip(
            reversed(self.lateral), reversed(self.output), reversed(finer), strict=True
        ):
            coarser = functional.interpolate(state, size=feature.shape[-2:], mode="nearest")
            state = functional.relu(output(lateral(feature) + coarser))
        return self.embed(state)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward part, each followed by sum and norm (post-norm)."""

    def __init__(self, *, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.expand = nn.Linear(width, feedforward)
        self.contract = nn.Linear(feedforward, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.drop = nn.Dropout(dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, state: Tensor, queries: Tensor, keys: Tensor, memory: Tensor) -> Tensor:
        """state, queries: (B, Q, W); keys, memory: (B, cells, W) -> the next state (B, Q, W)."""
        placed = state + queries
        found = self.self_attention(placed, placed, state, need_weights=False)[0]
        state = self.norms[0](state + self.drop(found))
        found = self.cross_attention(state + queries, keys, memory, need_weights=False)[0]
        state = self.norms[1](state + self.drop(found))
        hidden = self.drop(functional.relu(self.expand(state)))
        return self.norms[2](state + self.drop(self.contract(hidden)))


class Predictor(nn.Module):
    """Queries -> class logits and mask embeddings; norm and heads are shared by all layers.

    Args:
        inputs: channels of the backbone's deepest map.
        classes: K, without `no object`.
        queries, width, layers, heads, feedforward, dropout: as in `MaskFormer`.
    """

    def __init__(
        self,
        *,
        inputs: int,
        classes: int,
        queries: int,
        width: int,
        layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.memory = _initialised(nn.Conv2d(inputs, width, 1))
        self.queries = nn.Embedding(queries, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width=width, heads=heads, feedforward=feedforward, dropout=dropout)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, deepest: Tensor, *, every_layer: bool) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> class logits (L, B, Q, K + 1) and mask embeddings (L, B, Q, W)."""
        projected = self.memory(deepest)
        code = sine_position(*projected.shape[2:], channels=projected.shape[1], device=projected.device)
        memory = projected.flatten(2).transpose(1, 2)
        keys = memory + code.flatten(1).T
        queries = self.queries.weight.expand(len(deepest), -1, -1)
        state = torch.zeros_like(queries)
        states = []
        for layer in self.layers:
            state = layer(state, queries, keys, memory)
            states.append(state)
        # The next layer goes on from the state itself; only what is read from it is normalised.
        read = self.norm(torch.stack(states if every_layer else states[-1:]))
        return self.classify(read), self.mask_embed(read)


class MaskFormer(nn.Module):
    """Proposals of normalised images.

    Args:
        backbone: of each stride among 4, 8, 16 and 32 its deepest map is used; 4 must be there.
        classes: K, without `no object`.
        queries: Q, proposals per image.
        width: channels of embeddings, queries and memory; a multiple of 32 and of `heads`.
        layers: L, layers of the transformer decoder.
        heads: of every attention.
        feedforward: hidden units of each layer's feed-forward part.
        dropout: on attention weights, after both attentions, inside and after the feed-forward part.

    Raises:
        ConfigError: the backbone has no map of stride 4, or the width is no such multiple.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        classes: int,
        queries: int = 100,
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if width % GROUPS or width % heads:
            raise ConfigError(
                f"MaskFormer's width is {width}: it must be a multiple of {GROUPS} and of its {heads} heads"
            )
        self._used = _maps_in_use(backbone)
        channels = [backbone.channels[index] for index in self._used]
        self.backbone = backbone
        self.pixel_decoder = PixelDecoder(channels=channels, width=width)
        self.predictor = Predictor(
            inputs=channels[-1],
            classes=classes,
            queries=queries,
            width=width,
            layers=layers,
            heads=heads,
            feedforward=feedforward,
            dropout=dropout,
        )

    def forward(self, images: Tensor, *, every_layer: bool = True) -> Proposals:
        """Proposals of normalised images (B, 3, H, W); sides of any length, H = 4 h where 32 divides H.

        every_layer: after each of the decoder's layers, for training; False: the last one alone, L = 1.
        """
        maps = self.backbone(images)
        used = [maps[index] for index in self._used]
        pixels = self.pixel_decoder(used)
        class_logits, embeddings = self.predictor(used[-1], every_layer=every_layer)
        return Proposals(full(class_logits), full(_masks(embeddings, pixels)), full(pixels))


def _masks(embeddings: Tensor, pixels: Tensor) -> Tensor:
    """(L, B, Q, C) and (B, C, h, w) -> (L, B, Q, h, w), one product per image for all layers."""
    layers, _, queries, _ = embeddings.shape
    stacked = embeddings.transpose(0, 1).flatten(1, 2)
    products = torch.bmm(stacked, pixels.flatten(2))
    return products.unflatten(2, pixels.shape[2:]).unflatten(1, (layers, queries)).transpose(0, 1)


def _maps_in_use(backbone: Backbone) -> list[int]:
    """Index of the deepest map of each stride, finest first. Raises ConfigError without a stride 4."""
    deepest = {reduction: index for index, reduction in enumerate(backbone.reductions)}
    if STRIDES[0] not in deepest:
        raise ConfigError(
            f"MaskFormer needs a feature map of stride {STRIDES[0]}, but the backbone has the strides"
            f" {', '.join(map(str, backbone.reductions))}: choose another one, e.g. resnet50"
        )
    return [deepest[stride] for stride in STRIDES if stride in deepest]
