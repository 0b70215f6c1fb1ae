"""SimFormer's matching, losses and similarity network (simformer.md section 5) against the plain ones.

    python benchmarks/simformer.py [--small] [--threads N]

`matching`: costs of 100 proposals of 6 layers for the labels of 2 crops of 640 px; the plain way, layer by
layer and image by image, samples the masks again and makes two products each for focal and Dice cost.
`mask losses`: focal and Dice loss of the matched masks of all layers, with the gradient; the plain way
up-samples all of them and leaves the gradient to torch. `similarity`: SimNet on 2 x 100 x 100 pairs of
points, with the gradients; the plain way puts the 512 channels of every pair side by side.
Either way of an item runs in a process of its own, on the same input: time, and peak memory above what the
process held before. `step`: one whole training step at the shapes of COCO-Stuff (2 images of 640 px,
ResNet-50, 100 queries, 6 layers, 171 classes), which takes a minute or two; `--skip-step` leaves it out.
The last line is JSON; its first keys are those of the mask losses. Exit status 1 when, in the full form, a
result differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from measuring import Item, compared, in_own_process, measured, print_table, too_different, use_threads
from torch import Tensor
from torch.nn.functional import interpolate, softplus

from anyshot.nets.maskformer import Proposals
from anyshot.simformer.criterion import Normalisers, mask_costs, set_losses
from anyshot.simformer.matching import match, matching_costs
from anyshot.simformer.networks import build_simformer
from anyshot.simformer.options import MaskBackbone, MaskNetwork, Matching, PairLosses, SetLosses
from anyshot.simformer.pair_losses import pair_losses
from anyshot.simformer.similarity import SimilarityNet
from anyshot.simformer.targets import Targets
from tests.reference import simformer_losses as plain

THREADS = 2
ALLOWED = {"relative_difference": 1e-4, "gradient_difference": 1e-3}


@dataclass(frozen=True)
class Sizes:
    """Of a step: images and their side in px, patches of labels along it, base and novel labels of an image,
    classes, novel ones among them, decoder layers, queries, channels, points per image."""

    images: int = 2
    side: int = 640
    patches: int = 10
    labels: int = 8
    classes: int = 171
    novel: int = 43
    layers: int = 6
    queries: int = 100
    channels: int = 256
    points: int = 100


SIZES = {False: Sizes(), True: Sizes(side=64, patches=4, labels=3, classes=12, novel=3, layers=2, queries=10,
                                     channels=32, points=10)}  # fmt: skip


def targets(small: bool) -> Targets:
    """Crops in patches of base classes and void, with two novel labels each, one in common."""
    sizes, generator = SIZES[small], torch.Generator().manual_seed(0)
    shape = (sizes.images, sizes.patches, sizes.patches)
    patches = sizes.novel + torch.randint(0, sizes.labels, shape, generator=generator)
    patches[torch.rand(shape, generator=generator) < 0.2] = 255
    width = sizes.side // sizes.patches
    labels = patches.repeat_interleave(width, dim=1).repeat_interleave(width, dim=2).to(torch.uint8)
    novel = torch.zeros(sizes.images, sizes.classes, dtype=torch.bool)
    novel[:, 0] = novel[::2, 1] = novel[1::2, 2] = True
    return Targets(labels=labels, novel=novel, pad=torch.zeros_like(labels, dtype=torch.bool))


def novel_classes(small: bool) -> Tensor:
    return torch.arange(SIZES[small].classes) < SIZES[small].novel


def proposals_and_targets(small: bool) -> tuple[Proposals, Targets]:
    sizes, generator = SIZES[small], torch.Generator().manual_seed(1)
    kind, cells = (sizes.layers, sizes.images, sizes.queries), sizes.side // 4
    class_logits = torch.randn(*kind, sizes.classes + 1, generator=generator)
    mask_logits = 3 * torch.randn(*kind, cells, cells, generator=generator)
    return Proposals(class_logits, mask_logits, torch.empty(sizes.images, 1, cells, cells)), targets(small)


def matched_masks(small: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mask logits of all layers (P, h, w), masks (M, H, W) and which belongs to which (P,)."""
    proposals, given = proposals_and_targets(small)
    found = match(proposals, given, Matching())
    masked = given.table[found.label, 2] == 1
    logits = proposals.mask_logits[found.layer, found.image, found.query][masked]
    rows = given.table[:, 2].cumsum(dim=0)[found.label[masked]] - 1
    return logits.clone().requires_grad_(), given.masks, rows


