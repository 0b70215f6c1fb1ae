"""From a padded square's logits to the pixels of the image in it (pop.md 2.5)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anyshot.ops.argmax import argmax
from anyshot.ops.upsampled import upsampled_rows
from anyshot.pop.geometry import canvas_side


def decide(logits: Tensor, height: int, width: int) -> np.ndarray:
    """Class indices (height, width) uint8 of the logits (C, h, w) of an image that was padded to a square.

    The logits are upsampled with aligned corners to a square of the image's longer side, whose top left part
    the image is; no more of it is computed.
    """
    found = np.empty((height, width), dtype=np.uint8)
    side = canvas_side(height, width)
    for rows, part in upsampled_rows(logits, side, side, align_corners=True, corner=(height, width)):
        found[rows] = argmax(part, dim=1).to(torch.uint8).cpu().numpy()
    return found


def probabilities(logits: Tensor, height: int, width: int) -> np.ndarray:
    """Class probabilities (C, height, width) float32, the softmax of the logits that `decide` compares."""
    found = np.empty((len(logits), height, width), dtype=np.float32)
    side = canvas_side(height, width)
    for rows, part in upsampled_rows(logits, side, side, align_corners=True, corner=(height, width)):
        found[:, rows] = part.softmax(dim=1).transpose(0, 1).cpu().numpy()
    return found
