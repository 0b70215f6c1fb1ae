"""What the report draws of an image: where a network with a bank looks for the classes that are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from anyshot.larvseg.inference import Classifier, attention, see
from anyshot.larvseg.networks import LarvSegNet
from anyshot.larvseg.options import View
from anyshot.larvseg.vocabulary import Member

MAPS = 6  # of an image at most, for the classes with most pixels


def shown_attention(
    model: LarvSegNet,
    classifier: Classifier,
    image: np.ndarray,
    truth: np.ndarray,
    *,
    member: Member,
    view: View,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
) -> dict[str, np.ndarray]:
    """Attention maps of an image (H, W, 3) for the classes of its truth (H, W), class indices of a target.

    `attention` (n, h, w) float16 in 0..1 on the grid of tokens of the whole image, `labels` (n,) int32 class
    indices, most pixels first, `warm` (n,) bool. n = 0 for a network without a bank.
    """
    indices, counts = np.unique(truth[(truth >= 0) & (truth < len(member.rows))], return_counts=True)
    if model.bank is None or not len(indices):
        return {
            "attention": np.zeros((0, 1, 1), np.float16),
            "labels": np.zeros(0, np.int32),
            "warm": np.zeros(0, bool),
        }
    largest = indices[np.argsort(-counts, kind="stable")]
    by_position: dict[int, int] = {}  # several classes that share a row have one map
    for index in largest:
        by_position.setdefault(member.positions[index], int(index))
    shown = list(by_position)[:MAPS]
    whole = view.model_copy(update={"window": None})
    seen = see(model, image, view=whole, mean=mean, std=std, device=device)
    found = attention(
        model.bank,
        classifier,
        seen.maps[0],
        rows=torch.tensor(member.active),
        labels=shown,
        present=sorted(by_position),
    )
    return {
        "attention": found.maps.cpu().numpy().astype(np.float16),
        "labels": np.asarray([by_position[position] for position in shown], np.int32),
        "warm": found.warm.numpy(),
    }