def points_and_network(small: bool) -> tuple[SimilarityNet, Tensor, Tensor]:
    sizes = SIZES[small]
    torch.manual_seed(2)
    points = torch.randn(2, sizes.points, sizes.channels)
    return SimilarityNet(width=sizes.channels), points, points.flip(0)


def plain_matching(proposals: Proposals, given: Targets) -> list[Tensor]:
    """Each layer and image on its own; its loops over queries and labels are the products they stand for."""
    found = []
    for image in range(len(given.labels)):
        labels = plain.labels_of(given.labels[image], given.novel[image])
        for classes, logits in zip(
            proposals.class_logits[:, image], proposals.mask_logits[:, image], strict=True
        ):
            chances = classes.softmax(dim=1)
            cost = -chances[:, [c for c, _ in labels]]
            masks = [plain.coarse_mask(mask) for _, mask in labels if mask is not None]
            t, x = torch.stack(masks).flatten(1).float(), logits.flatten(1)
            s = x.sigmoid()
            own, other = 0.25 * (1 - s) ** 2 * softplus(-x), 0.75 * s**2 * softplus(x)
            focal = (own @ t.T + other @ (1 - t).T) / x.shape[1]
            dice = 1 - (2 * s @ t.T + 1) / (s.sum(dim=1)[:, None] + t.sum(dim=1) + 1)
            cost[:, : len(masks)] += 20 * focal + dice
            found.append(cost)
    return [torch.cat([cost.flatten() for cost in found])]


def fast_matching(proposals: Proposals, given: Targets) -> list[Tensor]:
    fresh = Targets(labels=given.labels, novel=given.novel, pad=given.pad)  # nothing known beforehand
    return [torch.cat([cost.flatten() for cost in matching_costs(proposals, fresh, Matching())])]


def with_slope(focal: Tensor, dice: Tensor, logits: Tensor) -> list[Tensor]:
    values = torch.cat([focal, dice])
    (slope,) = torch.autograd.grad(20 * focal.sum() + dice.sum(), logits)
    return [values.detach(), slope]


def plain_mask_losses(logits: Tensor, masks: Tensor, rows: Tensor) -> list[Tensor]:
    large = interpolate(logits[:, None], size=masks.shape[1:], mode="bilinear")[:, 0].flatten(1)
    t = masks[rows].flatten(1).float()
    s = large.sigmoid()
    focal = t * 0.25 * (1 - s) ** 2 * softplus(-large) + (1 - t) * 0.75 * s**2 * softplus(large)
    dice = 1 - (2 * (s * t).sum(dim=1) + 1) / (s.sum(dim=1) + t.sum(dim=1) + 1)
    return with_slope(focal.mean(dim=1), dice, logits)


def fast_mask_losses(logits: Tensor, masks: Tensor, rows: Tensor) -> list[Tensor]:
    return with_slope(*mask_costs(logits, masks, rows), logits)


def network_slopes(net: SimilarityNet, similar: Tensor) -> list[Tensor]:
    return [similar.detach(), *torch.autograd.grad(similar.log().mean(), [*net.parameters()])]


def plain_similarity(net: SimilarityNet, first: Tensor, second: Tensor) -> list[Tensor]:
    return network_slopes(net, plain.simnet(dict(net.named_parameters()), first, second, 3))


