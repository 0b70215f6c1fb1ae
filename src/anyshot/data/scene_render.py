"""Drawing one object of the generated scenes: parts, patterns, relief and light, as colours and alpha."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from anyshot.data.scene_objects import SHARED
from anyshot.data.scene_shapes import Material, ObjectClass, Part
from anyshot.data.scene_textures import PATTERNS, Plane, colour

# Layers are drawn at this many times their final size, then averaged down: smooth edges, exact masks.
OVERSAMPLING: Final = 2
SHIFT: Final = 4  # OpenCV's sub-pixel bits

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Light:
    """Where a scene's light comes from: (x, y, towards the viewer) of unit length, and strength."""

    x: float
    y: float
    z: float
    strength: float


@dataclass(frozen=True)
class Pose:
    """How an object lies in its layer: object coordinates to px by `matrix` (2, 2) and `offset` (2,)."""

    matrix: Points
    offset: Points
    bend: Points

    def to_layer(self, points: Points) -> Points:
        """Points (n, 2) of the object in px of the oversampled layer, bent a little."""
        amount, phase = self.bend[:2], self.bend[2:]
        bent = points + amount * np.sin(2.2 * points[:, ::-1] + phase)
        return np.asarray(bent @ self.matrix.T + self.offset)

    def to_object(self, height: int, width: int) -> tuple[Plane, Plane]:
        """Object coordinates u, v, each (height, width), of the layer's pixels."""
        inverse = np.linalg.inv(self.matrix)
        x = np.arange(width)[None, :] - self.offset[0]
        y = np.arange(height)[:, None] - self.offset[1]
        u = inverse[0, 0] * x + inverse[0, 1] * y
        v = inverse[1, 0] * x + inverse[1, 1] * y
        return u.astype(np.float32), v.astype(np.float32)


