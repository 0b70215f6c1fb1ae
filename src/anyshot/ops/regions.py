"""Region proposals: from meta channels to painted regions, without a loop over regions (raml.md 2.5, 2.6, 5).

All maps lie on the quarter grid, h = H / 4, w = W / 4, one cell = 4 px of the image, unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# one-hot rows per product in `region_means`: 128 x 131,072 cells of a Cityscapes image are 64 MiB
REGIONS_PER_PRODUCT = 128


def select_channels(
    channels: Tensor, mask: Tensor, *, share: float = 0.15, threshold: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Which meta channels cover an object, bool (M,), and the shares they cover, float64 (M,) (raml.md 2.5
    step 3).

    channels (M, H, W) in [0, 1], mask bool (H, W) of the object, both at full resolution. A channel is
    selected when more than `share` (published code 0.15, paper 0.1) of the mask is >= `threshold` in it.
    Nothing is selected by an empty mask.
    """
    hits = (channels[:, mask] >= threshold).sum(dim=1)
    pixels = int(mask.sum())
    return hits > share * pixels, hits.double() / max(pixels, 1)


def union_of_channels(channels: Tensor, selected: Tensor, threshold: float = 0.5) -> np.ndarray:
    """Cells where any selected channel is >= `threshold`, uint8 (h, w) in {0, 1} (raml.md 2.6 step 2).

    channels (M, h, w) in [0, 1], selected bool (M,); all zero when nothing is selected.
    """
    chosen = channels[selected.to(channels.device)]
    binary = (chosen >= threshold).any(dim=0)
    return np.asarray(binary.to(torch.uint8).cpu().numpy())


def quarter_round_trip(maps: Tensor) -> Tensor:
    """Maps (..., h, w) after bilinear x 4 upsampling and bilinear / 4 downsampling (raml.md 5 item 7).

    With align_corners=False and no antialiasing both steps together are the filter [1, 14, 1] / 16 along
    either axis, edges replicated. This holds only where the full size is exactly H = 4h and W = 4w; for any
    other size the two resizes have to be made.
    """
    return _three_taps(_three_taps(maps, dim=-1), dim=-2)


def _three_taps(maps: Tensor, *, dim: int) -> Tensor:
    length = maps.shape[dim]
    first, last = maps.narrow(dim, 0, 1), maps.narrow(dim, length - 1, 1)
    before = torch.cat([first, maps.narrow(dim, 0, length - 1)], dim=dim)
    after = torch.cat([maps.narrow(dim, 1, length - 1), last], dim=dim)
    return maps * (14 / 16) + (before + after) / 16


