"""What scene objects are made of: outlines in object coordinates, x to the right, y down, about -1..1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """A filled outline, or where `thickness` is above 0 a line of that width. `points`: (n, 2), x and y."""

    material: str
    points: Points
    thickness: float = 0.0


@dataclass(frozen=True)
class Material:
    """A surface: hues to choose from (a turn is 1), saturation, value, and a pattern in a second shade.

    `contrast` is the factor on the value of the pattern's second colour; `hue_shift` is added to its hue.
    """

    hues: tuple[float, ...]
    saturation: float
    value: float
    pattern: str = "plain"
    frequency: float = 4.0
    contrast: float = 0.6
    hue_shift: float = 0.0


@dataclass(frozen=True)
class ObjectClass:
    """A class: its parts from back to front, its materials by name, and whether it stands on the ground."""

    name: str
    parts: tuple[Part, ...]
    materials: dict[str, Material] = field(default_factory=dict)
    stands: bool = True


# Hues to choose from.
ANY: Final = (0.0, 0.09, 0.17, 0.45, 0.62, 0.72, 0.85)
WARM: Final = (0.0, 0.05, 0.1, 0.15, 0.95)
COOL: Final = (0.5, 0.6, 0.68, 0.76, 0.85)


def ellipse(material: str, x: float, y: float, width: float, height: float, turn: float = 0.0) -> Part:
    """An ellipse around (x, y) of half axes `width` and `height`, turned by `turn` degrees."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    outline = np.stack([width * np.cos(angle), height * np.sin(angle)], axis=1)
    return Part(material, outline @ _rotation(turn) + (x, y))


def polygon(material: str, *corners: tuple[float, float], smooth: int = 0) -> Part:
    """A polygon; each of the `smooth` rounds cuts its corners off."""
    return Part(material, _cut_corners(np.array(corners, dtype=float), smooth, closed=True))


def line(material: str, thickness: float, *points: tuple[float, float], smooth: int = 2) -> Part:
    """A line with round ends through (near, where smoothed) some points."""
    return Part(material, _cut_corners(np.array(points, dtype=float), smooth, closed=False), thickness)


def arc(
    material: str, thickness: float, x: float, y: float, width: float, height: float, start: float, end: float
) -> Part:
    """A piece of an ellipse's outline, from `start` to `end` degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, end, 32))
    return Part(
        material, np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1), thickness
    )


def box(material: str, left: float, top: float, right: float, bottom: float, smooth: int = 0) -> Part:
    """A rectangle."""
    return polygon(material, (left, top), (right, top), (right, bottom), (left, bottom), smooth=smooth)


def star(
    material: str, x: float, y: float, outer: float, inner: float, tips: int, turn: float = -90.0
) -> Part:
    """A star of `tips` tips, the first in direction `turn` degrees."""
    angle = np.radians(turn) + np.arange(2 * tips) * np.pi / tips
    radius = np.where(np.arange(2 * tips) % 2 == 0, outer, inner)
    return Part(material, np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1))


def spiral(material: str, thickness: float, x: float, y: float, radius: float, turns: float) -> Part:
    """A spiral line from the outer radius to the centre."""
    share = np.linspace(1.0, 0.08, 60)
    angle = share * turns * 2 * np.pi
    points = np.stack([x + radius * share * np.cos(angle), y + radius * share * np.sin(angle)], axis=1)
    return Part(material, points, thickness)


def _rotation(degrees: float) -> Points:
    """The matrix that turns row vectors clockwise on the screen."""
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _cut_corners(points: Points, rounds: int, *, closed: bool) -> Points:
    """Chaikin's corner cutting: every edge is replaced by its middle half."""
    for _ in range(rounds):
        after = np.roll(points, -1, axis=0) if closed else points[1:]
        before = points if closed else points[:-1]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], axis=1).reshape(-1, 2)
        points = cut if closed else np.concatenate([points[:1], cut, points[-1:]])
    return points
