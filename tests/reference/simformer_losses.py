"""Matching, losses and similarity network of SimFormer in the words of the specification (simformer.md 2.3 to
2.6): layer by layer, image by image, every map up-sampled and held.

The labels of an image are a list of (class, mask (H, W) bool or None).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Labels = Sequence[tuple[int, Tensor | None]]
Pairs = Sequence[tuple[int, int]]  # (query, label)


def labels_of(label_map: Tensor, novel: Tensor) -> list[tuple[int, Tensor | None]]:
    """Of an image: classes of the label map (H, W) with their masks, then the novel ones (K,) bool."""
    count = len(novel)
    present = sorted({value for value in label_map.flatten().tolist() if value < count})
    found: list[tuple[int, Tensor | None]] = [(c, label_map == c) for c in present]
    return found + [(c, None) for c in range(count) if novel[c]]


# --- maps: x, t (P,) ---


def focal(x: Tensor, t: Tensor) -> Tensor:
    """Mean over the pixels, alpha 0.25, gamma 2."""
    s = torch.sigmoid(x)
    own = t * 0.25 * (1 - s) ** 2 * F.softplus(-x)
    other = (1 - t) * 0.75 * s**2 * F.softplus(x)
    return (own + other).mean()


def dice(x: Tensor, t: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return 1 - (2 * (s * t).sum() + 1) / (s.sum() + t.sum() + 1)


# --- 2.3 ---


def coarse_mask(mask: Tensor) -> Tensor:
    """Every 4th row and column; a mask that has nothing there: cells in which it has any pixel."""
    cells = mask[::4, ::4]
    if cells.any():
        return cells
    cells = cells.clone()
    for y in range(cells.shape[0]):
        for x in range(cells.shape[1]):
            cells[y, x] = mask[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].any()
    return cells


def costs(class_logits: Tensor, mask_logits: Tensor, labels: Labels, *, zero_masks: bool = False) -> Tensor:
    """Cost (Q, N) of one layer and image, weights 1, 1, 1 and 20, 1. class_logits (Q, K + 1), mask_logits (Q,
    h, w). `zero_masks`: a label without a mask has an empty one, as MaskFormer would take it."""
    p = class_logits.softmax(dim=1)
    table = class_logits.new_zeros(len(class_logits), len(labels))
    for q in range(len(class_logits)):
        for n, (c, mask) in enumerate(labels):
            table[q, n] = -p[q, c]
            if mask is None and not zero_masks:
                continue
            t = torch.zeros_like(mask_logits[q]) if mask is None else coarse_mask(mask).to(mask_logits.dtype)
            table[q, n] += 20 * focal(mask_logits[q], t) + dice(mask_logits[q], t)
    return table


def assign(cost: Tensor) -> list[tuple[int, int]]:
    rows, columns = linear_sum_assignment(np.asarray(cost.detach(), dtype=np.float64))
    return sorted(zip(rows.tolist(), columns.tolist(), strict=True), key=lambda pair: pair[1])


# --- 2.4; one layer ---


def enlarge(maps: Tensor, height: int, width: int) -> Tensor:
    """(n, h, w) -> (n, H, W), bilinear: pixel i lies at (i + 1/2) h / H - 1/2, or at the border."""

    def weights(pixels: int, cells: int) -> Tensor:
        table = maps.new_zeros(pixels, cells)
        for i in range(pixels):
            place = min(max((i + 0.5) * cells / pixels - 0.5, 0), cells - 1)
            low = math.floor(place)
            table[i, low] += 1 - (place - low)
            table[i, min(low + 1, cells - 1)] += place - low
        return table

    down, along = weights(height, maps.shape[1]), weights(width, maps.shape[2])
    return torch.einsum("yi,nij,xj->nyx", down, maps, along)


def classification(
    class_logits: Tensor, labels: Sequence[Labels], pairs: Sequence[Pairs], nothing_weight: float = 0.1
) -> Tensor:
    """Weighted mean over all queries (B, Q, K + 1)."""
    images, queries, columns = class_logits.shape
    total = weights = class_logits.new_zeros(())
    for b in range(images):
        targets = [columns - 1] * queries
        for q, n in pairs[b]:
            targets[q] = labels[b][n][0]
        for q, target in enumerate(targets):
            weight = nothing_weight if target == columns - 1 else 1.0
            total = total - weight * class_logits[b, q].log_softmax(dim=0)[target]
            weights = weights + weight
    return total / weights


def mask_losses(
    mask_logits: Tensor, labels: Sequence[Labels], pairs: Sequence[Pairs], seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Focal and Dice of (B, Q, h, w), divided by the number of masks; seen: (B, H, W), pixels that count."""
    of_focal = of_dice = mask_logits.new_zeros(())
    count = sum(mask is not None for image in labels for _, mask in image)
    for b, image in enumerate(labels):
        for q, n in pairs[b]:
            mask = image[n][1]
            if mask is None:
                continue
            x, t = enlarge(mask_logits[b, q][None], *mask.shape)[0], mask.to(mask_logits.dtype)
            if seen is not None:
                x, t = x[seen[b]], t[seen[b]]
            of_focal, of_dice = of_focal + focal(x, t), of_dice + dice(x, t)
    return of_focal / max(1, count), of_dice / max(1, count)


