"""Sizes of images in POP, in px: halves round up, as in the official code (pop.md 1.7). No torch here."""

from __future__ import annotations

import math


def scaled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """Size after scaling by `factor`: floor(side * factor + 1/2), 1 or more."""
    return max(1, math.floor(height * factor + 0.5)), max(1, math.floor(width * factor + 0.5))


def test_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Size of a validation or test image before it is padded to a square of `size` px: its longer side has
    that."""
    return scaled_size(height, width, size / max(height, width))


def canvas_side(height: int, width: int) -> int:
    """Side of the square on which logits of an image are decided; the image is its top left part (pop.md
    2.5)."""
    return max(height, width)
