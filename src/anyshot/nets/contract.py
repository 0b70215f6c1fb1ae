"""What every backbone offers to the systems above it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from anyshot.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NORM_LAYERS: tuple[type[nn.Module], ...] = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class Backbone(nn.Module):
    """A network that turns an image into feature maps, finest first.

    Attributes:
        channels: channels of each feature map.
        reductions: px of the input per cell of each feature map, never below 4, never falling. A side of s px
            has about s / reduction cells, rounded up by most networks and down by some.
        mean, std: normalisation of the three RGB channels, for images in [0, 1].
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        reductions: Sequence[int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.channels = [int(count) for count in channels]
        self.reductions = [int(reduction) for reduction in reductions]
        self.mean = [float(value) for value in mean]
        self.std = [float(value) for value in std]
        self.memory_format = torch.contiguous_format
        self._frozen_norms: list[nn.Module] = []

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C_i, H_i, W_i) of normalised images (B, 3, H, W), finest first."""
        return self.maps(images.contiguous(memory_format=self.memory_format))

    def maps(self, images: Tensor) -> list[Tensor]:
        """What `features` gives, for images that lie in memory as `memory_format` says."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> list[Tensor]:
        """The same as `features`."""
        return self.features(images)

    def stages(self) -> list[list[nn.Module]]:
        """The network's modules in the order they run, cut where `frozen_stages` counts.

        Every module stands there for its direct parameters only; its children stand for themselves.
        """
        raise NotImplementedError

    def choose_memory_format(self) -> None:
        """Put channels innermost in memory where that is faster on CPUs: with depthwise convolutions.

        Not with 1x1 convolutions of stride 2: on CPUs oneDNN's backward pass of these writes out of bounds in
        that format when channels are few (seen with torch 2.15).
        """
        convolutions = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        depthwise = any(layer.groups == layer.in_channels > 1 for layer in convolutions)
        strided = any(layer.kernel_size == (1, 1) and layer.stride != (1, 1) for layer in convolutions)
        if depthwise and not strided:
            self.memory_format = torch.channels_last
            self.to(memory_format=torch.channels_last)

    def freeze(self, *, norm: bool, stages: int) -> None:
        """Take parameters out of training.

        Args:
            norm: all normalisation layers keep their statistics and affine parameters, also under `.train()`.
            stages: leading stages of which no weight is trained; their normalisation layers are frozen too.

        Raises:
            ConfigError: the network has fewer stages.
        """
        available = self.stages()
        if stages > len(available):
            raise ConfigError(
                f"frozen_stages is {stages}, but {type(self).__name__} has {len(available)} stages:"
                f" allowed are 0 to {len(available)}"
            )
        frozen = [module for stage in available[:stages] for module in stage]
        if norm:
            frozen += [module for module in self.modules() if isinstance(module, NORM_LAYERS)]
        for module in frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
        self._frozen_norms = [module for module in frozen if isinstance(module, NORM_LAYERS)]
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As in torch, except that frozen normalisation layers stay in evaluation mode."""
        super().train(mode)
        for layer in self._frozen_norms:
            layer.training = False
        return self
