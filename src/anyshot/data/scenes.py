"""The embedded data set: a deterministic generator of photograph-like scenes, written in VOC layout.

A scene depends on its seed, subset and number alone: more scenes, or more processes, change none of them.

    JPEGImages/<id>.jpg             RGB
    SegmentationClassAug/<id>.png   0 background, 1..20 objects, 255 contours
    StuffThings/<id>.png            0..19 objects, 20..25 stuff; no contours
    ImageSets/Segmentation/{train,val}.txt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from anyshot.data.classes import ClassTable
from anyshot.data.files import write_bytes
from anyshot.data.images import write_image, write_mask
from anyshot.data.options import ScenesData
from anyshot.data.scene_objects import OBJECT_NAMES, OBJECTS
from anyshot.data.scene_render import Light, draw_object
from anyshot.data.scene_shapes import ObjectClass
from anyshot.data.scene_textures import STUFF, Plane, blurred, smooth_noise
from anyshot.processes import worker_pool

SUBSETS: Final = ("train", "val")
STUFF_NAMES: Final = tuple(STUFF)
CONTOUR: Final = 255
NOTHING: Final = -1

# Kinds of stuff from top to bottom, and how often they occur together.
LAYOUTS: Final = (
    (("sky", "grass"), 4),
    (("sky", "sand"), 2),
    (("sky", "water"), 2),
    (("sky", "water", "sand"), 3),
    (("sky", "water", "grass"), 1),
    (("brick", "wood"), 3),
    (("brick", "grass"), 2),
    (("brick", "sand"), 1),
    (("wood", "brick"), 1),
    (("wood",), 2),
    (("grass",), 1),
    (("brick",), 1),
)
# Share of images with one, two, three objects.
OBJECT_COUNTS: Final = (0.42, 0.4, 0.18)
# An object is placed again when it, or one behind it, keeps less than this share of its pixels in sight.
VISIBLE_SHARE: Final = 0.55
PLACEMENTS: Final = 25


@dataclass(frozen=True)
class Scene:
    """Image (H, W, 3) RGB; `objects` (H, W) 0..20 and 255; `stuff_things` (H, W) 0..25."""

    image: NDArray[np.uint8]
    objects: NDArray[np.uint8]
    stuff_things: NDArray[np.uint8]


def objects_table() -> ClassTable:
    """Background and the twenty objects, ids 0..20, VOC colours."""
    return ClassTable.of(("background", *OBJECT_NAMES))


def stuff_things_table() -> ClassTable:
    """The twenty objects, ids 0..19, and six kinds of stuff, 20..25; the objects' colours are as above."""
    names = (*OBJECT_NAMES, *STUFF_NAMES)
    kinds = ("thing",) * len(OBJECT_NAMES) + ("stuff",) * len(STUFF_NAMES)
    shifted = ClassTable.of(("background", *names)).colours[1:]
    return ClassTable.of(names, kinds=kinds, colours=shifted)


def scene_id(subset: str, number: int) -> str:
    """The id of a scene, `train_0007`."""
    return f"{subset}_{number:04d}"


def write_scenes(folder: Path, options: ScenesData, *, threads: int = 1) -> None:
    """Write all scenes of the options in VOC layout into `folder`; the lists come last."""
    numbers = {"train": options.train, "val": options.val}
    work = [(subset, number) for subset in SUBSETS for number in range(numbers[subset])]
    write = partial(_write_scene, folder=folder, size=options.size, seed=options.seed)
    if threads > 1 and len(work) >= 100:
        with worker_pool(threads, start="spawn") as pool:
            list(pool.map(write, work, chunksize=20))
    else:
        for item in work:
            write(item)
    for subset in SUBSETS:
        lines = "".join(f"{scene_id(subset, number)}\n" for number in range(numbers[subset]))
        write_bytes(folder / "ImageSets" / "Segmentation" / f"{subset}.txt", lines.encode())


def _write_scene(item: tuple[str, int], *, folder: Path, size: int, seed: int) -> None:
    subset, number = item
    scene = make_scene(subset, number, size=size, seed=seed)
    name = scene_id(subset, number)
    write_image(folder / "JPEGImages" / f"{name}.jpg", scene.image)
    write_mask(folder / "SegmentationClassAug" / f"{name}.png", scene.objects, objects_table())
    write_mask(folder / "StuffThings" / f"{name}.png", scene.stuff_things, stuff_things_table())


