"""Circle loss over all pairs of a batch (raml.md 2.4; 5 item 5)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def circle_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.25,
    gamma: float = 8.0,
    form: Literal["official", "paper"] = "official",
) -> Tensor:
    """softplus(lse_n + lse_p) over all unordered pairs of unit embeddings (N, D), labels (N,); scalar.

    Pairs of one class have similarity s_p, others s_n. `official` weighs each pair by its distance from the
    optimum, a constant for the gradient: exponents gamma [1 + m - s_p]+ (1 - m - s_p) and
    gamma [s_n + m]+ (s_n - m). `paper` prints -gamma s_p and gamma (s_n + m).

    The full symmetric matrix holds every pair twice, so each of both sums is divided by 2. Without a positive
    or without a negative pair the loss is 0 and its gradients are 0.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        vectors = embeddings.float()
        similarity = vectors @ vectors.T
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if not (positive.any() and not same.all()):
        return similarity.sum() * 0
    if form == "official":
        fixed = similarity.detach()
        attract = gamma * (1 + margin - fixed).clamp(min=0) * (1 - margin - similarity)
        repel = gamma * (fixed + margin).clamp(min=0) * (similarity - margin)
    else:
        attract, repel = -gamma * similarity, gamma * (similarity + margin)
    attraction = attract.masked_fill(~positive, -math.inf).flatten().logsumexp(dim=0)
    repulsion = repel.masked_fill(same, -math.inf).flatten().logsumexp(dim=0)
    return F.softplus(repulsion + attraction - 2 * math.log(2))