def closing(binary: np.ndarray, size: int) -> np.ndarray:
    """Morphological closing of uint8 (h, w) by a square of `size` cells (raml.md 2.6 step 3).

    Size 1 changes nothing. Beyond the border lies 0 for the dilation and 1 for the erosion, so the border
    never erodes. Raises ValueError for an even size, whose square has no centre.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"the closing has size {size}; give an odd number of cells, 1 for none")
    if size == 1:
        return binary.copy()
    square = np.ones((size, size), dtype=np.uint8)
    return np.asarray(cv2.morphologyEx(np.ascontiguousarray(binary), cv2.MORPH_CLOSE, square))


@dataclass(frozen=True)
class Regions:
    """Connected components of a binary map: labels int32 (h, w), 0 outside, 1..T inside; areas int64 (T,) in
    cells; boxes int64 (T, 4) as y0, x0, y1, x1, the last two exclusive."""

    labels: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray

    @property
    def count(self) -> int:
        return len(self.areas)


def find_regions(binary: np.ndarray, *, min_area: int, connectivity: int = 8) -> Regions:
    """Connected components of uint8 (h, w) with at least `min_area` cells (raml.md 2.6 step 4; 5 items 8, 9).

    The kept ones are numbered 1..T in the order OpenCV finds them, which is that of their first 2 x 2 block
    from top left, whatever the number of threads.
    """
    image = np.ascontiguousarray(binary, dtype=np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=connectivity, ltype=cv2.CV_32S)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area
    keep[0] = False
    table = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    kept = stats[keep].astype(np.int64)
    left, top = kept[:, cv2.CC_STAT_LEFT], kept[:, cv2.CC_STAT_TOP]
    bottom, right = top + kept[:, cv2.CC_STAT_HEIGHT], left + kept[:, cv2.CC_STAT_WIDTH]
    return Regions(
        labels=table[labels],
        areas=kept[:, cv2.CC_STAT_AREA],
        boxes=np.stack([top, left, bottom, right], axis=1),
    )


def region_means(features: Tensor, labels: Tensor | np.ndarray, count: int) -> Tensor:
    """Mean of features (C, h, w) over every region, float32 (count, C) (raml.md 5 item 8).

    labels: integers (h, w), 0 outside, 1..count inside; a region without a cell gets 0. One product of
    one-hot rows with the features instead of one masked sum per region: deterministic on every device.
    """
    flat = features.reshape(len(features), -1).float()
    cells = torch.as_tensor(labels, device=features.device).reshape(1, -1)
    means = []
    with torch.autocast(features.device.type, enabled=False):
        for start in range(1, count + 1, REGIONS_PER_PRODUCT):
            stop = min(start + REGIONS_PER_PRODUCT, count + 1)
            numbers = torch.arange(start, stop, device=features.device)
            members = (cells == numbers[:, None]).float()
            means.append(members @ flat.T / members.sum(dim=1, keepdim=True).clamp(min=1))
    return torch.cat(means) if means else flat.new_zeros(0, len(flat))


def masked_mean(features: Tensor, mask: Tensor) -> Tensor | None:
    """Mean of features (C, h, w) over mask bool (h, w), float32 (C,); None when the mask is empty
    (raml.md 2.5 step 1)."""
    members = features[:, mask]
    return members.float().mean(dim=1) if members.shape[1] else None


def match_regions(
    embeddings: Tensor, prototypes: Tensor, threshold: float, *, strict: bool = False
) -> tuple[Tensor, Tensor]:
    """Cosines (T, N) of embeddings (T, D) to prototypes (N, D), and the accepted prototype int64 (T,) or -1.

    The norms of both are divided out: a prototype is a mean of unit vectors and shorter than 1. The best
    prototype is accepted at cosine >= threshold, with `strict` (paper) only above it; of equal ones the first
    listed wins (raml.md 2.6 step 5).
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        cosines = F.normalize(embeddings.float(), dim=1) @ F.normalize(prototypes.float(), dim=1).T
    cosines = cosines.clamp(-1, 1)  # rounding must not carry a cosine over a threshold of 1
    if not cosines.shape[1]:
        return cosines, torch.full((len(cosines),), -1, dtype=torch.int64, device=cosines.device)
    choice = cosines.argmax(dim=1)
    best = cosines.gather(1, choice[:, None])[:, 0]
    accepted = best > threshold if strict else best >= threshold
    return cosines, torch.where(accepted, choice, -1)


def paint_regions(prediction: np.ndarray, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """New prediction (H, W) with every accepted region overwritten by its value (raml.md 2.6 step 6).

    labels int32 (h, w) in 0..T; values (T,), -1 keeps the prediction below that region. Pixel (y, x) reads
    cell (floor(y h / H), floor(x w / W)): exact x 4 repetition where H = 4h and W = 4w.
    """
    table = np.concatenate([[-1], np.asarray(values)]).astype(np.int32)
    (height, width), (rows, columns) = prediction.shape, labels.shape
    painted = table[labels]
    painted = painted[np.arange(height) * rows // height][:, np.arange(width) * columns // width]
    return np.where(painted < 0, prediction, painted.astype(prediction.dtype))
