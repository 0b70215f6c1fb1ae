"""The map that stands for a mask in the re-training (simformer.md 2.8, phase 2). No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anyshot.simformer.tables import IGNORE


def pseudo_labels(prediction: np.ndarray, *, base: np.ndarray, novel: Sequence[int]) -> np.ndarray:
    """Class indices (H, W) uint8: the true base classes; elsewhere novel classes of the image as predicted.

    All else is 255.

    prediction: (H, W) class indices; base: (H, W), 255 where no base class is; novel: those of the image.
    """
    labels = np.where(np.isin(prediction, list(novel)), prediction, IGNORE).astype(np.uint8)
    return np.where(base != IGNORE, base, labels).astype(np.uint8)
