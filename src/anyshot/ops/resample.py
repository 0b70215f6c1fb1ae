"""Resampling between the image and the feature grid, to the letter of the published code (retab.md 2.9,
G12)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def padded(length: int, stride: int) -> int:
    """Length in px after padding to a multiple of `stride`."""
    return -(-length // stride) * stride


def pool_to_grid(maps: np.ndarray, *, stride: int = 8) -> np.ndarray:
    """Zero-pad (C, H, W) right and bottom, then average blocks of stride x stride px; float32 (C, h, w)."""
    channels, height, width = maps.shape
    rows, columns = padded(height, stride), padded(width, stride)
    full = np.zeros((channels, rows, columns), dtype=np.float32)
    full[:, :height, :width] = maps
    return full.reshape(channels, rows // stride, stride, columns // stride, stride).mean(axis=(2, 4))


def upsample_grid(maps: np.ndarray, *, stride: int, height: int, width: int) -> np.ndarray:
    """Bilinear (half-pixel) upsampling of (C, h, w) by `stride`, cropped to (C, height, width), float32."""
    if len(maps) == 0:
        return np.zeros((0, height, width), dtype=np.float32)
    tensor = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[None]
    if stride == 1:
        return tensor[0, :, :height, :width].numpy()
    full = F.interpolate(tensor, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return full[0, :, :height, :width].numpy()


def nearest_indices(length: int, cells: int) -> np.ndarray:
    """Source index floor(i * length / cells) of each cell: the published nearest resize, which drifts
    (P4)."""
    return np.minimum((np.arange(cells) * (length / cells)).astype(np.int64), length - 1)


def mask_to_grid(
    mask: np.ndarray, *, height: int, width: int, stride: int = 8, official: bool = True
) -> np.ndarray:
    """Nearest resize of (H, W) to the grid (height, width), cells. `official` stretches, else cell i reads px
    i * stride."""
    if official:
        rows, columns = nearest_indices(mask.shape[0], height), nearest_indices(mask.shape[1], width)
    else:
        rows = np.minimum(np.arange(height) * stride, mask.shape[0] - 1)
        columns = np.minimum(np.arange(width) * stride, mask.shape[1] - 1)
    return mask[np.ix_(rows, columns)]
