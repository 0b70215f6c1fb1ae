"""Region proposal, pooling, matching and painting, cell by cell and region by region (raml.md 2.5, 2.6)."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate


def union_of_channels(channels: np.ndarray, selected: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """1 - prod(1 - c) over the selected, binarised channels."""
    rest = np.ones(channels.shape[1:], dtype=np.uint8)
    for channel, chosen in zip(channels, selected, strict=True):
        if chosen:
            rest *= (channel < threshold).astype(np.uint8)
    return (1 - rest).astype(np.uint8)


def quarter_round_trip(maps: Tensor) -> Tensor:
    """maps (B, C, h, w), both resizes."""
    height, width = maps.shape[-2:]
    full = interpolate(maps, size=(4 * height, 4 * width), mode="bilinear", align_corners=False)
    return interpolate(full, size=(height, width), mode="bilinear", align_corners=False)


def closing(binary: np.ndarray, size: int) -> np.ndarray:
    """Dilate with 0 beyond the border, then erode with 1 beyond it."""
    reach = size // 2

    def extreme(values: np.ndarray, beyond: int, best: np.ufunc) -> np.ndarray:
        padded = np.pad(values, reach, constant_values=beyond)
        out = np.empty_like(values)
        for y in range(values.shape[0]):
            for x in range(values.shape[1]):
                out[y, x] = best.reduce(padded[y : y + size, x : x + size], axis=None)
        return out

    return extreme(extreme(binary, 0, np.maximum), 1, np.minimum)


def components(binary: np.ndarray, min_area: int, connectivity: int = 8) -> list[list[tuple[int, int]]]:
    """Cells of each connected component of at least min_area cells, by flooding."""
    height, width = binary.shape
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    if connectivity == 4:
        steps = [(dy, dx) for dy, dx in steps if dy == 0 or dx == 0]
    seen = binary == 0
    found = []
    for y in range(height):
        for x in range(width):
            if seen[y, x]:
                continue
            seen[y, x] = True
            cells, queue = [], deque([(y, x)])
            while queue:
                cell = queue.popleft()
                cells.append(cell)
                for dy, dx in steps:
                    v, u = cell[0] + dy, cell[1] + dx
                    if 0 <= v < height and 0 <= u < width and not seen[v, u]:
                        seen[v, u] = True
                        queue.append((v, u))
            if len(cells) >= min_area:
                found.append(cells)
    return found


def without_small(labels: np.ndarray, min_area: int) -> np.ndarray:
    """The label map with small components set to 0, compared once per component."""
    out = labels.copy()
    for number in range(1, int(labels.max()) + 1):
        mask = labels == number
        if mask.sum() < min_area:
            out[mask] = 0
    return out


def region_means(features: Tensor, labels: np.ndarray, count: int) -> Tensor:
    """All features times the mask of each region."""
    means = []
    for number in range(1, count + 1):
        mask = torch.from_numpy((labels == number).astype(np.float32))
        means.append((features * mask).sum(dim=(1, 2)) / mask.sum().clamp(min=1))
    return torch.stack(means) if means else features.new_zeros(0, len(features))


def match(embeddings: np.ndarray, prototypes: np.ndarray, threshold: float, strict: bool) -> list[int]:
    """The best accepted prototype of every embedding, or -1."""
    choices = []
    for e in embeddings.astype(np.float64):
        best, choice = -np.inf, -1
        for number, p in enumerate(prototypes.astype(np.float64)):
            cosine = float(e @ p / np.linalg.norm(e) / np.linalg.norm(p))
            accepted = cosine > threshold if strict else cosine >= threshold
            if accepted and cosine > best:
                best, choice = cosine, number
        choices.append(choice)
    return choices


def paint(prediction: np.ndarray, labels: np.ndarray, values: list[int]) -> np.ndarray:
    """Pixel by pixel."""
    out = prediction.copy()
    (height, width), (rows, columns) = prediction.shape, labels.shape
    for y in range(height):
        for x in range(width):
            number = int(labels[y * rows // height, x * columns // width])
            if number and values[number - 1] >= 0:
                out[y, x] = values[number - 1]
    return out


def confusion_by_rows(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """One bincount per image row, as published; int64 (C, C). Truth outside 0..C-1 is left out."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    for true_row, row in zip(truth, prediction, strict=True):
        known = (true_row >= 0) & (true_row < classes)
        codes = classes * true_row[known].astype(int) + row[known]
        counts += np.bincount(codes, minlength=classes**2).reshape(classes, classes)
    return counts


def confusion_after_passes(truth: np.ndarray, prediction: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Both maps renamed by `table` (C,), one pass per class, then counted row by row, as published."""
    renamed = []
    for source in (truth, prediction):
        out = source.copy()
        for old, new in enumerate(table):
            out[source == old] = new
        renamed.append(out)
    return confusion_by_rows(renamed[0], renamed[1], len(table))