def make_scene(subset: str, number: int, *, size: int = 160, seed: int = 0) -> Scene:
    """Generate scene `number` of a subset, `size` px square."""
    rng = np.random.default_rng([seed, SUBSETS.index(subset), number])
    light = _light(rng)
    image, stuff, horizon = _background(rng, size)
    instances = np.full((size, size), NOTHING, dtype=np.int16)
    classes = _classes_of(subset, number, seed, rng)
    for index, class_index in enumerate(classes):
        extent = size * _extent(rng, len(classes))
        _place(image, instances, index, OBJECTS[class_index], extent, horizon, light, rng)
    photograph = _photograph(image, rng)
    things = np.array([*classes, 0], dtype=np.uint8)[instances]
    objects = np.where(instances == NOTHING, 0, things + 1).astype(np.uint8)
    objects[_contours(instances, size)] = CONTOUR
    stuff_things = np.where(instances == NOTHING, stuff + len(OBJECTS), things).astype(np.uint8)
    return Scene(photograph, objects, stuff_things)


def _classes_of(subset: str, number: int, seed: int, rng: np.random.Generator) -> list[int]:
    """A scene's objects. In each run of twenty scenes every class is first once, second at most once."""
    block, place = divmod(number, len(OBJECTS))
    shuffle = np.random.default_rng([seed, SUBSETS.index(subset), block, 1])
    orders = [shuffle.permutation(len(OBJECTS)) for _ in OBJECT_COUNTS]
    count = 1 + int(rng.choice(len(OBJECT_COUNTS), p=OBJECT_COUNTS))
    return [int(order[place]) for order in orders[:count]]


def _extent(rng: np.random.Generator, count: int) -> float:
    """An object's longer side as a share of the image's; alone it is larger."""
    low, high = (0.42, 0.62) if count == 1 else (0.32, 0.56)
    return float(rng.uniform(0.15, 0.28) if rng.random() < 0.04 else rng.uniform(low, high))


def _light(rng: np.random.Generator) -> Light:
    direction = np.array(
        [rng.choice([-1, 1]) * rng.uniform(0.3, 0.8), -rng.uniform(0.4, 0.9), rng.uniform(0.7, 1.1)]
    )
    x, y, z = direction / np.linalg.norm(direction)
    return Light(float(x), float(y), float(z), float(rng.uniform(0.45, 0.75)))


def _background(rng: np.random.Generator, size: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], float]:
    """Stuff in bands: RGB (size, size, 3), kinds (size, size), and the lowest band's upper edge; 0..1."""
    weights = np.array([weight for _, weight in LAYOUTS], dtype=float)
    kinds = LAYOUTS[int(rng.choice(len(LAYOUTS), p=weights / weights.sum()))][0]
    edges = {1: [], 2: [rng.uniform(0.3, 0.62)], 3: [rng.uniform(0.22, 0.38), rng.uniform(0.5, 0.68)]}[
        len(kinds)
    ]
    rows = np.arange(size, dtype=np.float32)[:, None] / size
    image = STUFF[kinds[0]](rng, size, size)
    stuff = np.full((size, size), STUFF_NAMES.index(kinds[0]), dtype=np.uint8)
    for kind, edge in zip(kinds[1:], edges, strict=True):
        roughness = {"grass": 0.012, "sand": 0.02}.get(kind, 0.002)
        across = np.linspace(-1, 1, size, dtype=np.float32)[None, :]
        line = edge + across * rng.uniform(-0.03, 0.03) + roughness * smooth_noise(rng, 1, size, size / 8)
        below = rows > line
        image = np.where(below[..., None], STUFF[kind](rng, size, size), image).astype(np.float32)
        stuff[below] = STUFF_NAMES.index(kind)
    if rng.random() < 0.35:
        image = blurred(image, rng.uniform(0.4, 1.0) * size / 160)
    return image, stuff, edges[-1] if edges else 0.3


