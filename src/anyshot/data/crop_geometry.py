"""A size, a window of it and a mirroring, drawn once and applied to an image and its labels alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anyshot.data.transforms import CropWindow, resize_image


@dataclass(frozen=True)
class Geometry:
    """A size, rows then columns, a window of it, and whether it is mirrored."""

    size: tuple[int, int]
    window: CropWindow
    mirror: bool

    def labels(self, labels: np.ndarray, *, fill: int) -> np.ndarray:
        """The crop of a label map; nearest by the floor rule, as torch resizes."""
        rows, columns = (
            np.arange(part.start, part.stop) * source // target
            for part, source, target in zip(self.window.source, labels.shape, self.size, strict=True)
        )
        canvas = np.full((self.window.size, self.window.size), fill, dtype=labels.dtype)
        part = labels[np.ix_(rows, columns)]
        canvas[self.window.target] = part[:, ::-1] if self.mirror else part
        return canvas

    def image(self, image: np.ndarray) -> tuple[np.ndarray, tuple[slice, slice]]:
        """The part (h, w, 3) of an image that falls into the window, and where it lies there."""
        part = resize_image(image, *self.size)[self.window.source]
        return np.ascontiguousarray(part[:, ::-1] if self.mirror else part), self.window.target
