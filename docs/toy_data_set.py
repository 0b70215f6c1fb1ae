"""Write a small data set of drawn shapes in the folder layout, for the tutorial docs/own_data.md.

    python docs/toy_data_set.py FOLDER [--train 48] [--val 12] [--seed 0]

Every image shows one or two of five shapes on a striped ground; the same arguments give the same files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("background", "disc", "square", "triangle", "ring", "cross")
GROUNDS = ((60, 90, 60), (120, 110, 90), (70, 80, 120))  # RGB
PAINTS = ((200, 60, 50), (60, 130, 210), (230, 190, 60), (150, 70, 180), (240, 240, 230))  # RGB, by class


def shape(name: str, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Whether a point lies in a shape; across and down, (H, W), count from its centre in units of its radius.

    Returns bool (H, W).
    """
    distance = np.hypot(across, down)
    inside = {
        "disc": distance < 1,
        "square": np.maximum(abs(across), abs(down)) < 0.85,
        "triangle": (down < 0.8) & (2 * abs(across) - 1 < down),
        "ring": (distance < 1) & (distance > 0.5),
        "cross": (np.minimum(abs(across), abs(down)) < 0.3) & (np.maximum(abs(across), abs(down)) < 1),
    }
    return inside[name]


def draw(rng: np.random.Generator, first: int) -> tuple[np.ndarray, np.ndarray]:
    """One image, uint8 (H, W, 3), and its mask, uint8 (H, W); the class `first` is always in it."""
    height, width = (int(side) for side in rng.integers(88, 121, size=2))
    rows, columns = np.mgrid[:height, :width]
    stripes = np.sin((rows * rng.normal() + columns * rng.normal()) / 6)[..., None]
    image = np.asarray(GROUNDS[rng.integers(len(GROUNDS))]) + 14 * stripes
    mask = np.zeros((height, width), np.uint8)
    classes = [first, *rng.integers(1, len(CLASSES), size=rng.integers(2)).tolist()]
    for place, number in enumerate(reversed(classes)):  # the first is drawn last, so nothing hides it
        radius = rng.uniform(18, 28)
        x = width * (0.5 if len(classes) == 1 else 0.3 + 0.4 * place) + rng.uniform(-8, 8)
        y = height * 0.5 + rng.uniform(-12, 12)
        inside = shape(CLASSES[number], (columns - x) / radius, (rows - y) / radius)
        paint = np.asarray(PAINTS[number - 1]) + rng.normal(0, 12, size=3)
        image[inside] = paint - 10 * stripes[inside]
        mask[inside] = number
    image += rng.normal(0, 6, size=image.shape)
    return image.clip(0, 255).astype(np.uint8), mask


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=48, help="training images")
    parser.add_argument("--val", type=int, default=12, help="validation images")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    for subset, count in (("train", arguments.train), ("val", arguments.val)):
        for kind in ("images", "masks"):
            (arguments.folder / kind / subset).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, mask = draw(rng, first=1 + number % (len(CLASSES) - 1))
            name = f"{subset}{number:03d}"
            Image.fromarray(image).save(arguments.folder / "images" / subset / f"{name}.jpg", quality=92)
            Image.fromarray(mask).save(arguments.folder / "masks" / subset / f"{name}.png")
    table = "".join(f"{number},{name}\n" for number, name in enumerate(CLASSES))
    (arguments.folder / "classes.csv").write_text(f"id,name\n{table}", encoding="utf-8")


if __name__ == "__main__":
    main()
