"""The four networks of RETAB (retab.md 2.3, 2.6, 2.8, 4): a backbone and a small head each.

The last three feature maps of the backbone are the taps T4, T5, T6. With ResNet-38 all three lie at stride 8,
as published; with other backbones coarser taps are brought to the finest one bilinearly.
Head names are those of the official checkpoints (fc8; f8_3, f8_4, f8_5, f9).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyshot.errors import ConfigError
from anyshot.nets.backbones import Backbone, build_backbone
from anyshot.options import BackboneOptions, OptimiserOptions

GRID = 8  # px per cell of the affinity and boundary grids


class ClassificationNet(nn.Module):
    """Image labels by a 1x1 convolution on T6 and global averaging; its maps are the CAMs."""

    def __init__(self, *, backbone: Backbone, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout2d(dropout)
        self.fc8 = nn.Conv2d(backbone.channels[-1], classes, 1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, H, W)."""
        deepest = self.dropout(self.backbone.features(images)[-1])
        return self.fc8(deepest.mean(dim=(2, 3), keepdim=True)).flatten(1)

    def activation_maps(self, images: Tensor) -> Tensor:
        """ReLU of the class scores of every cell, (B, K, h, w)."""
        return self.fc8(self.backbone.features(images)[-1]).relu()


class TapBranches(nn.Module):
    """Three 1x1 convolutions with ELU on the taps, brought to the finest tap's grid and joined."""

    def __init__(self, *, backbone: Backbone, channels: Sequence[int]) -> None:
        super().__init__()
        if len(backbone.channels) < 3 or backbone.reductions[-3] != GRID:
            raise ConfigError(
                f"RETAB takes the backbone's last three maps and needs the finest at {GRID} px per"
                " cell; this one"
                f" gives {backbone.reductions} px: choose another `name` or `output_stride`"
            )
        self.backbone = backbone
        inputs = backbone.channels[-3:]
        self.f8_3, self.f8_4, self.f8_5 = (
            nn.Conv2d(wide, narrow, 1, bias=False) for wide, narrow in zip(inputs, channels, strict=True)
        )
        for branch in (self.f8_3, self.f8_4, self.f8_5):
            nn.init.kaiming_normal_(branch.weight)

    def joined(self, images: Tensor) -> Tensor:
        """Joined branches (B, sum(channels), h, w) at stride 8."""
        taps = self.backbone.features(images)[-3:]
        size = taps[0].shape[-2:]
        branches = [
            F.elu(conv(tap)) for conv, tap in zip((self.f8_3, self.f8_4, self.f8_5), taps, strict=True)
        ]
        return torch.cat([_resized(branch, size) for branch in branches], dim=1)


class BoundaryNet(TapBranches):
    """Logit of "a contour passes here" at stride 8 (retab.md 2.6)."""

    def __init__(self, *, backbone: Backbone, channels: Sequence[int], initial_gain: float = 4.0) -> None:
        super().__init__(backbone=backbone, channels=channels)
        self.f9 = nn.Conv2d(sum(channels), 1, 1, bias=False)
        nn.init.xavier_uniform_(self.f9.weight, gain=initial_gain)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 1, h, w) at stride 8."""
        return self.f9(self.joined(images))


def upsample_boundary(logits: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Logits (B, 1, h, w) -> (B, H, W), with aligned corners as the official weights expect (P25)."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True).squeeze(1)


class AffinityNet(TapBranches):
    """Features whose mean L1 distance is minus the log affinity (retab.md 2.8)."""

    def __init__(self, *, backbone: Backbone, channels: Sequence[int], initial_gain: float = 4.0) -> None:
        super().__init__(backbone=backbone, channels=channels)
        self.f9 = nn.Conv2d(sum(channels), sum(channels), 1, bias=False)
        nn.init.xavier_uniform_(self.f9.weight, gain=initial_gain)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, sum(channels), h, w) at stride 8."""
        return F.elu(self.f9(self.joined(images)))


