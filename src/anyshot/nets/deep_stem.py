"""ResNet-50 with three 3x3 convolutions at its start, as semseg and POP have it (pop.md 2.1).

timm's `resnet50s` is this network but for one thing: where strides become dilations, it dilates the first
block of a stage like the stage before. Here, as in semseg, all blocks of a stage are dilated alike.

Published results start from semseg's file resnet50_v2.pth, which is read in its own names. `weights: timm`
are Gluon's of this architecture: not the published start.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

DEEP_STEM = "resnet50_v2"
TIMM_NAME = "resnet50s"

# semseg's names of the stem -> timm's
STEM = {
    "conv1.": "conv1.0.",
    "bn1.": "conv1.1.",
    "conv2.": "conv1.3.",
    "bn2.": "conv1.4.",
    "conv3.": "conv1.6.",
    "bn3.": "bn1.",
}
BODY = "body."  # our feature network's prefix of timm's names


def timm_name(name: str) -> str:
    """The timm model that `name` is made from: `name` itself for all networks but this one."""
    return TIMM_NAME if name == DEEP_STEM else name


def dilate_whole_stages(network: nn.Module) -> None:
    """Give all 3x3 convolutions of each stage of a ResNet the dilation of its last one."""
    for name, stage in network.named_children():
        if not name.startswith("layer"):
            continue
        convolutions = [
            layer for layer in stage.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
        ]
        for layer in convolutions:
            layer.dilation = convolutions[-1].dilation
            layer.padding = convolutions[-1].padding


def from_semseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state in semseg's names, which are POP's below `backbone.`, in timm's; any other as it is."""
    if "conv2.weight" not in state:
        return dict(state)
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    for theirs, ours in STEM.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def semseg_name(name: str) -> str:
    """Our name of a tensor, `body.` first, -> semseg's."""
    name = name.removeprefix(BODY)
    for theirs, ours in STEM.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
