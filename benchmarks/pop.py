"""POP's factorised head and tiled losses (pop.md 2.2, 5.3 items 1 and 5) against the plain ones.

    python benchmarks/pop.py [--small] [--threads N]

`head`: logits of background, 60 base and 20 novel classes on a 60 x 60 grid of 512 channels, one image, and
the gradients for the features, all prototypes and both classifiers. The plain way, that of
tests/reference/pop_head.py, sends every class's projection of every cell through the classifier.
`cross entropy`: of as many logits at 473 x 473 px, with its gradient; `labels`: the best class of every pixel
of a 640 x 480 px image. Their plain way is to upsample all logits with torch first.
Either way of an item runs in a process of its own (with `--small` in this one), on the same input: time, and
peak memory above what the process held before.
`update`: steps of a novel update from stored features, at the sizes of COCO-20i with one shot: 60 base and 20
support images of random features (512 x 60 x 60, float16) in an HDF5 file, which takes 300 MB of the
temporary folder. Each step reads a pair and its masks, makes pseudo labels, and moves the novel prototypes
and their classifier. Time per step is measured, that of a support set (500 epochs of 60 steps) is computed.
The last line is JSON; its first keys are those of the head. Exit status 1 when, in the full form, the head
is not 30 times faster or a result differs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torch.nn.functional as F
from measuring import Item, compared, in_own_process, print_table, too_different, use_threads
from torch import Tensor

from anyshot.data.classes import ClassTable
from anyshot.data.images import write_mask
from anyshot.data.manifest import Sample
from anyshot.engine.stores import Store, StoreWriter
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD
from anyshot.ops.upsampled import upsampled_argmax, upsampled_cross_entropy
from anyshot.pop.datasets import CachedPairDataset, Pairing, WholeImages
from anyshot.pop.head import PixelMlp, PrototypeHead
from anyshot.pop.heads import OnFrozen
from anyshot.pop.options import NovelOptimiser, NovelUpdate
from anyshot.pop.tables import FoldTables
from anyshot.pop.update import trained_head, update_loss
from tests.reference import pop_head as plain

THREADS, REQUIRED_RATIO = 2, 30.0
ALLOWED = {"relative_difference": 1e-4, "gradient_difference": 1e-2}
BASE, NOVEL, CHANNELS, CELLS = 60, 20, 512, 60
CROP, LARGE = 473, (640, 480)  # px; logits of an image are decided on a square of its longer side


def head_and_features(small: bool) -> tuple[PrototypeHead, Tensor]:
    """A head with prototypes that are not quite orthogonal, and features (1, C, h, w)."""
    torch.manual_seed(0)
    base, novel, channels, cells = (3, 2, 16, 6) if small else (BASE, NOVEL, CHANNELS, CELLS)
    head = PrototypeHead(channels=channels, base=base).with_novel(novel)
    with torch.no_grad():
        head.base_emb.add_(0.01 * torch.randn_like(head.base_emb))
    return head, torch.randn(1, channels, cells, cells).requires_grad_()


def logits_and_labels(small: bool) -> tuple[Tensor, Tensor]:
    """Logits (1, 81, 60, 60) and labels (1, 473, 473) uint8, in patches, a tenth of them ignored."""
    generator = torch.Generator().manual_seed(0)
    classes, cells, side = (6, 6, 40) if small else (1 + BASE + NOVEL, CELLS, CROP)
    logits = torch.randn(1, classes, cells, cells, generator=generator)
    patches = torch.randint(0, classes, (1, side // 8 + 1, side // 8 + 1), generator=generator)
    patches[torch.rand(patches.shape, generator=generator) < 0.1] = 255
    labels = patches.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)[:, :side, :side]
    return logits.requires_grad_(), labels.to(torch.uint8)


def image_logits(small: bool) -> tuple[Tensor, int, int]:
    """Logits as above, and the side of the square."""
    logits, _ = logits_and_labels(small)
    return logits.detach(), 50 if small else max(LARGE), 50 if small else max(LARGE)


def with_gradients(head: PrototypeHead, features: Tensor, logits: Tensor) -> list[Tensor]:
    """The logits, and gradients for features, prototypes and classifiers."""
    slopes = torch.linspace(-1, 1, logits.numel()).view_as(logits)
    return [logits.detach(), *torch.autograd.grad(logits, [features, *head.parameters()], slopes)]


def plain_head(head: PrototypeHead, features: Tensor) -> list[Tensor]:
    def matrices(mlp: PixelMlp) -> list[Tensor]:
        return [weight[:, :, 0, 0] for weight in mlp.parameters()]

    logits = plain.stage_2_logits(
        features, head.base_emb, head.novel_emb, matrices(head.classifier), matrices(head.classifier_n)
    )
    return with_gradients(head, features, logits)


def fast_head(head: PrototypeHead, features: Tensor) -> list[Tensor]:
    return with_gradients(head, features, head(features))


def plain_entropy(logits: Tensor, labels: Tensor) -> list[Tensor]:
    large = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=True)
    loss = F.cross_entropy(large, labels.long(), ignore_index=255)
    return [loss.detach(), *torch.autograd.grad(loss, logits)]


def fast_entropy(logits: Tensor, labels: Tensor) -> list[Tensor]:
    loss = upsampled_cross_entropy(logits, labels, align_corners=True)
    return [loss.detach(), *torch.autograd.grad(loss, logits)]


def plain_labels(logits: Tensor, height: int, width: int) -> list[Tensor]:
    large = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=True)
    return [large.argmax(dim=1)]


def fast_labels(logits: Tensor, height: int, width: int) -> list[Tensor]:
    return [upsampled_argmax(logits, height, width, align_corners=True)]


ITEMS = {
    "head": Item(head_and_features, plain_head, fast_head),
    "cross entropy": Item(logits_and_labels, plain_entropy, fast_entropy),
    "labels": Item(image_logits, plain_labels, fast_labels),
}


def differences(name: str, expected: list[Tensor], found: list[Tensor]) -> dict[str, float]:
    """Of the values (logits, loss) the largest difference, absolute and relative to the largest value; of the
    gradients the Euclidean length of the difference relative to that of the gradient.

    Rounding may put a sum that is almost 0 on the other side of a ReLU, and its cell gets another gradient:
    values do not notice. In float64 tests hold both to 1e-10. Of labels it is the share that differs: two
    classes may be equally good up to rounding.
    """
    if name == "labels":
        share = (expected[0] != found[0]).double().mean().item()
        return {"max_abs_difference": share, "relative_difference": share, "gradient_difference": 0.0}
    apart = (expected[0] - found[0]).abs().max()
    slopes = zip(expected[1:], found[1:], strict=True)
    return {
        "max_abs_difference": apart.item(),
        "relative_difference": (apart / expected[0].abs().max()).item(),
        "gradient_difference": max(((a - b).norm() / a.norm()).item() for a, b in slopes),
    }


@dataclass(frozen=True)
class Sizes:
    """Of an update: base and novel classes with one image each, channels and cells of the features, the side
    of the square in px, height and width of the images in px, steps that are timed."""

    base: int = BASE
    novel: int = NOVEL
    channels: int = CHANNELS
    cells: int = CELLS
    square: int = CROP
    height: int = 480
    width: int = 640
    steps: int = 10


SMALL_SIZES = Sizes(3, 2, 16, 6, 40, 40, 50, 2)


def stored_images(folder: Path, sizes: Sizes) -> WholeImages:
    """Images with random masks in patches, and random features of them; only the files are real."""
    rng = np.random.default_rng(0)
    classes = 1 + sizes.base + sizes.novel
    kinds = ["background"] + ["thing"] * (classes - 1)
    table = ClassTable.of([f"class {number}" for number in range(classes)], kinds=kinds)
    samples, shape = {}, (sizes.channels, sizes.cells, sizes.cells)
    with StoreWriter(folder / "features.h5", attributes={"size": str(sizes.square)}) as store:
        for number in range(1, classes):
            rows, columns = np.indices((sizes.height, sizes.width)) // 32
            grid = rows.max() + 1, columns.max() + 1
            patches = rng.choice([0, number, int(rng.integers(classes))], size=grid)
            write_mask(folder / f"{number}.png", patches[rows, columns].astype(np.uint8), table)
            samples[str(number)] = Sample(str(number), Path("none"), folder / f"{number}.png", "train", ())
            features = rng.standard_normal(shape, np.float32)
            store.add(
                str(number), range(sizes.channels), features, height=sizes.height, width=sizes.width,
                stride=sizes.square // sizes.cells, dtype="float16",
            )  # fmt: skip
    novel = [table.name_of(number) for number in range(1 + sizes.base, classes)]
    return WholeImages(
        samples=samples, tables=FoldTables.make(table, novel=novel), store=Store(folder / "features.h5"),
        encode=lambda square: square, size=sizes.square, mean=IMAGENET_MEAN, std=IMAGENET_STD,
    )  # fmt: skip


def update_steps(images: WholeImages, sizes: Sizes) -> Iterator[tuple[float, float, float]]:
    """Steps as the stage makes them: seconds to read a pair, seconds of the step itself, and the loss."""
    torch.manual_seed(0)
    base = PrototypeHead(channels=sizes.channels, base=sizes.base)
    options, optimiser = NovelUpdate(mode="cached"), NovelOptimiser()
    head = trained_head(base, images.tables, options)
    model, loss = OnFrozen(head=head, encoder=None), update_loss(head, options)
    trained = [value for value in head.parameters() if value.requires_grad]
    sgd = torch.optim.SGD(
        trained, lr=optimiser.learning_rate, momentum=optimiser.momentum, weight_decay=optimiser.weight_decay
    )
    ids = list(images.samples)
    lists = {int(one): [one] for one in ids[: sizes.base]}
    pairing = Pairing(supports=ids[sizes.base :], base_lists=lists, shots=1, seed=0, replay=options.replay)
    data = CachedPairDataset(pairing=pairing, images=images)
    for step in range(1 + sizes.steps):
        begin = time.perf_counter()
        item = data.item_of(0, step, np.random.default_rng(step))
        read = time.perf_counter()
        terms = loss(model, {name: value[None] for name, value in item.items()}, step)
        sgd.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trained, optimiser.gradient_clip or math.inf)
        sgd.step()
        yield read - begin, time.perf_counter() - read, terms["loss"].item()


def measured_update(small: bool, threads: int) -> dict[str, float]:
    """Mean seconds of a step after the first one, and what a support set of one shot takes at that rate."""
    use_threads(threads)
    sizes = SMALL_SIZES if small else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        taken = list(update_steps(stored_images(Path(folder), sizes), sizes))
    reading, working, _ = np.mean(taken[1:], axis=0).tolist()
    published = NovelOptimiser().epochs * sizes.base
    return {
        "seconds_per_step": reading + working,
        "reading_seconds": reading,
        "steps": sizes.steps,
        "published_steps": published,
        "seconds_per_support_set_computed": published * (reading + working),
        "loss": taken[-1][2],
    }


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """What the full form was to show and did not."""
    found = too_different(rows, ALLOWED)
    if rows[0]["ratio"] < REQUIRED_RATIO:
        found.append(f"head: {rows[0]['ratio']:.1f} times faster, wanted {REQUIRED_RATIO:.0f}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny inputs, to see that it runs")
    parser.add_argument("--threads", type=int, default=THREADS, metavar="N")
    arguments = parser.parse_args()
    rows = [
        compared(
            name,
            item,
            small=arguments.small,
            threads=arguments.threads,
            runs=(1, 5),
            apart=not arguments.small,
            differences=partial(differences, name),
        )
        for name, item in ITEMS.items()
    ]
    print_table(rows)
    update = in_own_process(measured_update, arguments.small, arguments.threads, apart=not arguments.small)
    print(
        f"update: {update['seconds_per_step']:.3f} s per step,"
        f" {update['reading_seconds']:.3f} s of it to read;"
        f" computed for a support set of {update['published_steps']} steps:"
        f" {update['seconds_per_support_set_computed']:.0f} s"
    )
    found = [] if arguments.small else failures(rows)
    for line in found:
        print(f"FAILED: {line}")
    head, _ = head_and_features(arguments.small)
    sizes = {"base": head.base, "novel": head.novel, "channels": head.channels,
             "cells": 6 if arguments.small else CELLS}  # fmt: skip
    result = {"items": rows, "update": update, "sizes": sizes, "threads": arguments.threads, "device": "cpu"}
    print(json.dumps({"benchmark": "pop", "small": arguments.small, **rows[0], **result}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
