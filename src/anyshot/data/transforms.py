"""Joint transforms of images and maps on NumPy arrays; all randomness comes from the generator that is handed
in.

Images are uint8 (H, W, 3) RGB, maps (H, W) or (C, H, W); windows and sizes are in px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

Array = np.ndarray


@dataclass(frozen=True)
class CropWindow:
    """A square crop: which part of the source lands where in the canvas (rows then columns)."""

    size: int
    source: tuple[slice, slice]
    target: tuple[slice, slice]

    def apply(self, array: Array, *, fill: float | Sequence[float] = 0) -> Array:
        """Crop (H, W), (H, W, C) or (C, H, W) -> (size, size[, C]) or (C, size, size); the rest holds `fill`.

        A 3-D array is taken as channels first unless it is uint8 with 3 channels last (an image).
        """
        if array.ndim == 2:
            canvas = np.full((self.size, self.size), fill, dtype=array.dtype)
            canvas[self.target] = array[self.source]
        elif array.dtype == np.uint8 and array.shape[2] == 3:
            canvas = np.empty((self.size, self.size, 3), dtype=array.dtype)
            canvas[:] = np.asarray(fill, dtype=array.dtype)
            canvas[self.target] = array[self.source]
        else:
            canvas = np.full((len(array), self.size, self.size), fill, dtype=array.dtype)
            canvas[(slice(None), *self.target)] = array[(slice(None), *self.source)]
        return canvas

    @property
    def window(self) -> tuple[int, int, int, int]:
        """The source part as (y0, y1, x0, x1)."""
        rows, columns = self.source
        return rows.start, rows.stop, columns.start, columns.stop


def random_crop(height: int, width: int, size: int, rng: np.random.Generator) -> CropWindow:
    """Random window; a side shorter than `size` is placed whole at a random offset of the canvas (retab.md
    2.3)."""
    (source_y, target_y), (source_x, target_x) = (_random_side(side, size, rng) for side in (height, width))
    return CropWindow(size, (source_y, source_x), (target_y, target_x))


def corner_crop(height: int, width: int, size: int, rng: np.random.Generator) -> CropWindow:
    """Random window; a side shorter than `size` starts at 0, so padding is right and bottom (retab.md 4)."""
    sides = []
    for side in (height, width):
        start = int(rng.integers(0, max(side - size, 0) + 1))
        length = min(side, size)
        sides.append((slice(start, start + length), slice(0, length)))
    return CropWindow(size, (sides[0][0], sides[1][0]), (sides[0][1], sides[1][1]))


def _random_side(side: int, size: int, rng: np.random.Generator) -> tuple[slice, slice]:
    length = min(side, size)
    start = int(rng.integers(0, abs(side - size) + 1))
    inside = slice(start, start + length)
    return (inside, slice(0, length)) if side > size else (slice(0, length), inside)


def normalise(image: Array, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W), ((x / 255) - mean) / std."""
    scale = (1.0 / (255.0 * np.asarray(std, dtype=np.float64))).astype(np.float32)
    shift = (-np.asarray(mean, dtype=np.float64) / np.asarray(std, dtype=np.float64)).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray((image * scale + shift).transpose(2, 0, 1)))


def resize_image(image: Array, height: int, width: int, *, bicubic: bool = False) -> Array:
    """Pillow's resize of a uint8 image (antialiased when shrinking)."""
    if image.shape[:2] == (height, width):
        return image
    kind = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((width, height), kind))


def resize_labels(labels: Array, height: int, width: int) -> Array:
    """Nearest resize of a label map, pixel centres aligned."""
    rows = np.minimum(((np.arange(height) + 0.5) * labels.shape[0] / height).astype(int), labels.shape[0] - 1)
    columns = np.minimum(
        ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(int), labels.shape[1] - 1
    )
    return labels[np.ix_(rows, columns)]


def long_side_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Size whose longer side is `long_side` px, aspect kept, no side below 1."""
    factor = long_side / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def colour_jitter(image: Array, strengths: Sequence[float], rng: np.random.Generator) -> Array:
    """Brightness, contrast, saturation (factors 1 +- s) and hue (+- s of the circle) in random order;
    uint8."""
    order = rng.permutation(4)
    factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths[:3]]
    hue = rng.uniform(-strengths[3], strengths[3])
    if not any(strengths):
        return image
    for kind in order:
        if kind == 3:
            image = _shift_hue(image, hue) if strengths[3] else image
        elif strengths[kind]:
            image = _blend(image, factors[kind], kind)
    return image


def _blend(image: Array, factor: float, kind: int) -> Array:
    """Blend with black (brightness), the mean grey (contrast) or the grey image (saturation)."""
    if kind == 0:
        return cv2.convertScaleAbs(image, alpha=factor)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if kind == 1:
        table = np.arange(256) * factor + (1 - factor) * float(np.round(grey.mean()))
        return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))
    return cv2.addWeighted(image, factor, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), 1 - factor, 0)


def _shift_hue(image: Array, shift: float) -> Array:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)  # 8-bit hue wraps around by itself
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def ssd_jitter(image: Array, rng: np.random.Generator) -> Array:
    """Colours as SSD draws them, each step every other time, uint8 (simformer.md 3).

    Brightness +- 32 grey levels; contrast factor 0.5 to 1.5, saturation likewise, hue +- 18 of 180, the
    contrast before the two or after them.
    """
    if rng.random() < 0.5:
        image = _scaled(image, 1.0, rng.uniform(-32, 32))
    contrast_first = rng.random() < 0.5
    if contrast_first and rng.random() < 0.5:
        image = _scaled(image, rng.uniform(0.5, 1.5))
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = int(rng.integers(-18, 19)) if rng.random() < 0.5 else 0
    if saturation != 1.0 or hue:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = _scaled(hsv[..., 1], saturation)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not contrast_first and rng.random() < 0.5:
        image = _scaled(image, rng.uniform(0.5, 1.5))
    return image


def _scaled(values: Array, factor: float, shift: float = 0.0) -> Array:
    """factor x values + shift, clipped to 0..255, uint8."""
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(values), table)


def draw_contour(mask: Array, *, width: int, ignore: int = 255) -> Array:
    """Mask with `ignore` painted on a contour of about `width` px along every change of label (retab.md
    P1)."""
    edge = np.zeros(mask.shape, dtype=np.uint8)
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    edge[1:, :] |= mask[1:, :] != mask[:-1, :]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    return np.where(cv2.dilate(edge, kernel) > 0, np.array(ignore, dtype=mask.dtype), mask)