def complementary(
    mask_logits: Tensor,
    labels: Sequence[Labels],
    pairs: Sequence[Pairs],
    pad: Tensor,
    *,
    floor: float | None = -2.9444,
    ignore_padding: bool = False,
) -> Tensor:
    """Unweighted loss of (B, Q, h, w); pad (B, H, W) bool."""
    total, images = mask_logits.new_zeros(()), 0
    for b, image in enumerate(labels):
        rows = [mask_logits[b, q] for q, n in pairs[b] if image[n][1] is None]
        if not rows:
            continue
        u = enlarge(torch.stack(rows), *pad.shape[1:]).max(dim=0).values
        if floor is not None:
            u = torch.maximum(u, u.new_tensor(floor))
        g = torch.ones(pad.shape[1:], dtype=u.dtype)
        for _, mask in image:
            if mask is not None:
                g = g * (1 - mask.to(u.dtype))
        g = g * (1 - pad[b].to(u.dtype))
        if ignore_padding:
            u, g = u[~pad[b]], g[~pad[b]]
        total, images = total + 20 * focal(u, g) + dice(u, g), images + 1
    return total / (1e-5 + images)


def set_losses(
    class_logits: Tensor,
    mask_logits: Tensor,
    labels: Sequence[Labels],
    pad: Tensor,
    *,
    weight: float = 0.15,
    floor: float | None = -2.9444,
    ignore_padding: bool = False,
) -> dict[str, Tensor]:
    """Summed over the layers (L, B, Q, ...), each matched on its own, and weighted 1, 20, 1, `weight`."""
    names = ("classification", "focal", "dice", "complementary")
    sums = dict.fromkeys(names, class_logits.new_zeros(()))
    for classes, masks in zip(class_logits, mask_logits, strict=True):
        pairs = [assign(costs(c, m, image)) for c, m, image in zip(classes, masks, labels, strict=True)]
        f, d = mask_losses(masks, labels, pairs, ~pad if ignore_padding else None)
        union = complementary(masks, labels, pairs, pad, floor=floor, ignore_padding=ignore_padding)
        parts = (classification(classes, labels, pairs), 20 * f, d, weight * union)
        sums = {name: sums[name] + part for name, part in zip(names, parts, strict=True)}
    return sums


# --- 2.5 ---


