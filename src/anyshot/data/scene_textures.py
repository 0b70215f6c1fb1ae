"""Surfaces of the generated scenes: patterns of objects, and the six kinds of stuff behind them.

A pattern maps object coordinates (h, w) to the share, 0..1, of a material's second colour. A stuff texture
fills an image (h, w, 3) with RGB values in 0..1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Pattern = Callable[[Plane, Plane, float], Plane]


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cell: float, *, stretch: float = 1.0
) -> Plane:
    """Noise of about unit variance in blobs `cell` px high and `cell * stretch` px wide: (height, width)."""
    rows = max(2, round(height / cell) + 1)
    columns = max(2, round(width / (cell * stretch)) + 1)
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def blurred(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian blur of (H, W) or (H, W, 3), `sigma` in px."""
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), dtype=np.float32)


def colour(hue: float, saturation: float, value: float) -> NDArray[np.float32]:
    """RGB in 0..1 of a colour given by hue (a turn is 1), saturation and value, each clipped to its range."""
    parts = colorsys.hsv_to_rgb(hue % 1.0, float(np.clip(saturation, 0, 1)), float(np.clip(value, 0, 1)))
    return np.array(parts, dtype=np.float32)


def _soft(values: Plane, sharpness: float = 4.0) -> Plane:
    """Waves in -1..1 to shares in 0..1, with edges as sharp as asked for."""
    return np.asarray(0.5 + 0.5 * np.tanh(sharpness * values), dtype=np.float32)


def plain(u: Plane, v: Plane, frequency: float) -> Plane:
    """No pattern."""
    return np.zeros_like(u)


def bands(u: Plane, v: Plane, frequency: float) -> Plane:
    """Horizontal stripes."""
    return _soft(np.sin(np.pi * frequency * v))


def ribs(u: Plane, v: Plane, frequency: float) -> Plane:
    """Vertical stripes with soft edges."""
    return _soft(np.sin(np.pi * frequency * u), 1.5)


def diagonals(u: Plane, v: Plane, frequency: float) -> Plane:
    """Slanted stripes."""
    return _soft(np.sin(np.pi * frequency * (u + v) * 0.7071))


def checks(u: Plane, v: Plane, frequency: float) -> Plane:
    """A chessboard."""
    return _soft(np.sin(np.pi * frequency * u) * np.sin(np.pi * frequency * v), 6.0)


def dots(u: Plane, v: Plane, frequency: float) -> Plane:
    """Round spots, every other row shifted."""
    row = np.floor(v * frequency)
    across = (u * frequency + 0.5 * (row % 2)) % 1.0 - 0.5
    along = (v * frequency) % 1.0 - 0.5
    return _soft(0.28 - np.hypot(across, along), 14.0)


def scales(u: Plane, v: Plane, frequency: float) -> Plane:
    """Overlapping arcs like a fish's scales."""
    row = np.floor(v * frequency)
    across = (u * frequency + 0.5 * (row % 2)) % 1.0 - 0.5
    along = (v * frequency) % 1.0
    return np.asarray(np.clip(np.hypot(across, along) ** 3, 0, 1), dtype=np.float32)


def zigzag(u: Plane, v: Plane, frequency: float) -> Plane:
    """Horizontal stripes that go up and down."""
    teeth = np.abs((u * frequency) % 1.0 - 0.5)
    return _soft(np.sin(np.pi * frequency * v + 3.0 * teeth))


def rings(u: Plane, v: Plane, frequency: float) -> Plane:
    """Circles around the object's centre."""
    return _soft(np.sin(np.pi * frequency * np.hypot(u, v)))


def plates(u: Plane, v: Plane, frequency: float) -> Plane:
    """Dark seams between six-sided plates."""
    angles = (0.0, np.pi / 3, 2 * np.pi / 3)
    waves = [np.cos(np.pi * frequency * (u * np.cos(a) + v * np.sin(a))) for a in angles]
    return _soft(-0.55 - (waves[0] + waves[1] + waves[2]), 3.0)


def knit(u: Plane, v: Plane, frequency: float) -> Plane:
    """Rows of small slanted stitches."""
    column = np.floor(u * frequency)
    slant = np.where(column % 2 == 0, 1.0, -1.0) * ((u * frequency) % 1.0 - 0.5)
    return _soft(np.sin(2 * np.pi * frequency * v + 2.5 * slant), 1.2)


def grain(u: Plane, v: Plane, frequency: float) -> Plane:
    """Wavy lines along the object."""
    return _soft(np.sin(np.pi * frequency * (u + 0.12 * np.sin(3.0 * v + 5.0 * u))), 1.5)


PATTERNS: Final[dict[str, Pattern]] = {
    pattern.__name__: pattern
    for pattern in (plain, bands, ribs, diagonals, checks, dots, scales, zigzag, rings, plates, knit, grain)
}


