"""Images, masks and annotations small enough to count by hand."""

from __future__ import annotations

import numpy as np

from anyshot.data.options import DataOptions, Prepare


def options(source: DataOptions) -> Prepare:
    """Options of a data set called `test`."""
    return Prepare(name="test", source=source)


def picture(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    """A noisy uint8 RGB image (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def mask_of(*ids: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A mask of vertical stripes, one per id, uint8 (height, width)."""
    stripe = np.array(ids, dtype=np.uint8)[np.arange(width) * len(ids) // width]
    return np.repeat(stripe[None], height, axis=0)


def annotation(*names: str) -> str:
    """A VOC annotation with one box per name."""
    boxes = "".join(f"<object><name>{name}</name></object>" for name in names)
    return f"<annotation>{boxes}</annotation>"
