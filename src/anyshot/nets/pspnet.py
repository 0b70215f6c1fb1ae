"""PSPNet over any backbone, as POP has it (pop.md 2.1): bins first, no dropout, a signed feature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyshot.errors import ConfigError
from anyshot.nets.contract import Backbone
from anyshot.nets.shared_norm import SharedNorm

BINS = (1, 2, 3, 6)  # cells per side of the pooled maps


class PspDecoder(nn.Module):
    """Means over 1, 2 x 2, 3 x 3 and 6 x 6 parts of the map, joined with it, and two convolutions.

    Parameters are named as in the released checkpoints: stages.{0..3}.{1,2}, bottleneck.{0,1,3}.

    Args:
        inputs: channels of the deepest map, published 2048.
        channels: channels of each pooled map and of the feature, published 512.
    """

    def __init__(self, *, inputs: int, channels: int = 512) -> None:
        super().__init__()
        self.channels = channels
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(cells),
                nn.Conv2d(inputs, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
            for cells in BINS
        )
        self.bottleneck = nn.Sequential(
            nn.Conv2d(inputs + len(BINS) * channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, deepest: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, channels, h, w), signed.

        Raises:
            ConfigError: in training with one image, whose 1 x 1 mean has no variance to be normalised by.
        """
        self._check_batch(len(deepest))
        size = deepest.shape[-2:]
        parts = [
            F.interpolate(stage(deepest), size=size, mode="bilinear", align_corners=False)
            for stage in self.stages
        ]
        return self.bottleneck(torch.cat([*parts, deepest], dim=1))

    def _check_batch(self, images: int) -> None:
        norm = self.stages[0].get_submodule("2")
        # a shared norm counts the images of all devices
        if images == 1 and norm.training and not isinstance(norm, SharedNorm):
            raise ConfigError(
                "PSPNet cannot be trained on a batch of 1 image: the mean of the whole map is normalised over"
                " the batch. Set `batch_size` to 2 or more, or lower `accumulate`"
            )


class PspNet(nn.Module):
    """Backbone and decoder: the feature q of every cell.

    Args:
        backbone: only its deepest map is used.
        channels: C, channels of the feature, published 512.
    """

    def __init__(self, *, backbone: Backbone, channels: int = 512) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = PspDecoder(inputs=backbone.channels[-1], channels=channels)
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """Feature (B, channels, h, w), signed, of normalised images (B, 3, H, W), on the deepest grid."""
        return self.pyramid(self.backbone.features(images)[-1])
