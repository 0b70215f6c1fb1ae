"""Jobs, files, bytes and hours of every stage for so many images, computed by `scale_formulas.py`.

    python benchmarks/scale_costs.py                # the tables of docs/scale.md
    python benchmarks/scale_costs.py --config config/paper/pop_coco.yaml --train 20000 --evaluated 1000

Further: `--pixels` of a mean image, `--classes`, `--listed` images of image sets, `--rate`, the arithmetic
that a GPU sustains in TFLOP/s. Overlays are merged over `config.yaml`, as Snakemake does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from anyshot.config import Config, load, merged
from benchmarks.scale_counts import stages
from benchmarks.scale_formulas import SYSTEMS, Cost, Data, bytes_of, data_prepare, drawn_masks, packed_files

REPOSITORY = Path(__file__).resolve().parent.parent
RATE = 100.0  # TFLOP/s: what the heads of config/paper reckon with
Content = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A table: overlays of config/paper, the data, and changes that no overlay makes."""

    title: str
    overlays: tuple[str, ...]
    data: Data
    change: Callable[[Content], None] | None = None


def masks_of_coco_stuff(content: Content) -> None:
    """All of COCO-Stuff, for which the reader is `folder` (docs/larvseg.md 1.2)."""
    content["data"]["coco_stuff"] = {"reader": "folder", "root": "datasets/coco_stuff164k", "decode": False}
    content["simformer"]["evaluate_subset"] = "val"


def labels_of_imagenet(content: Content) -> None:
    """An experiment whose image labels are ImageNet-21K's, in crops of 320 px, from a packed image set."""
    larvseg = content["larvseg"]
    masks, labels = larvseg["experiments"]["c171_a150w"]["sources"]
    crops = {"crop": 320, "short_side": 320, "long_side": 1280, "label_source": "image"}
    own = {
        **labels,
        **crops,
        "data": "imagenet21k",
        "names": "imagenet",
        "rules": "original",
        "name": "in21k",
    }
    target = {"data": "ade20k", "names": "ade150", "rules": "original", "name": "a150", "subset": "val"}
    larvseg["image_sets"] = {
        "imagenet21k": {"root": "datasets/imagenet21k", "pack": True, "on_corrupt": "skip"}
    }
    larvseg["experiments"]["c171_i21k"] = {"sources": [masks, own], "targets": [target]}
    larvseg["splits"] = ["c171_i21k"]


CASES = (
    Case(
        "SimFormer, 118,287 training images of COCO-Stuff, 5,000 to score on, 4 splits",
        ("simformer_cocostuff",),
        Data(train=118_287, evaluated=5_000, classes=171),
        masks_of_coco_stuff,
    ),
    Case(
        "POP, COCO-20i: 82,081 training images, 40,137 to score on, 4 folds, 27 heads each",
        ("pop_coco",),
        Data(train=82_081, evaluated=40_137, classes=81),
    ),
    Case(
        "SimFormer, 25,574 training images of ADE20K, 2,000 to score on, 4 splits",
        ("simformer_ade20k",),
        Data(train=25_574, evaluated=2_000, pixels=683 * 512, classes=150),
    ),
    Case(
        "RETAB, 118,287 training images with as many classes as COCO has objects, 5,000 to score on, 4 folds",
        ("retab_voc",),
        Data(train=118_287, evaluated=5_000, classes=81),
    ),
    Case(
        "RETAB, 25,574 training images of the size of ADE20K's, 2,000 to score on, 4 folds",
        ("retab_voc",),
        Data(train=25_574, evaluated=2_000, pixels=683 * 512, classes=151),
    ),
    Case(
        "RAML, 118,287 training images, 5,000 to score on, 3 splits",
        ("raml_cityscapes",),
        Data(train=118_287, evaluated=5_000, classes=171),
    ),
    Case(
        "LarvSeg, 118,287 images with masks, 25,574 of ADE20K by labels (847 classes), 2,000 to score on",
        ("larvseg_ade150", "larvseg_ade847"),
        Data(train=118_287 + 25_574, evaluated=2_000, pixels=683 * 512, classes=847, vocabulary=913),
    ),
    Case(
        "LarvSeg, 118,287 images with masks, 14,197,122 of ImageNet-21K by labels, 2,000 to score on",
        ("larvseg_ade150",),
        Data(
            train=118_287,
            evaluated=2_000,
            pixels=683 * 512,
            classes=150,
            vocabulary=21_841 + 171,
            listed=14_197_122,
            packed=92e3,
        ),
        labels_of_imagenet,
    ),
)


