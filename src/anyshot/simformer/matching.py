"""Which proposal stands for which class of its image: Hungarian matching in every layer (simformer.md 2.3).

The masks are looked at in stride-4 cells. Costs of all layers of an image come from one product each for
focal and Dice cost, all of them go to the host in one copy, and the matches come back in one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import softplus

from anyshot.errors import ConfigError, DataError
from anyshot.nets.maskformer import Proposals
from anyshot.ops.precision import full, without_autocast
from anyshot.simformer.options import Matching
from anyshot.simformer.targets import Targets

POSITIVE = 0.25  # weight of a mask's own pixels in the focal cost; that of the others is 1 - POSITIVE
LARGE = 1e6  # stands for a cost that is not finite
CPU_LOGITS = 2**20  # looked at in one go: a few MiB stay in a CPU's cache; GPUs take all at once


@dataclass(frozen=True)
class Matches:
    """P matched proposals of a batch, ordered by layer, image and label; all (P,) int64.

    label: row of `Targets.table`. In each layer every label has one proposal of its image.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    label: Tensor


@torch.no_grad()
def matching_costs(proposals: Proposals, targets: Targets, options: Matching) -> list[Tensor]:
    """Costs (L, Q, N_b) of each image's labels, in the order of `targets.table` (simformer.md 2.3).

    With a mask: class_weight (-p) + mask_weight (focal_weight F + dice_weight D); without: novel_class_weight
    (-p), and nothing is computed from the mask. Float32, or float64 where the logits are.
    """
    classes = targets.table[:, 1].split(_labels_per_image(targets, targets.table))
    cells = targets.cells.split(_labels_per_image(targets, targets.table[targets.table[:, 2] == 1]))
    with without_autocast(proposals.class_logits):
        chances = full(proposals.class_logits).softmax(dim=-1)
        costs = []
        for image, (own, masks) in enumerate(zip(classes, cells, strict=True)):
            cost = -options.novel_class_weight * chances[:, image][..., own]
            if count := len(masks):
                of_class = -options.class_weight * chances[:, image][..., own[:count]]
                of_mask = _mask_costs(full(proposals.mask_logits[:, image]), masks, options)
                cost[..., :count] = of_class + options.mask_weight * of_mask
            costs.append(cost)
    return costs


def match(proposals: Proposals, targets: Targets, options: Matching) -> Matches:
    """Give each label of each image the proposals, one per layer, that together cost least.

    Costs that are not finite are replaced: a proposal whose cost is not a number is chosen first, so that the
    losses are not a number either and the training stops. Raises ConfigError for an image with more labels
    than the network has queries, DataError for a class that has a mask and is labelled as without one.
    """
    layers, images, queries = proposals.class_logits.shape[:3]
    device = proposals.class_logits.device
    _check(targets, images, queries)
    costs = matching_costs(proposals, targets, options)
    counts = [cost.shape[2] for cost in costs]
    flat = torch.cat([cost.flatten() for cost in costs]).cpu()
    finite = torch.nan_to_num(flat, nan=-LARGE, posinf=LARGE, neginf=-LARGE).numpy()
    sizes = [layers * queries * count for count in counts]
    tables = [
        part.reshape(layers, queries, count)
        for part, count in zip(np.split(finite, np.cumsum(sizes)[:-1]), counts, strict=True)
    ]
    rows = [_layer_matches(tables, layer) for layer in range(layers)]
    found = torch.from_numpy(np.concatenate(rows)).to(device)
    return Matches(layer=found[:, 0], image=found[:, 1], query=found[:, 2], label=found[:, 3])


def _layer_matches(tables: list[NDArray[np.float32]], layer: int) -> NDArray[np.int64]:
    """(labels of the batch, 4): layer, image, query, label; tables: costs (L, Q, N_b) of each image."""
    rows = [np.empty((0, 4), dtype=np.int64)]
    first = 0  # row of the image's first label
    for image, table in enumerate(tables):
        query, label = linear_sum_assignment(table[layer])
        order = np.argsort(label)
        where = np.broadcast_to([[layer, image]], (len(label), 2))
        rows.append(np.column_stack([where, query[order], first + label[order]]))
        first += table.shape[2]
    return np.concatenate(rows)


def _mask_costs(logits: Tensor, masks: Tensor, options: Matching) -> Tensor:
    """Focal and Dice cost (L, Q, M) of an image's mask logits (L, Q, h, w) and masks (M, h, w) bool.

    With f+ and f- the focal cost of a cell inside and outside of the mask T, sum(f+ T + f- (1 - T)) is
    (f+ - f-).T + sum(f-) (simformer.md 5, idea 2).
    """
    rows = logits.flatten(2).flatten(0, 1)  # (L Q, cells)
    truth = masks.flatten(1).to(rows.dtype).T
    step = len(rows) if rows.device.type != "cpu" else max(1, CPU_LOGITS // rows.shape[1])
    costs = torch.cat([_costs_of_rows(part, truth, options) for part in rows.split(step)])
    return costs.unflatten(0, logits.shape[:2])


def _costs_of_rows(x: Tensor, truth: Tensor, options: Matching) -> Tensor:
    """Costs (n, M) of mask logits (n, cells) and masks (cells, M)."""
    chance, outside = x.sigmoid(), softplus(x)
    inside = (outside - x).mul_((1 - chance).square_()).mul_(POSITIVE)
    outside.mul_(chance).mul_(chance).mul_(1 - POSITIVE)
    missed = outside.sum(dim=1, keepdim=True)
    focal = (inside.sub_(outside) @ truth + missed) / x.shape[1]
    sizes = chance.sum(dim=1, keepdim=True) + truth.sum(dim=0) + 1
    dice = 1 - (2 * (chance @ truth) + 1) / sizes
    return options.focal_weight * focal + options.dice_weight * dice


def _labels_per_image(targets: Targets, table: Tensor) -> list[int]:
    return torch.bincount(table[:, 0], minlength=len(targets.novel)).tolist()


def _check(targets: Targets, images: int, queries: int) -> None:
    if len(targets.labels) != images:
        raise ValueError(f"{images} images of proposals, but {len(targets.labels)} of labels")
    both = (targets.present & targets.novel).nonzero().tolist()
    if both:
        image, label = both[0]
        raise DataError(
            f"image {image} of the batch labels class {label} as without a mask, but its label map holds it:"
            " set the pixels of novel classes to 255"
        )
    most = max(_labels_per_image(targets, targets.table), default=0)
    if most > queries:
        raise ConfigError(
            f"an image has {most} classes, but the network only {queries} queries: set `network.queries` to"
            f" at least {most}"
        )