def _place(
    image: NDArray[np.float32],
    instances: NDArray[np.int16],
    index: int,
    thing: ObjectClass,
    extent: float,
    horizon: float,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """Draw an object into image and instances (both changed) where it and those behind stay well in sight."""
    colours, alpha = draw_object(thing, extent, light, rng)
    best = max(
        (_try(instances, index, alpha, thing, horizon, rng) for _ in range(2)), key=lambda found: found[0]
    )
    for _ in range(PLACEMENTS):
        if best[0] >= VISIBLE_SHARE:
            break
        best = max(best, _try(instances, index, alpha, thing, horizon, rng), key=lambda found: found[0])
    _, top, left = best
    window, inside = _windows(top, left, alpha.shape, instances.shape)
    _cast_shadow(image, alpha, top, left, thing, light)
    share = alpha[inside][..., None]
    image[window] = image[window] * (1 - share) + colours[inside] * share
    instances[window][alpha[inside] > 0.5] = index


def _try(
    instances: NDArray[np.int16],
    index: int,
    alpha: Plane,
    thing: ObjectClass,
    horizon: float,
    rng: np.random.Generator,
) -> tuple[float, int, int]:
    """A random position: the least share of any object left in sight, then top and left in px."""
    size = instances.shape[0]
    height, width = alpha.shape
    left = round(rng.uniform(-0.1 * width, size - 0.9 * width))
    if thing.stands:
        bottom = rng.uniform(max(horizon * size + 0.06 * size, 0.85 * height), size * 1.03)
        top = round(bottom - height)
    else:
        top = round(rng.uniform(-0.08 * height, size - 0.95 * height))
    window, inside = _windows(top, left, alpha.shape, instances.shape)
    covered = alpha[inside] > 0.5
    shares = [float(covered.sum()) / max(1, int((alpha > 0.5).sum()))]
    for other in range(index):
        whole = int((instances == other).sum())
        shares.append(1 - float((covered & (instances[window] == other)).sum()) / max(1, whole))
    return min(shares), top, left


def _windows(
    top: int, left: int, layer: Sequence[int], image: Sequence[int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a layer at (top, left) lies in the image, and which part of the layer that is."""
    bottom, right = min(image[0], top + layer[0]), min(image[1], left + layer[1])
    window = (slice(max(0, top), bottom), slice(max(0, left), right))
    inside = (slice(max(0, -top), bottom - top), slice(max(0, -left), right - left))
    return window, inside


def _cast_shadow(
    image: NDArray[np.float32], alpha: Plane, top: int, left: int, thing: ObjectClass, light: Light
) -> None:
    """Darken what is behind an object (image is changed): flat on the ground under it, or all around it."""
    size = image.shape[0]
    height, width = alpha.shape
    canvas = np.zeros((size, size), dtype=np.float32)
    if thing.stands:
        centre = (
            left + width // 2 - round(0.12 * width * np.sign(light.x)),
            top + height - max(2, height // 16),
        )
        axes = (max(2, round(0.46 * width)), max(2, round(0.09 * height)))
        cv2.ellipse(canvas, centre, axes, 0, 0, 360, (0.5,), -1)
    else:
        shift = round(0.06 * max(height, width))
        window, inside = _windows(
            top + shift, left - round(np.sign(light.x)) * shift, alpha.shape, canvas.shape
        )
        canvas[window] = 0.25 * alpha[inside]
    canvas = blurred(canvas, max(1.0, 0.05 * max(height, width)))
    image *= (1 - canvas)[..., None]


def _photograph(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Uneven light, a colour cast, the lens's blur and the sensor's noise; (H, W, 3) in 0..1 to uint8."""
    size = image.shape[0]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    slope = rng.uniform(-0.16, 0.16, 2)
    ramp = 1 + slope[0] * axis[None, :] + slope[1] * axis[:, None]
    vignette = 1 - rng.uniform(0, 0.18) * (axis[None, :] ** 2 + axis[:, None] ** 2)
    cast = rng.uniform(0.94, 1.06, 3).astype(np.float32) * rng.uniform(0.88, 1.1)
    lit = image * (ramp * vignette)[..., None] * cast
    lit = blurred(lit, rng.uniform(0.35, 0.75) * size / 160)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.006, 0.022)
    return np.asarray(np.clip(lit + noise, 0, 1) * 255 + 0.5, dtype=np.uint8)


def _contours(instances: NDArray[np.int16], size: int) -> NDArray[np.bool_]:
    """Pixels on either side of an object's edge: (H, W), 2 px wide at 160 px, more in larger images."""
    reach = max(1, round(size / 160))
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    return np.asarray(cv2.dilate(instances, kernel) != cv2.erode(instances, kernel))