class SegmentationNet(nn.Module):
    """Two dilated 3x3 convolutions on T6 (retab.md 4); with `skip_channels` the finer taps join before the
    second."""

    def __init__(
        self,
        *,
        backbone: Backbone,
        classes: int,
        channels: int = 512,
        dilation: int = 12,
        skip_channels: int = 0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.channels[-1], channels, 3, padding=dilation, dilation=dilation)
        skips = backbone.channels[-3:-1] if skip_channels else []
        self.skips = nn.ModuleList(nn.Conv2d(wide, skip_channels, 1) for wide in skips)
        last = 1 if skip_channels else dilation
        joined = channels + skip_channels * len(skips)
        self.classifier = nn.Conv2d(joined, classes, 3, padding=last, dilation=last)
        for conv in (self.head, *self.skips, self.classifier):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C, h, w) at the stride of T6, or of the finest tap with `skip_channels`."""
        taps = self.backbone.features(images)[-3:]
        hidden = self.head(taps[-1]).relu()
        if len(self.skips):
            size = taps[0].shape[-2:]
            finer = [
                _resized(skip(tap).relu(), size) for skip, tap in zip(self.skips, taps[:-1], strict=True)
            ]
            hidden = torch.cat([_resized(hidden, size), *finer], dim=1)
        return self.classifier(hidden)


def _resized(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def build_network(network: Mapping[str, Any], *, load: bool) -> nn.Module:
    """Build a network from its card, {"name", "options"}. `load` = take the backbone's initial weights too.

    Raises ConfigError for an unknown name.
    """
    builders = {
        "retab_classifier": _classifier,
        "retab_boundary": _boundary,
        "retab_affinity": _affinity,
        "retab_segmentation": _segmentation,
    }
    if network["name"] not in builders:
        raise ConfigError(f"unknown RETAB network {network['name']!r}, known: {', '.join(builders)}")
    options = dict(network["options"])
    backbone = build_backbone(BackboneOptions.model_validate(options.pop("backbone")), load=load)
    return builders[network["name"]](backbone, options)


def _classifier(backbone: Backbone, options: Mapping[str, Any]) -> nn.Module:
    return ClassificationNet(backbone=backbone, classes=options["classes"], dropout=options["dropout"])


def _boundary(backbone: Backbone, options: Mapping[str, Any]) -> nn.Module:
    channels, gain = options["branch_channels"], options["initial_gain"]
    return BoundaryNet(backbone=backbone, channels=channels, initial_gain=gain)


def _affinity(backbone: Backbone, options: Mapping[str, Any]) -> nn.Module:
    channels, gain = options["branch_channels"], options["initial_gain"]
    return AffinityNet(backbone=backbone, channels=channels, initial_gain=gain)


def _segmentation(backbone: Backbone, options: Mapping[str, Any]) -> nn.Module:
    return SegmentationNet(
        backbone=backbone,
        classes=options["classes"],
        channels=options["head_channels"],
        dilation=options["head_dilation"],
        skip_channels=options["skip_channels"],
    )


def build_segmentation(options: Mapping[str, Any]) -> nn.Module:
    """The segmenter from the options in its model card, without weights (for `anyshot predict`)."""
    return build_network({"name": "retab_segmentation", "options": options}, load=False)


def parameter_groups(model: nn.Module, options: OptimiserOptions) -> list[dict[str, Any]]:
    """Four groups of trainable parameters with their lr `scale` (retab.md 2.2).

    Backbone weights x1, backbone biases x2, head weights x head_multiplier, head biases x 2 head_multiplier;
    weight decay on weights of at least two dimensions only.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = 1.0 if name.startswith("backbone.") else options.head_multiplier
        if name.endswith("bias"):
            scale *= 2
        decay = options.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    return [
        {"params": params, "scale": scale, "weight_decay": decay} for (scale, decay), params in groups.items()
    ]


def count_parameters(module: nn.Module) -> int:
    """Number of weights and biases."""
    return sum(math.prod(parameter.shape) for parameter in module.parameters())