def simnet(state: Mapping[str, Tensor], first: Tensor, second: Tensor, depth: int) -> Tensor:
    """t (R, I, J) of points (R, I, C) and (R, J, C): 1 x 1 convolutions on the (R, 2C, I, J) image of all
    pairs, batch statistics."""
    points, others = first.shape[1], second.shape[1]
    x = torch.cat(
        [
            first[:, :, None].expand(-1, -1, others, -1),
            second[:, None].expand(-1, points, -1, -1),
        ],
        dim=3,
    ).permute(0, 3, 1, 2)

    def conv(name: str, maps: Tensor) -> Tensor:
        return F.conv2d(maps, state[f"{name}.weight"][:, :, None, None], state[f"{name}.bias"])

    def norm(name: str, maps: Tensor) -> Tensor:
        mean = maps.mean(dim=(0, 2, 3), keepdim=True)
        variance = maps.var(dim=(0, 2, 3), keepdim=True, unbiased=False)
        scale, shift = (state[f"{name}.{key}"][:, None, None] for key in ("weight", "bias"))
        return (maps - mean) / (variance + 1e-5).sqrt() * scale + shift

    for name in ["first", *(f"further.{number}" for number in range(depth - 1))]:
        r = F.relu(conv(f"{name}.shortcut", x)) if name == "first" else x
        h = F.relu(norm(f"{name}.first_norm", conv(f"{name}.first", x)))
        x = F.relu(norm(f"{name}.second_norm", conv(f"{name}.second", h))) + r
    return conv("head", x).softmax(dim=1)[:, 1]


class Balance:
    """Running sums over the last updates."""

    def __init__(self, length: int = 25) -> None:
        self.window: deque[tuple[int, int]] = deque([(1, 1)], maxlen=length)

    def weights(self, negatives: int, positives: int) -> tuple[float, float]:
        """w_0, w_1."""
        self.window.append((negatives, positives))
        n0, n1 = (sum(column) for column in zip(*self.window, strict=True))
        return n1 / (n0 + n1), n0 / (n0 + n1)


def sim_loss(
    t: Tensor, a: Sequence[int], b: Sequence[int], base: set[int], balance: Balance, released: bool
) -> Tensor:
    """t (2, J, J); labels a, b of the points of both images, base ids."""
    y, v = np.zeros(t.shape, dtype=int), np.zeros(t.shape, dtype=int)
    for row, (ours, theirs) in enumerate(((a, b), (b, a))):
        for i, mine in enumerate(ours):
            for j, other in enumerate(theirs):
                y[row, i, j] = mine == other
                v[row, i, j] = mine in base or other in base
    counted = y[:, ::5, ::5].flatten() if released else y[v == 1]
    w = balance.weights(int((counted == 0).sum()), int((counted == 1).sum()))
    total = t.new_zeros(())
    for index in np.ndindex(*y.shape):
        chance = t[index] if y[index] else 1 - t[index]
        total = total - v[index] * w[y[index]] * chance.log().clamp(min=-100)
    return total / max(1e-5, v.sum())


# --- 2.6 ---


def fused(class_logits: Tensor, mask_logits: Tensor, novel: Sequence[int]) -> Tensor:
    """s (novel, h, w) of an image: class_logits (Q, K + 1), mask_logits (Q, h, w)."""
    p = class_logits.softmax(dim=1)
    planes = [sum(p[q, c] * mask_logits[q].sigmoid() for q in range(len(p))) for c in novel]
    return torch.stack([torch.as_tensor(plane) for plane in planes])


def cosines(ours: Tensor, theirs: Tensor) -> Tensor:
    """r (I, J) of scores (I, n) and (J, n)."""
    r = ours.new_zeros(len(ours), len(theirs))
    for i, u in enumerate(ours):
        for j, v in enumerate(theirs):
            r[i, j] = F.cosine_similarity(u, v, dim=0, eps=1e-8).clamp(min=0)
    return r


def dist_loss(t: Tensor, r: Tensor, form: str, threshold: float = 0.5) -> Tensor:
    terms = []
    for teacher, student in zip(t.flatten(), r.flatten(), strict=True):
        if form == "cce":
            near = max(0.0, float(teacher) - 0.5) * torch.log(1 + student)
            terms.append(-near - max(0.0, 0.5 - float(teacher)) * torch.log(2 - student))
        elif form == "ce":
            q, p = student.clamp(0.01, 0.99), teacher.clamp(0.01, 0.99)
            terms.append(-(p * torch.log(q) + (1 - p) * torch.log(1 - q)))
        else:
            terms.append(-(teacher - threshold) * student)
    return torch.stack(terms).mean()