def sky(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """A vertical gradient with soft clouds."""
    top = colour(rng.uniform(0.55, 0.61), rng.uniform(0.35, 0.7), rng.uniform(0.7, 0.95))
    low = colour(rng.uniform(0.52, 0.6), rng.uniform(0.08, 0.25), rng.uniform(0.88, 1.0))
    fall = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** 0.8
    base = top * (1 - fall) + low * fall
    unit = width / 160
    noise = smooth_noise(rng, height, width, 16 * unit, stretch=2.5) + 0.5 * smooth_noise(
        rng, height, width, 7 * unit
    )
    clouds = (np.clip(noise - rng.uniform(0.0, 0.9), 0, 1) * 0.8)[..., None]
    return np.asarray(base * (1 - clouds) + clouds * 0.97, dtype=np.float32)


def grass(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Upright blades, finer towards the top, in patches of two greens."""
    unit = width / 160
    blades = smooth_noise(rng, height, width, 5 * unit, stretch=0.25) + 0.7 * smooth_noise(
        rng, height, width, 2 * unit
    )
    patches = smooth_noise(rng, height, width, 30 * unit, stretch=1.8)
    dark = colour(rng.uniform(0.24, 0.33), rng.uniform(0.55, 0.85), rng.uniform(0.22, 0.34))
    light = colour(rng.uniform(0.2, 0.28), rng.uniform(0.5, 0.75), rng.uniform(0.55, 0.75))
    share = np.clip(0.45 + 0.22 * blades + 0.12 * patches, 0, 1)[..., None]
    return np.asarray(dark * (1 - share) + light * share, dtype=np.float32)


def sand(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Fine grain over wide ripples."""
    unit = width / 160
    ripples = smooth_noise(rng, height, width, 9 * unit, stretch=5.0)
    fine = rng.standard_normal((height, width), dtype=np.float32)
    base = colour(rng.uniform(0.09, 0.13), rng.uniform(0.25, 0.42), rng.uniform(0.72, 0.9))
    return np.asarray(base * (1 + 0.06 * ripples + 0.09 * fine)[..., None], dtype=np.float32)


def water(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Flat waves with bright crests."""
    unit = width / 160
    waves = smooth_noise(rng, height, width, 3.5 * unit, stretch=6.0)
    waves += 0.6 * smooth_noise(rng, height, width, 8 * unit, stretch=4.0)
    deep = colour(rng.uniform(0.47, 0.57), rng.uniform(0.6, 0.85), rng.uniform(0.3, 0.5))
    crest = colour(rng.uniform(0.48, 0.56), rng.uniform(0.15, 0.35), rng.uniform(0.75, 0.95))
    share = np.clip(0.32 + 0.24 * waves, 0, 1)[..., None] ** 1.4
    return np.asarray(deep * (1 - share) + crest * share, dtype=np.float32)


def brick(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Courses of bricks in mortar, each brick of its own shade."""
    tall = width / 160 * rng.uniform(9, 13)
    wide = tall * rng.uniform(2.0, 2.5)
    rows = np.arange(height, dtype=np.float32)[:, None] / tall + np.zeros((1, width), np.float32)
    columns = np.arange(width, dtype=np.float32)[None, :] / wide + 0.5 * (np.floor(rows) % 2)
    shades = rng.standard_normal((int(rows.max()) + 1, int(columns.max()) + 1), dtype=np.float32)
    shade = shades[np.floor(rows).astype(int), np.floor(columns).astype(int)]
    base = colour(rng.uniform(0.0, 0.06), rng.uniform(0.4, 0.65), rng.uniform(0.45, 0.68))
    face = (
        base * (1 + 0.13 * shade + 0.06 * rng.standard_normal((height, width), dtype=np.float32))[..., None]
    )
    joint = (np.minimum(rows % 1.0, (columns % 1.0) * wide / tall) < 0.16)[..., None]
    mortar = colour(0.1, 0.08, rng.uniform(0.62, 0.8))
    return np.asarray(np.where(joint, mortar, face), dtype=np.float32)


def wood(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """Planks with grain along them and dark gaps between them."""
    tall = width / 160 * rng.uniform(16, 26)
    rows = np.arange(height, dtype=np.float32)[:, None] / tall + np.zeros((1, width), np.float32)
    lines = smooth_noise(rng, height, width, width / 160 * 1.6, stretch=22.0)
    shade = rng.standard_normal(int(rows.max()) + 1, dtype=np.float32)[np.floor(rows).astype(int)]
    base = colour(rng.uniform(0.05, 0.09), rng.uniform(0.45, 0.65), rng.uniform(0.45, 0.7))
    gap = np.where(rows % 1.0 < 0.07, 0.45, 1.0)
    return np.asarray(base * ((1 + 0.1 * lines + 0.09 * shade) * gap)[..., None], dtype=np.float32)


Stuff = Callable[[np.random.Generator, int, int], NDArray[np.float32]]
STUFF: Final[dict[str, Stuff]] = {
    texture.__name__: texture for texture in (sky, grass, sand, water, brick, wood)
}
