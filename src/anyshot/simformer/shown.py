"""What the report draws of an image: its best proposals, and what is similar to a few of its points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyshot.data.transforms import normalise, resize_image
from anyshot.simformer.datasets import short_side_size
from anyshot.simformer.inference import View, proposals_of
from anyshot.simformer.networks import SimFormer
from anyshot.simformer.options import Scales

POINTS = 3  # per image, whose similarity to all others is shown
CELL = 4  # px per cell of the pixel embeddings


def shown_proposals(view: View, *, count: int) -> dict[str, np.ndarray]:
    """The `count` proposals surest of a class.

    `proposal_classes` (N,) class indices, `proposal_scores` (N,) their probabilities, `proposal_masks`
    (N, h, w) uint8, probability x 255 at the size the network saw.
    """
    scores, classes = view.classes.max(dim=1)
    order = scores.argsort(descending=True)[:count]
    return {
        "proposal_classes": classes[order].cpu().numpy().astype(np.uint8),
        "proposal_scores": scores[order].cpu().numpy().astype(np.float32),
        "proposal_masks": (255 * view.pixels[order]).round().byte().cpu().numpy(),
    }


def similarity_maps(
    model: SimFormer,
    image: np.ndarray,
    truth: np.ndarray,
    *,
    scales: Scales,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
) -> dict[str, np.ndarray]:
    """Similarity of every cell to three points of the image, as the similarity network sees it.

    The points lie inside the largest classes of `truth` (H, W). `points` (N, 2) are row and column of the
    image, `similarities` (N, h, w) uint8 P(same class) x 255 at stride 4. Empty for a network without
    similarity.
    """
    if model.similarity is None:
        return {}
    places = _places(truth)
    size = short_side_size(image.shape[0], image.shape[1], scales.short_sides[0], scales.longest)
    pixels = normalise(resize_image(image, *size), mean=mean, std=std).to(device)[None]
    embeddings = proposals_of(model, pixels).pixels[0]
    embeddings = embeddings[:, : -(-size[0] // CELL), : -(-size[1] // CELL)]
    height, width = embeddings.shape[1:]
    cells = [
        (min(row * height // truth.shape[0], height - 1), min(column * width // truth.shape[1], width - 1))
        for row, column in places
    ]
    every: Tensor = embeddings.flatten(1).T
    points = torch.stack([embeddings[:, row, column] for row, column in cells])
    similarity = model.similarity(points[None].float(), every[None].float())[0]
    maps = similarity.reshape(len(cells), height, width)
    found: dict[str, Any] = {
        "points": np.asarray(places, dtype=np.uint16),
        "similarities": (255 * maps).round().byte().cpu().numpy(),
    }
    return found


def _places(truth: np.ndarray) -> list[tuple[int, int]]:
    """A pixel well inside each of the largest classes: the median of its rows, and of that row's columns."""
    counts = np.bincount(truth.ravel(), minlength=256)[:255]
    largest = [index for index in np.argsort(-counts, kind="stable")[:POINTS] if counts[index]]
    places = []
    for index in largest or [None]:
        rows, columns = np.nonzero(truth == index) if index is not None else np.nonzero(truth >= 0)
        row = int(np.median(rows))
        row = int(rows[np.argmin(np.abs(rows - row))])
        own = np.sort(columns[rows == row])
        places.append((row, int(own[len(own) // 2])))
    return places
