"""DeepLabV3+ over any backbone, with the one 3x3 convolution of RAML's decoder (raml.md 2.0)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyshot.errors import ConfigError
from anyshot.nets.contract import Backbone

LOW_REDUCTION = 4  # px per cell of the map that the decoder refines on
DROPOUT = 0.1  # published
RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3, and the image's mean, joined and projected.

    Args:
        inputs: channels of the deepest map.
        channels: channels of each branch and of the result.
        rates: dilations of the three 3x3 branches, cells.
        dropout: probability after the projection.
    """

    def __init__(
        self, *, inputs: int, channels: int, rates: tuple[int, ...], dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        branches = [_block(inputs, channels, 1)]
        branches += [_block(inputs, channels, 3, dilation=rate) for rate in rates]
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_block(inputs, channels, 1))
        self.convs = nn.ModuleList([*branches, pooled])
        self.project = nn.Sequential(*_block(channels * len(self.convs), channels, 1), nn.Dropout(dropout))

    def forward(self, deepest: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, channels, h, w)."""
        parts = [branch(deepest) for branch in self.convs[:-1]]
        pooled = self.convs[-1](deepest)
        parts.append(pooled.expand(-1, -1, *deepest.shape[-2:]))  # a bilinear resize of one cell
        return self.project(torch.cat(parts, dim=1))


class DeepLab(nn.Module):
    """Backbone, pyramid and decoder up to the feature on the quarter grid.

    Args:
        backbone: its finest map must have 4 px per cell, its deepest one 8, 16 or 32.
        channels: channels of the pyramid and of the feature, published 256.
        low_channels: channels to which the finest map is reduced, published 48.
        dropout: probability after the pyramid, published 0.1.

    Raises:
        ConfigError: the backbone has no such maps.
    """

    def __init__(
        self, *, backbone: Backbone, channels: int = 256, low_channels: int = 48, dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        if backbone.reductions[0] != LOW_REDUCTION or backbone.reductions[-1] not in RATES:
            raise ConfigError(
                f"DeepLabV3+ needs a backbone map at {LOW_REDUCTION} px per cell and its deepest at"
                f" {', '.join(map(str, RATES))}; this one gives {backbone.reductions} px: choose another"
                " `name` or `output_stride`"
            )
        self.backbone = backbone
        self.project = nn.Sequential(*_block(backbone.channels[0], low_channels, 1))
        self.aspp = Pyramid(
            inputs=backbone.channels[-1],
            channels=channels,
            rates=RATES[backbone.reductions[-1]],
            dropout=dropout,
        )
        self.fuse = _block(channels + low_channels, channels, 3)
        self.channels = channels
        initialise(self.project, self.aspp, self.fuse)

    def forward(self, images: Tensor) -> Tensor:
        """Feature (B, channels, h, w), not negative, of normalised images (B, 3, H, W); h is about H / 4."""
        maps = self.backbone.features(images)
        low = self.project(maps[0])
        context = self.aspp(maps[-1])
        context = F.interpolate(context, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return self.fuse(torch.cat([low, context], dim=1))


def initialise(*modules: nn.Module) -> None:
    """Kaiming normal (fan-in, gain sqrt 2) on the weights of all convolutions, norms at 1 and 0."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)


def _block(inputs: int, outputs: int, size: int, *, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias, norm, ReLU; the size of the map stays."""
    padding = dilation * (size // 2)
    conv = nn.Conv2d(inputs, outputs, size, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())
