"""Losses and anomaly metrics of RAML as loops in the words of the specification (raml.md 2.3, 2.4, 2.9,
4.1)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def overlap(p: Tensor, q: Tensor) -> Tensor:
    """o(p, q) = (<p, q> + 1) / (|p|^2 + |q|^2 + 1) per sample; p, q (B, n)."""
    return ((p * q).sum(dim=1) + 1) / (p.pow(2).sum(dim=1) + q.pow(2).sum(dim=1) + 1)


def one_hot(target: Tensor, known: int) -> Tensor:
    """int64 (B, K, H, W); void and novel pixels are 0 in all planes."""
    planes = [(target == k).long() for k in range(known)]
    return torch.stack(planes, dim=1)


def known_parts(channels: Tensor, target: Tensor, known: int) -> list[tuple[Tensor, Tensor]]:
    """Half-Dice and binary cross entropy of each known class."""
    truth = one_hot(target, known)
    parts = []
    for k in range(known):
        c, t = channels[:, k], truth[:, k].to(channels.dtype)
        dice = (1 - overlap(c.flatten(1), t.flatten(1))).mean()
        log_on, log_off = c.log().clamp(min=-100), (1 - c).log().clamp(min=-100)
        parts.append((dice, -(t * log_on + (1 - t) * log_off).mean()))
    return parts


def known_loss(channels: Tensor, target: Tensor, known: int) -> Tensor:
    parts = known_parts(channels, target, known)
    return torch.stack([dice + entropy for dice, entropy in parts]).mean()


def split_loss(channels: Tensor, known: int, coverage: float = 0.02, form: str = "official") -> Tensor:
    costs = []
    for i in range(known, channels.shape[1]):
        if form == "paper":
            costs.append(-torch.log((coverage * channels[:, i].sum()).clamp(min=1)))
        else:
            costs.append(-torch.log((channels[:, i].mean() / coverage).clamp(0, 1)))
    return torch.stack(costs).mean()


def inter_loss(channels: Tensor, form: str = "official") -> Tensor:
    """All ordered pairs one by one, two contiguous copies each, as published."""
    batch, count = channels.shape[:2]
    total = channels.new_zeros(())
    pairs = 0
    for i in range(count):
        for j in range(count):
            if i == j or (form == "paper" and i > j):
                continue
            first = channels[:, i].contiguous().view(batch, -1)
            second = channels[:, j].contiguous().view(batch, -1)
            total = total + overlap(first, second).mean()
            pairs += 1
    return total if form == "paper" else total / pairs


def reconstruction_loss(channels: Tensor, images: Tensor, form: str = "official") -> Tensor:
    """Through the product (B, 3, K + M, H, W)."""
    rebuilt = (images[:, :, None] * channels[:, None]).sum(dim=2)
    if form == "paper":
        return torch.stack([(a - b).pow(2).sum().sqrt() for a, b in zip(rebuilt, images, strict=True)]).mean()
    return (rebuilt - images).pow(2).mean()


def circle_loss(
    embeddings: Tensor, labels: Tensor, margin: float = 0.25, gamma: float = 8.0, form: str = "official"
) -> Tensor:
    """Every unordered pair by itself."""
    positive, negative = [], []
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            s = (embeddings[i] * embeddings[j]).sum()
            if labels[i] == labels[j]:
                weight = max(1 + margin - s.item(), 0)
                positive.append(-gamma * weight * (s - (1 - margin)) if form == "official" else -gamma * s)
            else:
                weight = max(s.item() + margin, 0)
                negative.append(gamma * weight * (s - margin) if form == "official" else gamma * (s + margin))
    if not positive or not negative:
        return (embeddings * 0).sum()
    exponent = torch.stack(negative).logsumexp(dim=0) + torch.stack(positive).logsumexp(dim=0)
    return torch.log1p(torch.exp(exponent))


def pool_by_class(
    features: Tensor, labels: Tensor, keep: Tensor, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A product of all features with one mask per draw, class and image."""
    vectors, of_class, of_image = [], [], []
    for draw in keep:
        for k in range(classes):
            for b in range(len(features)):
                mask = (labels[b] == k) & draw[b]
                if mask.any():
                    vectors.append((features[b] * mask).sum(dim=(1, 2)) / mask.sum())
                    of_class.append(k)
                    of_image.append(b)
    stacked = torch.stack(vectors) if vectors else features.new_zeros(0, features.shape[1])
    return stacked, torch.tensor(of_class, dtype=torch.int64), torch.tensor(of_image, dtype=torch.int64)


def keep_from_seeds(seeds: np.ndarray, block: int) -> np.ndarray:
    """seeds bool (h, w)."""
    keep = np.ones(seeds.shape, dtype=bool)
    reach = block // 2
    for y, x in zip(*np.nonzero(seeds), strict=True):
        keep[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] = False
    return keep


def anomaly_scores(scores: np.ndarray, flags: np.ndarray) -> dict[str, float | None]:
    """Every threshold anew, for AUROC every pair; scores, flags (n,)."""
    positive, negative = scores[flags], scores[~flags]
    if not len(positive) or not len(negative):
        return dict.fromkeys(("auroc", "aupr", "fpr95", "fpr95_nearest"))
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    points = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        hits, alarms = int((positive >= threshold).sum()), int((negative >= threshold).sum())
        points.append((hits / len(positive), alarms / len(negative), hits / (hits + alarms)))
    precision_sum, before = 0.0, 0.0
    for recall, _, precision in points:
        precision_sum += (recall - before) * precision
        before = recall
    first = next(false for recall, false, _ in points if recall >= 0.95)
    nearest, distance = math.nan, math.inf
    for recall, false, _ in points:
        if abs(recall - 0.95) <= distance:
            nearest, distance = false, abs(recall - 0.95)
        if recall == 1:
            break
    auroc = float(wins / len(positive) / len(negative))
    return {"auroc": auroc, "aupr": precision_sum, "fpr95": first, "fpr95_nearest": nearest}


def embedding_logits(features: Tensor, scale: float = 3.0) -> Tensor:
    """-|f - m_k|^2 through all differences (K, K, ...)."""
    classes = len(features)
    centres = scale * torch.eye(classes).reshape(classes, classes, *[1] * (features.dim() - 1))
    return -(features[None] - centres).pow(2).sum(dim=1)