def draw_object(
    thing: ObjectClass, extent: float, light: Light, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Plane]:
    """Draw an object whose longer side is `extent` px.

    Returns:
        colours (h, w, 3) in 0..1 and alpha (h, w) in 0..1, cut to the object's box.
    """
    pose, height, width = _pose(thing, extent * OVERSAMPLING, rng)
    u, v = pose.to_object(height, width)
    scale = float(np.sqrt(abs(np.linalg.det(pose.matrix))))
    surfaces = {name: _Surface(material, u, v, rng) for name, material in (SHARED | thing.materials).items()}
    colours = np.zeros((height, width, 3), dtype=np.float32)
    alpha = np.zeros((height, width), dtype=np.float32)
    for part in thing.parts:
        stencil = _stencil(part, pose, scale, height, width)
        rows, columns = _box(stencil)
        cut = stencil[rows, columns]
        paint = surfaces[part.material].paint(rows, columns) * _relief(cut, light)[..., None]
        share = (cut.astype(np.float32) / 255)[..., None]
        colours[rows, columns] = colours[rows, columns] * (1 - share) + paint * share
        alpha[rows, columns] = np.maximum(alpha[rows, columns], share[..., 0])
    size = (width // OVERSAMPLING, height // OVERSAMPLING)
    small_alpha = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(colours * alpha[..., None], size, interpolation=cv2.INTER_AREA)
    small = small / np.maximum(small_alpha, 1e-3)[..., None]
    return np.clip(small, 0, 1), np.asarray(small_alpha)


class _Surface:
    """A material with the colours this one object happens to have, over object coordinates u, v (h, w)."""

    def __init__(self, material: Material, u: Plane, v: Plane, rng: np.random.Generator) -> None:
        hue = float(rng.choice(material.hues)) + rng.normal(0, 0.012)
        saturation = material.saturation * rng.uniform(0.8, 1.15)
        value = material.value * rng.uniform(0.88, 1.06)
        self._first = colour(hue, saturation, value)
        self._second = colour(hue + material.hue_shift, saturation, value * material.contrast)
        self._pattern = PATTERNS[material.pattern]
        self._frequency = material.frequency * rng.uniform(0.9, 1.1)
        self._u, self._v = u, v

    def paint(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Colours (h, w, 3) of a window of the layer."""
        share = self._pattern(self._u[rows, columns], self._v[rows, columns], self._frequency)[..., None]
        return np.asarray(self._first * (1 - share) + self._second * share, dtype=np.float32)


def _pose(thing: ObjectClass, extent: float, rng: np.random.Generator) -> tuple[Pose, int, int]:
    """A random pose, and the layer's height and width in px; the object's longer side becomes `extent` px."""
    lean = rng.uniform(-12, 12) if thing.stands else rng.uniform(-35, 35)
    angle = np.radians(lean)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.diag([rng.uniform(0.85, 1.18) * rng.choice([-1, 1]), 1.0])
    shear = np.array([[1.0, rng.uniform(-0.12, 0.12)], [0.0, 1.0]])
    matrix = turn @ shear @ stretch
    bend = np.concatenate([rng.uniform(-0.045, 0.045, 2), rng.uniform(0, 2 * np.pi, 2)])
    loose = Pose(matrix, np.zeros(2), bend)
    low, high = _bounds(thing, loose)
    scale = extent / float((high - low).max())
    margin = 2.0 * OVERSAMPLING
    pose = Pose(matrix * scale, margin - low * scale, bend)
    width, height = np.ceil((high - low) * scale + 2 * margin).astype(int)
    return pose, int(height) + int(height) % OVERSAMPLING, int(width) + int(width) % OVERSAMPLING


def _bounds(thing: ObjectClass, pose: Pose) -> tuple[Points, Points]:
    """Lowest and highest x and y of all parts, half the line widths included."""
    lows, highs = [], []
    for part in thing.parts:
        points = pose.to_layer(part.points)
        lows.append(points.min(axis=0) - part.thickness / 2)
        highs.append(points.max(axis=0) + part.thickness / 2)
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _stencil(part: Part, pose: Pose, scale: float, height: int, width: int) -> NDArray[np.uint8]:
    """Where a part is: (height, width), 0 or 255, `scale` in px per unit of object coordinates."""
    stencil = np.zeros((height, width), dtype=np.uint8)
    points = np.round(pose.to_layer(part.points) * (1 << SHIFT)).astype(np.int32)
    if part.thickness:
        thickness = max(2, round(part.thickness * scale))
        cv2.polylines(stencil, [points], False, (255.0,), thickness, cv2.LINE_8, SHIFT)
    else:
        cv2.fillPoly(stencil, [points], (255.0,), cv2.LINE_8, SHIFT)
    return stencil


def _box(stencil: NDArray[np.uint8]) -> tuple[slice, slice]:
    """The smallest window that holds a stencil (one px of it where it is empty)."""
    x, y, width, height = cv2.boundingRect(stencil)
    return slice(y, y + max(height, 1)), slice(x, x + max(width, 1))


def _relief(stencil: NDArray[np.uint8], light: Light) -> Plane:
    """Brightness factor of a part that bulges towards the viewer: Lambert's law and a highlight."""
    padded = cv2.copyMakeBorder(stencil, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0.0,))
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)
    reach = max(float(depth.max()), 1.0)
    # A dome: steep at the rim, flat in the middle. Blurred, for the distance has ridges.
    height = np.sqrt(np.clip(1 - (1 - depth / reach) ** 2, 0, 1)) * reach * 0.75
    height = cv2.GaussianBlur(height, (0, 0), max(0.8, reach / 5))
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1)
    facing = (-slope_x * light.x - slope_y * light.y + light.z) / length
    shade = 1 - light.strength + light.strength * np.clip(facing, 0, 1) / 0.8
    shine = 0.35 * np.clip(facing, 0, 1) ** 24
    return np.asarray((shade + shine)[1:-1, 1:-1], dtype=np.float32)
