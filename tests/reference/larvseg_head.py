"""LarvSeg's head, image-level losses and memory bank in the words of larvseg.md 2.2 to 2.5: every vector of
the bank, every upsampled logit, one pair after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, h, w) -> (n, H', W')."""
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


# --- 2.2 ---


@dataclass
class Head:
    """Wp, Wc (D, D), T (G, D), gamma, beta."""

    wp: Tensor
    wc: Tensor
    table: Tensor
    gamma: Tensor
    beta: Tensor

    def units(self, image: Tensor) -> Tensor:
        """X (D, h, w) -> (P, D)."""
        return torch.stack([unit(token @ self.wp) for token in image.flatten(1).T])

    def class_units(self, rows: Sequence[int]) -> Tensor:
        return torch.stack([unit(self.table[row] @ self.wc) for row in rows])

    def logits(self, image: Tensor, rows: Sequence[int]) -> Tensor:
        """(N, h, w); `rows` may name a row more than once."""
        z = []
        for x in self.units(image):
            s = torch.stack([x @ c for c in self.class_units(rows)])
            v = ((s - s.mean()) ** 2).mean()
            z.append(self.gamma * (s - s.mean()) / (v + 1e-5).sqrt() + self.beta)
        return torch.stack(z, dim=1).unflatten(1, image.shape[1:])


# --- 2.3, 2.4 ---


def pixel_loss(logits: Tensor, labels: Tensor, *, ignore: int = 255, valid_only: bool = False) -> Tensor:
    """Upsampled logits (B, N, h, w); labels (B, H', W')."""
    total, number = logits.new_zeros(()), 0
    for low, truth in zip(logits, labels, strict=True):
        z = enlarge(low, (truth.shape[0], truth.shape[1]))
        for y in range(truth.shape[0]):
            for x in range(truth.shape[1]):
                label = int(truth[y, x])
                number += label != ignore or not valid_only
                if label != ignore:
                    total = total + z[:, y, x].exp().sum().log() - z[label, y, x]
    return total / number


def excluding(pooled: Tensor, label: int, labels: Sequence[int]) -> Tensor:
    """log of the sum over V without the other labels, less the label's own."""
    kept = [n for n in range(len(pooled)) if n == label or n not in labels]
    return pooled[kept].exp().sum().log() - pooled[label]


def image_loss(logits: Tensor, labels: Sequence[Sequence[int]], size: tuple[int, int]) -> Tensor:
    """Logits (B, N, h, w)."""
    costs = []
    for low, present in zip(logits, labels, strict=True):
        pooled = enlarge(low, size).mean(dim=(1, 2))
        costs += [excluding(pooled, label, present) for label in present]
    return torch.stack(costs).mean() if costs else logits.new_zeros(())


def image_loss_bce(logits: Tensor, labels: Sequence[Sequence[int]], valid: Tensor) -> Tensor:
    """Logits (B, N, h, w); valid (B, H', W') bool. Images without a label are left out."""
    images = []
    for low, present, known in zip(logits, labels, valid, strict=True):
        if not present:
            continue
        pooled = enlarge(low, (known.shape[0], known.shape[1]))[:, known].mean(dim=1)
        costs = [
            -pooled[n].sigmoid().log() if n in present else -(1 - pooled[n].sigmoid()).log()
            for n in range(len(pooled))
        ]
        images.append(torch.stack(costs).mean())
    return torch.stack(images).mean() if images else logits.new_zeros(())


# --- 2.5 ---


class Bank:
    """Q (G, M, k, D), ptr (G,), full (G,)."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors / vectors.norm(dim=3, keepdim=True)
        self.ptr = [0] * len(vectors)
        self.full = [0] * len(vectors)

    def response(self, units: Tensor, row: int) -> Tensor:
        """Mean cosine of each token with all M k vectors of a class: (P,)."""
        flat = self.vectors[row].flatten(0, 1)
        return torch.stack([torch.stack([x @ u / u.norm() for u in flat]).mean() for x in units])

    def enqueue(self, units: Tensor, scores: Tensor, row: int) -> None:
        """The k tokens with the largest cosine, scores (P,)."""
        slots, k = self.vectors.shape[1:3]
        best = sorted(range(len(scores)), key=lambda p: -float(scores[p]))[:k]
        self.vectors[row, self.ptr[row]] = units[best]
        self.full[row] += self.ptr[row] == slots - 1
        self.ptr[row] = (self.ptr[row] + 1) % slots


@dataclass
class Rule:
    warm_up: int = 1
    background: bool = True
    gated: bool = False
    topk: int = 5
    threshold: float = 0.2
    mse: float = 1.0
    single_image: bool = False
    two_phase: bool = False


def standard(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std(unbiased=True)


def background(
    bank: Bank,
    units: Tensor,
    scores: Tensor,
    rows: Sequence[int],
    label: int,
    labels: Sequence[int],
    rule: Rule,
) -> Tensor:
    """beta (P,) of a pair; scores (P, N)."""
    f = bank.response(units, rows[label])
    chosen = [c for c in labels if c != label]
    if not chosen:
        for c in range(len(rows)):
            if c != label and scores[:, c].sort(descending=True).values[: rule.topk].mean() > rule.threshold:
                r = bank.response(units, rows[c])
                if ((standard(f) - standard(r)) ** 2).mean() > rule.mse:
                    chosen.append(c)
    if rule.gated:
        chosen = [c for c in chosen if bank.full[rows[c]] >= rule.warm_up]
    if not chosen:
        return 1 - f
    return torch.stack([bank.response(units, rows[c]) for c in chosen]).mean(dim=0)


def attention(e: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """e (P,) -> a (H', W')."""
    normal = (e - e.mean()) / (e.var(unbiased=False) + 1e-5).sqrt()
    return enlarge(normal.reshape(1, *grid), size)[0].sigmoid()


def attentive_loss(
    head: Head,
    bank: Bank,
    images: Tensor,
    labels: Sequence[Sequence[int]],
    rows: Sequence[int],
    size: tuple[int, int],
    rule: Rule,
    valid: Tensor | None = None,
) -> Tensor:
    """X (B, D, h, w), label sets, rows of V; changes the bank. valid (B, H', W'): pool over these only."""
    costs: list[Tensor] = []

    def write(b: int, label: int) -> None:
        x, c = head.units(images[b]).detach(), head.class_units(rows).detach()
        bank.enqueue(x, x @ c[label], rows[label])

    def look(b: int, label: int) -> None:
        z = head.logits(images[b], rows)
        x, c = head.units(images[b]).detach(), head.class_units(rows).detach()
        e = bank.response(x, rows[label])
        if rule.background:
            e = e - background(bank, x, x @ c.T, rows, label, labels[b], rule)
        weighted = attention(e, (images.shape[2], images.shape[3]), size) * enlarge(z, size)
        pooled = weighted.mean(dim=(1, 2)) if valid is None else weighted[:, valid[b]].mean(dim=1)
        cold = bank.full[rows[label]] < rule.warm_up
        costs.append(0 * pooled.sum() if cold else excluding(pooled, label, labels[b]))

    every = [(b, label) for b, present in enumerate(labels) for label in sorted(present)]
    if not rule.two_phase:
        for pair in every:
            for step in (write, look) if rule.single_image else (look, write):
                step(*pair)
    elif rule.single_image:
        for b in range(len(labels)):
            for step in (write, look):
                for label in sorted(labels[b]):
                    step(b, label)
    else:
        for step in (look, write):
            for pair in every:
                step(*pair)
    return torch.stack(costs).mean() if costs else images.new_zeros(())
