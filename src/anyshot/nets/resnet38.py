"""ResNet-38 ("wide", model A1), the backbone of PSA and RETAB (retab.md 2.1).

Pre-activation blocks: u = ReLU(BN(x)); the branch and a convolved shortcut start from u, an identity shortcut
from x. Parameter names are those of the released checkpoints. A side of s px has ceil(s / 8) cells.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from anyshot.nets.contract import Backbone

# Channels after each stage of the published network; `width` multiplies all of them.
STEM = 64
BASIC_STAGES = {
    # name: (blocks, middle channels, output channels, first block's stride, dilation, first 3x3's dilation)
    "b2": (3, 128, 128, 2, 1, 1),
    "b3": (3, 256, 256, 2, 1, 1),
    "b4": (6, 512, 512, 2, 1, 1),
    "b5": (3, 512, 1024, 1, 2, 1),
}
TOP_CHANNELS = {"b6": 2048, "b7": 4096}
TOP_DROPOUT = {"b6": 0.3, "b7": 0.5}
TOP_DILATION = 4

# Names of the layers that checkpoints of PSA and RETAB put on top; no part of the backbone.
HEADS = ("fc8", "f8_3", "f8_4", "f8_5", "f9")

# The last convolution of a branch starts this much smaller, so that 17 residual sums of a network trained
# from scratch keep their scale even when normalisation layers are frozen at the identity.
BRANCH_GAIN = 0.25


def _convolution(inputs: int, outputs: int, *, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation if size == 3 else 0
    return nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; the shortcut is convolved when channels or stride change."""

    def __init__(
        self,
        *,
        inputs: int,
        middle: int,
        outputs: int,
        stride: int = 1,
        first_dilation: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = _convolution(inputs, middle, size=3, stride=stride, dilation=first_dilation)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = _convolution(middle, outputs, size=3, dilation=dilation)
        self.conv_branch1: nn.Conv2d | None = None
        if inputs != outputs or stride != 1:
            self.conv_branch1 = _convolution(inputs, outputs, size=1, stride=stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, h, w) -> (output (B, C', h', w'), u (B, C, h, w))."""
        u = functional.relu(self.bn_branch2a(x))
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(u)
        branch = functional.relu(self.bn_branch2b1(self.conv_branch2a(u)))
        return shortcut + self.conv_branch2b1(branch), u


class BottleneckBlock(nn.Module):
    """1x1, dilated 3x3, 1x1 with channel dropout before the last two; the shortcut is always convolved."""

    def __init__(self, *, inputs: int, narrow: int, middle: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = _convolution(inputs, narrow, size=1)
        self.bn_branch2b1 = nn.BatchNorm2d(narrow)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = _convolution(narrow, middle, size=3, dilation=TOP_DILATION)
        self.bn_branch2b2 = nn.BatchNorm2d(middle)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = _convolution(middle, outputs, size=1)
        self.conv_branch1 = _convolution(inputs, outputs, size=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, h, w) -> (output (B, C', h, w), u (B, C, h, w))."""
        u = functional.relu(self.bn_branch2a(x))
        branch = functional.relu(self.bn_branch2b1(self.conv_branch2a(u)))
        branch = functional.relu(self.bn_branch2b2(self.conv_branch2b1(self.dropout_2b1(branch))))
        return self.conv_branch1(u) + self.conv_branch2b2(self.dropout_2b2(branch)), u


class ResNet38(Backbone):
    """The wide ResNet-38 of PSA and RETAB: 105.02 M convolution weights, 399.1 GMAC at 448 x 448 px.

    Feature maps: u of the first block of b4 (256 channels, stride 4), then RETAB's taps T4 = u of the first
    block of b5 (512), T5 = u of b6 (1024), T6 = ReLU(bn7) (4096), all three at stride 8.

    Args:
        width: factor on all channel counts; 1 is the published network.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        def scaled(channels: int) -> int:
            return max(4, round(channels * width))

        taps = [scaled(channels) for channels in (256, 512, 1024, 4096)]
        super().__init__(channels=taps, reductions=[4, 8, 8, 8])
        self.conv1a = _convolution(3, scaled(STEM), size=3)
        inputs = scaled(STEM)
        self._blocks: list[list[str]] = []
        for stage, (count, middle, outputs, stride, dilation, first_dilation) in BASIC_STAGES.items():
            names = [stage if index == 0 else f"{stage}_{index}" for index in range(count)]
            for index, name in enumerate(names):
                block = BasicBlock(
                    inputs=inputs,
                    middle=scaled(middle),
                    outputs=scaled(outputs),
                    stride=stride if index == 0 else 1,
                    first_dilation=first_dilation if index == 0 else dilation,
                    dilation=dilation,
                )
                self.add_module(name, block)
                inputs = scaled(outputs)
            self._blocks.append(names)
        for name, top in TOP_CHANNELS.items():
            bottleneck = BottleneckBlock(
                inputs=inputs,
                narrow=scaled(top // 4),
                middle=scaled(top // 2),
                outputs=scaled(top),
                dropout=TOP_DROPOUT[name],
            )
            self.add_module(name, bottleneck)
            inputs = scaled(top)
            self._blocks.append([name])
        self.bn7 = nn.BatchNorm2d(inputs)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        for blocks in self._blocks:
            for name in blocks:
                last = "conv_branch2b2" if name in TOP_CHANNELS else "conv_branch2b1"
                self.get_parameter(f"{name}.{last}.weight").data.mul_(BRANCH_GAIN)

    def stages(self) -> list[list[nn.Module]]:
        """conv1a, b2 (3 blocks), b3 (3), b4 (6), b5 (3), b6, b7 with bn7: the published runs freeze two."""
        stages = [["conv1a"], *self._blocks[:-1], [*self._blocks[-1], "bn7"]]
        return [
            [module for name in names for module in self.get_submodule(name).modules()] for names in stages
        ]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images (B, 3, H, W): strides 4, 8, 8, 8 with ceil(H / stride) rows."""
        x = self.conv1a(images)
        taps = []
        for names in self._blocks:
            for name in names:
                x, u = self.get_submodule(name)(x)
                if name in ("b4", "b5", "b6"):
                    taps.append(u)
        return [*taps, functional.relu(self.bn7(x))]
