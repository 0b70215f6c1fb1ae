"""Affinities by gathering, their loss, and the labels of novel samples cell by cell (retab.md 2.6, 2.8)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tests.reference.neighbours import from_cells, offsets, pairs


def pair_affinity(features: Tensor, radius: int) -> Tensor:
    """a_ij = exp(-mean_c |f_c(i) - f_c(j)|), (B, O, F), with index tensors as the published code does."""
    height, width = features.shape[-2:]
    flat = features.flatten(2)
    start = torch.tensor(from_cells(radius, height, width), dtype=torch.long)
    steps = [dy * width + dx for dy, dx in offsets(radius)]
    stop = torch.stack([start + step for step in steps]) if steps else start.new_zeros(0, len(start))
    one = flat[:, :, start].unsqueeze(2)
    other = flat[:, :, stop.flatten()].unflatten(2, stop.shape)
    return torch.exp(-torch.mean(torch.abs(one - other), dim=1))


def planes(features: np.ndarray, radius: int, border: str = "official") -> np.ndarray:
    """Affinities of features (C, h, w) pair by pair, laid out as (O, h, w) at the from cells, float64."""
    channels, height, width = features.shape
    flat = features.reshape(channels, -1).astype(np.float64)
    found = np.zeros((len(offsets(radius)), height * width))
    for o, start, stop in pairs(radius, height, width, border):
        found[o, start] = math.exp(-np.abs(flat[:, start] - flat[:, stop]).mean())
    return found.reshape(-1, height, width)


def affinity_loss(
    affinity: np.ndarray, background: np.ndarray, foreground: np.ndarray, different: np.ndarray
) -> dict[str, float]:
    """l_bg = -sum bgpos ln(a + 1e-5) / (sum bgpos + 1e-5), l_fg likewise, l_neg with ln(1 + 1e-5 - a)."""
    parts = []
    for group, sign in ((background, 1), (foreground, 1), (different, -1)):
        total = count = 0.0
        for a, member in zip(affinity.ravel().tolist(), group.ravel().tolist(), strict=True):
            if member:
                total -= math.log(a + 1e-5) if sign > 0 else math.log(1 + 1e-5 - a)
                count += 1
        parts.append(total / (count + 1e-5))
    return {
        "loss": parts[0] / 4 + parts[1] / 4 + parts[2] / 2,
        "background": parts[0],
        "foreground": parts[1],
        "different": parts[2],
    }


def novel_label(la: list[float], ha: list[float], open_cell: bool = True) -> int:
    """The label of one cell: out = l; 255 where l = 0; 0 where g = 0; 255 in padding; 255 at a boundary."""
    low, high = la.index(max(la)), ha.index(max(ha))
    out = low
    if low == 0:
        out = 255
    if high == 0:
        out = 0
    if max(la + ha) < 1e-5:
        out = 255
    if not open_cell:
        out = 255
    return out


def novel_labels(la: np.ndarray, ha: np.ndarray, open_cells: np.ndarray | None) -> np.ndarray:
    """`novel_label` of every cell of (K+1, h, w) maps."""
    height, width = la.shape[1:]
    out = np.zeros((height, width), dtype=np.uint8)
    for y in range(height):
        for x in range(width):
            cell = True if open_cells is None else bool(open_cells[y, x])
            out[y, x] = novel_label(la[:, y, x].tolist(), ha[:, y, x].tolist(), cell)
    return out


def boundary_loss(logits: np.ndarray, labels: np.ndarray, ignore: int = 254) -> dict[str, float]:
    """[|B|>0] mean_B sp(-z) + 1/2 [|G|>0] mean_G sp(z) + 1/2 [|O|>0] mean_O sp(z), pixel by pixel."""
    groups: dict[str, list[float]] = {"boundary": [], "background": [], "object": []}
    for z, label in zip(logits.ravel().tolist(), labels.ravel().tolist(), strict=True):
        if label == 255:
            groups["boundary"].append(math.log1p(math.exp(-z)))
        elif label == 0:
            groups["background"].append(math.log1p(math.exp(z)))
        elif label != ignore:
            groups["object"].append(math.log1p(math.exp(z)))
    mean = {name: sum(values) / len(values) if values else 0.0 for name, values in groups.items()}
    return {"loss": mean["boundary"] + mean["background"] / 2 + mean["object"] / 2, **mean}
