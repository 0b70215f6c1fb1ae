"""POP's head, losses, pseudo labels and stage-2 step in the words of the specification (pop.md 2.2 to 2.4).

f and g are lists of their three matrices (C, C), (C, C), (1, C). A feature is projected onto every prototype,
and every projection, (B, K, C, h, w) in all, goes through the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Mlp = Sequence[Tensor]


def mlp(weights: Mlp, maps: Tensor) -> Tensor:
    """y = W3 relu(W2 relu(W1 x)) of every cell of (N, C, h, w): (N, h, w)."""
    first, second, third = (weight[:, :, None, None] for weight in weights)
    hidden = torch.relu(torch.nn.functional.conv2d(maps, first))
    hidden = torch.relu(torch.nn.functional.conv2d(hidden, second))
    return torch.nn.functional.conv2d(hidden, third)[:, 0]


def unit(prototypes: Tensor) -> Tensor:
    """s_k = p_k / |p_k|."""
    return prototypes / prototypes.norm(dim=1, keepdim=True).clamp(min=1e-12)


def vectors(q: Tensor, prototypes: Tensor) -> Tensor:
    """v_k = a_k s_k with a_k = <s_k, q>: (B, K, C, h, w)."""
    s = unit(prototypes)
    a = torch.stack([(q * one[:, None, None]).sum(dim=1) for one in s], dim=1)
    return a[:, :, None] * s[None, :, :, None, None]


def class_logits(v: Tensor, weights: Mlp) -> Tensor:
    """f(v_k) for every class: (B, K, h, w)."""
    return mlp(weights, v.flatten(0, 1)).unflatten(0, v.shape[:2])


def stage_1_logits(q: Tensor, base: Tensor, f: Mlp) -> Tensor:
    """z_0 = f(q - sum v), z_k = f(v_k): (B, 1 + Kb, h, w)."""
    v = vectors(q, base)
    background = mlp(f, q - v.sum(dim=1))
    return torch.cat([background[:, None], class_logits(v, f)], dim=1)


def stage_2_logits(q: Tensor, base: Tensor, novel: Tensor, f: Mlp, g: Mlp, whole: bool = False) -> Tensor:
    """z_0 = g(q - all sums), base by f, novel by g: (B, 1 + Kb + Kn, h, w). `whole`: z_0 = g(q)."""
    v, n = vectors(q, base), vectors(q, novel)
    background = mlp(g, q if whole else q - v.sum(dim=1) - n.sum(dim=1))
    return torch.cat([background[:, None], class_logits(v, f), class_logits(n, g)], dim=1)


def orthogonality(base: Tensor) -> Tensor:
    """Mean |cosine| over all pairs i < j."""
    s = unit(base)
    terms = [(s[i] * s[j]).sum().abs() for i in range(len(s)) for j in range(i + 1, len(s))]
    return torch.stack(terms).mean()


def novel_orthogonality(novel: Tensor, base: Tensor) -> Tensor:
    """Mean |cosine| over novel pairs i < j and all pairs of a novel and a base prototype."""
    s, fixed = unit(novel), unit(base).detach()
    terms = [(s[i] * s[j]).sum().abs() for i in range(len(s)) for j in range(i + 1, len(s))]
    terms += [(one * other).sum().abs() for one in s for other in fixed]
    return torch.stack(terms).mean()


def upsample(logits: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with aligned corners: (B, C, h, w) -> (B, C, height, width); pixel i lies at i (h-1)/(H-1)."""
    out = logits.new_empty(*logits.shape[:2], height, width)
    for y in range(height):
        for x in range(width):
            out[:, :, y, x] = _between(logits, _place(y, height, logits.shape[2]),
                                       _place(x, width, logits.shape[3]))  # fmt: skip
    return out


def _place(pixel: int, size: int, cells: int) -> float:
    return pixel * (cells - 1) / (size - 1) if size > 1 else 0.0


def _between(logits: Tensor, y: float, x: float) -> Tensor:
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, logits.shape[2] - 1), min(left + 1, logits.shape[3] - 1)
    upper = (1 - (x - left)) * logits[:, :, top, left] + (x - left) * logits[:, :, top, right]
    lower = (1 - (x - left)) * logits[:, :, bottom, left] + (x - left) * logits[:, :, bottom, right]
    return (1 - (y - top)) * upper + (y - top) * lower


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of log sum exp z - z_label over the pixels that are not 255; sizes are equal."""
    costs = []
    for b, y, x in labels.ne(255).nonzero().tolist():
        z = logits[b, :, y, x]
        costs.append(z.exp().sum().log() - z[int(labels[b, y, x])])
    return torch.stack(costs).mean()


def pseudo_labels(logits: Tensor, mask: Tensor, base_classes: int) -> Tensor:
    """Background pixels take the best of background and novel classes, one by one."""
    large = upsample(logits, *mask.shape[1:])
    out = mask.clone()
    for b, y, x in mask.eq(0).nonzero().tolist():
        best = int(large[b, :, y, x].argmax())
        out[b, y, x] = 0 if best == 0 else base_classes + best
    return out


@dataclass
class Step:
    """What one step of stage 2 computes."""

    logits: Tensor
    base_labels: Tensor
    entropy: Tensor
    overlap: Tensor
    loss: Tensor


def stage_2_step(
    novel_features: Tensor,
    novel_labels: Tensor,
    base_features: Tensor,
    base_labels: Tensor,
    *,
    base: Tensor,
    novel: Tensor,
    f: Mlp,
    g: Mlp,
    weight: float = 10.0,
) -> Step:
    """Logits of novel and base images, pseudo labels, the loss; features (B, C, h, w), labels (B, H, W)."""
    logits = stage_2_logits(torch.cat([novel_features, base_features]), base, novel, f, g)
    shown = torch.cat([logits[:, :1], logits[:, 1 + len(base) :]], dim=1)[len(novel_features) :]
    relabelled = pseudo_labels(shown.detach(), base_labels, len(base))
    large = upsample(logits, *base_labels.shape[1:])
    entropy = cross_entropy(large, torch.cat([novel_labels, relabelled]))
    overlap = novel_orthogonality(novel, base)
    return Step(logits, relabelled, entropy, overlap, entropy + weight * overlap)
