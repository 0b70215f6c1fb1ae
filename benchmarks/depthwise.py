"""Depthwise convolutions trained on a CPU: our gradients (nets/depthwise.py) against torch's own.

    python benchmarks/depthwise.py [--small] [--threads N]

Layers of EfficientNet-Lite0 forward and backward, 8 images of 192 px: `early`, 3 x 3 on 48 x 48 cells, and
`middle`, 5 x 5 on 24 x 24, with channels outermost in memory (undilated layers with channels innermost are
torch's own); `dilated`, 5 x 5 at dilation 2 on 12 x 12, channels innermost as backbones keep them; and
`backbone`, the whole network at output stride 16, with the gradients of all its weights.
Either way of an item runs in a process of its own (with `--small` in this one), on the same input. The last
line is JSON. Exit status 1 when, in the full form, the dilated layer or the whole network is no faster, or a
result differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measuring import Item, compared, print_table, too_different
from torch import Tensor, nn

from anyshot.nets.backbones import build_backbone
from anyshot.nets.depthwise import Depthwise
from anyshot.options import BackboneOptions

THREADS = 1
ALLOWED = {"relative_difference": 1e-3, "gradient_difference": 1e-3}  # float32 sums of up to 18,432 products
LAYERS = {"early": (144, 48, 3, 1), "middle": (240, 24, 5, 1), "dilated": (1152, 12, 5, 2)}


def layer_and_images(
    channels: int, cells: int, kernel: int, dilation: int, small: bool
) -> tuple[Depthwise, Tensor]:
    """A layer that keeps the size, and images (8, channels, cells, cells)."""
    torch.manual_seed(0)
    channels, cells = (4, 6) if small else (channels, cells)
    layout = torch.channels_last if dilation > 1 else torch.contiguous_format
    layer = Depthwise(
        channels,
        channels,
        kernel,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        groups=channels,
        bias=False,
    )
    images = torch.randn(8, channels, cells, cells).to(memory_format=layout)
    return layer.to(memory_format=layout), images.requires_grad_()


def backbone_and_images(small: bool) -> tuple[nn.Module, Tensor]:
    """EfficientNet-Lite0 at output stride 16, random weights, and images (8, 3, 192, 192)."""
    torch.manual_seed(0)
    options = BackboneOptions(
        name="tf_efficientnet_lite0", weights="none", output_stride=16, freeze_norm=True, frozen_stages=0
    )
    side, images = (32, 1) if small else (192, 8)
    return build_backbone(options).train(), torch.randn(images, 3, side, side).requires_grad_()


def ours(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The output, and the gradients of the images and of all weights."""
    found = network(images)
    found = found if isinstance(found, Tensor) else found[-1]
    slopes = torch.linspace(-1, 2, found.numel()).view_as(found)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    return [found.detach(), *torch.autograd.grad(found, [images, *weights], slopes)]


def torchs(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The same with torch's layers in place of ours."""
    for module in network.modules():
        if isinstance(module, Depthwise):
            module.__class__ = nn.Conv2d
    return ours(network, images)


def differences(expected: list[Tensor], found: list[Tensor]) -> dict[str, float]:
    """Of the output the largest difference relative to its largest value; of the gradients the Euclidean
    length of the difference relative to that of the gradient."""
    apart = (expected[0] - found[0]).abs().max()
    slopes = [(a, b) for a, b in zip(expected[1:], found[1:], strict=True) if a.any() or b.any()]
    return {
        "max_abs_difference": apart.item(),
        "relative_difference": (apart / expected[0].abs().max()).item(),
        "gradient_difference": max(((a - b).norm() / a.norm()).item() for a, b in slopes),
    }


ITEMS = {
    **{name: Item(partial(layer_and_images, *sizes), torchs, ours) for name, sizes in LAYERS.items()},
    "backbone": Item(backbone_and_images, torchs, ours),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny inputs, to see that it runs")
    parser.add_argument("--threads", type=int, default=THREADS, metavar="N")
    arguments = parser.parse_args()
    rows = [
        compared(
            name, item, small=arguments.small, threads=arguments.threads, runs=(5, 5),
            apart=not arguments.small, differences=differences,
        )
        for name, item in ITEMS.items()
    ]  # fmt: skip
    print_table(rows)
    found = too_different(rows, ALLOWED)
    if not arguments.small:
        found += [f"{row['item']}: not faster" for row in rows[2:] if row["ratio"] <= 1]
    for line in found:
        print(f"FAILED: {line}")
    result = {"items": rows, "threads": arguments.threads, "device": "cpu"}
    print(json.dumps({"benchmark": "depthwise", "small": arguments.small, **rows[-1], **result}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