def configuration(overlays: Sequence[Path], change: Callable[[Content], None] | None = None) -> Config:
    """The shipped configuration under overlays, changed."""
    content = merged([REPOSITORY / "config.yaml", *overlays])
    if change is not None:
        change(content)
    return load(content)


def hours(seconds: float) -> str:
    value = seconds / 3600
    if not seconds:
        return "-"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def amount(value: float) -> str:
    gigabytes = value / 1e9
    if gigabytes < 0.01:
        return "< 0.01"
    return f"{gigabytes:,.0f}" if gigabytes >= 10 else f"{gigabytes:.2g}"


def print_case(config: Config, data: Data, rate: float) -> None:
    costs: dict[str, Cost] = {"data_prepare": data_prepare(config, data)}
    for system in config.systems:
        costs |= SYSTEMS[system](config, data)
    print(f"| stage | jobs | files | GB | GPU hours at {rate:g} TFLOP/s | CPU hours |")
    print("|---|---|---|---|---|---|")
    total = [0.0] * 5
    for stage in stages(config):
        cost = costs.get(stage.rule, Cost())
        files = stage.files(data.train, data.evaluated)
        if stage.rule == "larvseg_images":
            files += packed_files(config, data)
        if stage.rule == "data_prepare":
            files += drawn_masks(config, data)
        values = [stage.jobs, files, bytes_of(stage, cost, data), cost.flop / rate / 1e12, cost.cpu]
        total = [one + other for one, other in zip(total, values, strict=True)]
        row = f"{stage.jobs:,} | {files:,} | {amount(values[2])} | {hours(values[3])} | {hours(cost.cpu)}"
        print(f"| `{stage.rule}` | {row} |")
    records = sum(stage.records() for stage in stages(config))
    print(f"| **all** | **{total[0]:,.0f}** | **{total[1]:,.0f}** (and {records:,} records) |"
          f" **{amount(total[2])}** | **{hours(total[3])}** | **{hours(total[4])}** |\n")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, nargs="+", default=[], metavar="FILE", help="overlays")
    parser.add_argument("--train", type=int, metavar="N", help="images to learn from")
    parser.add_argument("--evaluated", type=int, metavar="N", help="images to score on")
    parser.add_argument("--pixels", type=float, default=640 * 480, help="of a mean image (640 x 480)")
    parser.add_argument("--classes", type=int, default=171, metavar="N")
    parser.add_argument("--vocabulary", type=int, default=0, metavar="N", help="classes that LarvSeg learns")
    parser.add_argument("--listed", type=int, default=0, metavar="N", help="images of LarvSeg's image sets")
    parser.add_argument("--rate", type=float, default=RATE, help=f"TFLOP/s that a GPU sustains ({RATE:g})")
    given = parser.parse_args()
    if given.train is None and given.config:
        parser.error("--config needs --train and --evaluated, the numbers of images")
    if given.train is not None:
        data = Data(
            train=given.train,
            evaluated=given.evaluated or 0,
            pixels=given.pixels,
            classes=given.classes,
            vocabulary=given.vocabulary or given.classes,
            listed=given.listed,
        )
        print_case(configuration(given.config), data, given.rate)
        return
    for case in CASES:
        overlays = [REPOSITORY / "config" / "paper" / f"{name}.yaml" for name in case.overlays]
        print(f"### {case.title}\n")
        print_case(configuration(overlays, case.change), case.data, given.rate)


if __name__ == "__main__":
    main()
