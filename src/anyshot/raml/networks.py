"""RAML's networks: DeepLabV3+ with a closed and a meta head, and the embedding of regions (raml.md 2.0,
2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyshot.nets.backbones import build_backbone
from anyshot.nets.deeplab import DROPOUT, DeepLab, initialise
from anyshot.options import BackboneOptions, OptimiserOptions

BACKBONE_NORM_MOMENTUM = 0.01
Activation = Literal["sigmoid", "softmax"]


class OpenMaps(NamedTuple):
    """What the network says on the quarter grid."""

    logits: Tensor  # u (B, K, h, w)
    channels: Tensor  # c (B, K + M, h, w) in [0, 1], known first
    feature: Tensor  # F (B, 256, h, w), not negative


class OpenNet(nn.Module):
    """Feature, closed head on it, and meta head on the closed logits (raml.md 2.0).

    Args:
        deeplab: gives the feature.
        known: K, number of known classes.
        meta: M, number of meta channels.
        activation: `sigmoid` as the official code, `softmax` as the paper.
    """

    def __init__(
        self, *, deeplab: DeepLab, known: int, meta: int, activation: Activation = "sigmoid"
    ) -> None:
        super().__init__()
        self.deeplab = deeplab
        self.known, self.meta, self.activation = known, meta, activation
        self.closed = nn.Conv2d(deeplab.channels, known, 1)
        self.meta_head = nn.Conv2d(known, known + meta, 1)
        initialise(self.closed, self.meta_head)

    def forward(self, images: Tensor) -> OpenMaps:
        """Maps on the quarter grid of normalised images (B, 3, H, W)."""
        feature = self.deeplab(images)
        logits = self.closed(feature)
        scores = self.meta_head(logits)
        channels = scores.sigmoid() if self.activation == "sigmoid" else scores.softmax(dim=1)
        return OpenMaps(logits, channels, feature)


class ClosedLogits(nn.Module):
    """The network as an ordinary segmenter of the known classes, for `anyshot predict`."""

    def __init__(self, network: OpenNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, h, w) on the quarter grid."""
        return self.network(images).logits


class RegionEmbedding(nn.Module):
    """D: two linear layers that embed a region's mean feature, and a classifier W for its training.

    `known_prototypes` (K, D), mean unit embedding of each known class, is filled after the training.
    """

    known_prototypes: Tensor

    def __init__(self, *, inputs: int, hidden: int, embedding: int, known: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, embedding))
        self.classifier = nn.Linear(embedding, known, bias=False)
        self.register_buffer("known_prototypes", torch.zeros(known, embedding))

    def forward(self, vectors: Tensor) -> Tensor:
        """Embeddings (N, D), not normalised, of mean features (N, inputs)."""
        return self.layers(vectors)

    def unit(self, vectors: Tensor) -> Tensor:
        """Embeddings of unit length (N, D)."""
        return F.normalize(self(vectors.float()), dim=1)


class MetricNet(nn.Module):
    """The frozen network and the embedding that is trained on its features, together in one file."""

    def __init__(self, *, network: OpenNet, embedding: RegionEmbedding) -> None:
        super().__init__()
        self.network, self.embedding = network, embedding
        self.network.requires_grad_(False)

    def train(self, mode: bool = True) -> MetricNet:
        """As in torch, except that the frozen network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    @overload
    def forward(self, inputs: Tensor) -> OpenMaps: ...

    @overload
    def forward(self, inputs: Tensor, *, embed: bool) -> tuple[Tensor, Tensor]: ...

    def forward(self, inputs: Tensor, *, embed: bool = False) -> OpenMaps | tuple[Tensor, Tensor]:
        """The frozen network's maps of images (B, 3, H, W), without gradient; or, with `embed`, embeddings
        (N, D), not normalised, and class scores W e (N, K) of mean features (N, inputs)."""
        if embed:
            embeddings = self.embedding(inputs)
            return embeddings, self.embedding.classifier(embeddings)
        with torch.no_grad():
            return self.network(inputs)


def build_open_net(options: Mapping[str, Any], *, load: bool) -> OpenNet:
    """The network of a model card's options; `load` = take the backbone's initial weights too."""
    backbone = build_backbone(BackboneOptions.model_validate(options["backbone"]), load=load)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BACKBONE_NORM_MOMENTUM
    deeplab = DeepLab(
        backbone=backbone,
        channels=options["channels"],
        low_channels=options["low_channels"],
        dropout=options.get("dropout", DROPOUT),  # imported networks name none
    )
    return OpenNet(
        deeplab=deeplab, known=options["known"], meta=options["meta"], activation=options["activation"]
    )


def build_metric_net(options: Mapping[str, Any], *, load: bool) -> MetricNet:
    """The network with its embedding, of a model card's options."""
    network = build_open_net(options, load=load)
    embedding = RegionEmbedding(
        inputs=options["channels"],
        hidden=options["hidden"],
        embedding=options["embedding"],
        known=options["known"],
    )
    return MetricNet(network=network, embedding=embedding)


def build_network(network: Mapping[str, Any], *, load: bool) -> nn.Module:
    """Build a network from its card, {"name", "options"}."""
    builder = {"raml_open": build_open_net, "raml_metric": build_metric_net}[network["name"]]
    return builder(network["options"], load=load)


def parameter_groups(
    model: nn.Module, options: OptimiserOptions, *, meta_multiplier: float = 1.0
) -> list[dict[str, Any]]:
    """Trainable parameters with their lr `scale`: backbone 1, heads `head_multiplier`, and the meta head that
    times `meta_multiplier`; all decay alike."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0 if "backbone." in name else options.head_multiplier
        if name.startswith("meta_head."):
            scale *= meta_multiplier
        groups.setdefault(scale, []).append(parameter)
    return [{"params": params, "scale": scale} for scale, params in groups.items()]