def fast_similarity(net: SimilarityNet, first: Tensor, second: Tensor) -> list[Tensor]:
    return network_slopes(net, net(first, second))


ITEMS = {
    "mask losses": Item(matched_masks, plain_mask_losses, fast_mask_losses),
    "matching": Item(proposals_and_targets, plain_matching, fast_matching),
    "similarity": Item(points_and_network, plain_similarity, fast_similarity),
}


def _step(small: bool, threads: int) -> tuple[float, float, list[Tensor]]:
    """Seconds and peak MiB of forward, losses, backward and update, and the loss before the update."""
    use_threads(threads)
    sizes = SIZES[small]
    torch.manual_seed(0)
    name = "tf_efficientnet_lite0" if small else "resnet50"
    network = MaskNetwork(queries=sizes.queries, layers=sizes.layers, width=sizes.channels)
    model = build_simformer(
        {
            "backbone": MaskBackbone(name=name, weights="none").model_dump(),
            "classes": sizes.classes,
            "network": network.model_dump(),
            "similarity": {"depth": 3, "norm": "batch", "window": 25},
        }
    )
    images, given = torch.rand(sizes.images, 3, sizes.side, sizes.side), targets(small)
    optimiser = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-4)

    def work() -> list[Tensor]:
        proposals = model(images)
        fresh = Targets(labels=given.labels, novel=given.novel, pad=given.pad)
        matches = match(proposals, fresh, Matching())
        losses = set_losses(proposals, fresh, matches, Normalisers.of(fresh), SetLosses())
        assert model.similarity is not None  # built for the pair losses
        assert model.balance is not None
        of_pairs = pair_losses(
            proposals,
            fresh,
            net=model.similarity,
            balance=model.balance,
            seeds=torch.arange(sizes.images // 2),
            novel=novel_classes(small),
            options=PairLosses(points=sizes.points),
        )
        parts = [*losses.values(), of_pairs["similarity"], of_pairs["distillation"]]
        total = torch.stack(parts).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        return [total.detach()]

    return measured(work, runs=2)


def differences(expected: list[Tensor], found: list[Tensor]) -> dict[str, float]:
    """Of the values the largest difference, absolute and relative to the largest value; of all gradients the
    Euclidean length of the difference relative to that of the gradient.

    All at once: the bias of a layer in front of a batch norm has no gradient but rounding.
    """
    apart = (expected[0] - found[0]).abs().max()
    ours, theirs = (torch.cat([torch.zeros(1), *(s.flatten() for s in way[1:])]) for way in (found, expected))
    return {
        "max_abs_difference": apart.item(),
        "relative_difference": (apart / expected[0].abs().max()).item(),
        "gradient_difference": ((ours - theirs).norm() / theirs.norm().clamp(min=1e-30)).item(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny inputs, to see that it runs")
    parser.add_argument("--skip-step", action="store_true", help="leave the whole training step out")
    parser.add_argument("--threads", type=int, default=THREADS, metavar="N")
    arguments = parser.parse_args()
    rows = [
        compared(
            name,
            item,
            small=arguments.small,
            threads=arguments.threads,
            runs=(3, 3),
            differences=differences,
        )
        for name, item in ITEMS.items()
    ]
    print_table(rows)
    result: dict[str, Any] = {"items": rows}
    if not arguments.skip_step:
        seconds, peak, (loss,) = in_own_process(_step, arguments.small, arguments.threads)
        print(f"whole step: {seconds:.2f} s, peak {peak:.0f} MiB, loss {loss.item():.4f}")
        result["step"] = {"seconds": seconds, "peak_mib": peak, "loss": loss.item()}
    found = [] if arguments.small else too_different(rows, ALLOWED)
    for line in found:
        print(f"FAILED: {line}")
    result |= {"sizes": vars(SIZES[arguments.small]), "threads": arguments.threads, "device": "cpu"}
    print(json.dumps({"benchmark": "simformer", "small": arguments.small, **rows[0], **result}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
