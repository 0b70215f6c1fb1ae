"""Instances JSON (COCO's format) to masks: what it says of each image, and the four ways to draw it.

A mask holds 0 for the background and 1..n for the categories, in the order of the JSON's own list. Objects
are drawn in the order of the JSON, later ones over earlier ones; holes are not represented. Source:
pop.md 1.3. A change here that changes a mask raises `recipe_version` in `CocoData`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from anyshot.data.classes import IGNORE_8_BIT, ClassTable
from anyshot.data.files import write_bytes
from anyshot.data.images import write_mask
from anyshot.data.options import CocoRecipe
from anyshot.data.prepare import map_samples
from anyshot.errors import DataError

MOST_CATEGORIES: Final = 254  # ids are uint8, 0 is the background and 255 is ignored
DIGITS: Final = 12  # of a file's digest, in the names of what is made from it


class Shape(NamedTuple):
    """One annotation of an image, ready to be drawn.

    `value` is the class, 1..n. `polygons` are (points, 2) int32, x and y in px. `runs` are the lengths of an
    uncompressed RLE, None for polygons.
    """

    value: int
    crowd: bool
    polygons: tuple[NDArray[np.int32], ...]
    runs: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class CocoImage:
    """An image of the JSON: its file, its size in px, and how many annotations it has that are no crowd."""

    file_name: str
    height: int
    width: int
    objects: int

    @property
    def stem(self) -> str:
        """The file's name without folder and suffix; ids and masks are called so."""
        return Path(self.file_name).stem


@dataclass(frozen=True)
class Instances:
    """A parsed JSON: category names in its order, images in its order, and the shapes of each by its stem."""

    categories: tuple[str, ...]
    images: tuple[CocoImage, ...]
    shapes: dict[str, list[Shape]]


class _Annotation(NamedTuple):
    image_id: Any
    category_id: Any
    crowd: bool
    polygons: tuple[NDArray[np.int32], ...]
    runs: NDArray[np.int64] | None
    size: tuple[int, ...] | None


def draw_mask(height: int, width: int, shapes: Sequence[Shape], recipe: CocoRecipe) -> NDArray[np.uint8]:
    """The mask (height, width) of an image's annotations, in their order.

    Polygons are filled with their edge pixels. `all_polygons_...` draws every polygon of an annotation,
    `first_polygon_...` only the first; `..._crowd_background` leaves crowd annotations out,
    `..._crowd_ignore` draws them as 255 where they come in the order, so that later objects cover them.
    """
    canvas = np.zeros((height, width), dtype=np.uint8)
    first, ignore_crowd = recipe.startswith("first_polygon"), recipe.endswith("crowd_ignore")
    for shape in shapes:
        if shape.crowd and not ignore_crowd:
            continue
        value = IGNORE_8_BIT if shape.crowd else shape.value
        for polygon in shape.polygons[:1] if first else shape.polygons:
            cv2.fillPoly(canvas, [polygon], value)
        if shape.runs is not None:
            canvas[decode_runs(shape.runs, height, width)] = value
    return canvas


def decode_runs(runs: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    """The region (height, width) of an uncompressed RLE: run lengths down the columns, outside first."""
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(width, height).T


class AnnotationFile:
    """An instances JSON, and what is kept of it in `folder` so that it need not be parsed again.

    `digest` is the sha256 of the file; what is made from it carries the first digits in its name, so that
    other annotations never meet old masks. Raises DataError when the file is missing or is not such a JSON.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self.path = path
        self._folder = folder
        try:
            with path.open("rb") as file:
                self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (FileNotFoundError, IsADirectoryError):
            raise DataError(
                f"{path}: no such annotation file; unpack COCO's annotations, or name the file under"
                " `annotations`"
            ) from None

    @cached_property
    def content(self) -> Instances:
        """The whole JSON, parsed once."""
        found = parse_instances(self.path)
        rows = [[image.file_name, image.height, image.width, image.objects] for image in found.images]
        index = {"categories": list(found.categories), "images": rows}
        write_bytes(self._index_path, json.dumps(index).encode("utf-8"))
        return found

    @cached_property
    def summary(self) -> tuple[tuple[str, ...], tuple[CocoImage, ...]]:
        """Category names and images, from the kept index where there is one."""
        try:
            index = json.loads(self._index_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return self.content.categories, self.content.images
        return tuple(index["categories"]), tuple(CocoImage(*row) for row in index["images"])

    def masks(self, subset: str, recipe: CocoRecipe, version: int) -> Path:
        """The folder of the masks drawn from this file by a version of a recipe."""
        return self._folder / "masks" / f"{recipe}_v{version}" / f"{subset}_{self.digest[:DIGITS]}"

    @property
    def _index_path(self) -> Path:
        return self._folder / "annotations" / f"{self.path.stem}_{self.digest[:DIGITS]}.json"


def draw_masks(
    content: Instances, images: Sequence[CocoImage], recipe: CocoRecipe, folder: Path, *, threads: int
) -> None:
    """Draw the masks of some images, `<stem>.png` in `folder`, in `threads` processes."""
    tasks = [(image, content.shapes[image.stem]) for image in images]
    work = partial(_draw, recipe=recipe, folder=folder, table=category_table(content.categories))
    for _ in map_samples(work, tasks, threads=threads):
        pass


def _draw(
    task: tuple[CocoImage, list[Shape]], *, recipe: CocoRecipe, folder: Path, table: ClassTable
) -> None:
    image, shapes = task
    write_mask(folder / f"{image.stem}.png", draw_mask(image.height, image.width, shapes, recipe), table)


def category_table(categories: Sequence[str]) -> ClassTable:
    """Background and the categories, ids 0, 1, ...; VOC colours. Raises DataError for more than 254."""
    if not 0 < len(categories) <= MOST_CATEGORIES:
        raise DataError(
            f"{len(categories)} categories; 1 to {MOST_CATEGORIES} fit 8-bit masks: take other annotations"
        )
    return ClassTable.of(("background", *categories))


def parse_instances(path: Path) -> Instances:
    """Read an instances JSON; polygons are cut to whole px, toward zero (pop.md 1.3).

    Raises DataError when it is not such a JSON, names an image, a category or a stem twice, or an annotation
    has an unknown image or category, a broken polygon or RLE.
    """
    try:
        # Annotations are made compact one by one while parsing: COCO's lists of numbers as Python objects
        # would take gigabytes.
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=_compact)
        parts = [content[key] for key in ("categories", "images", "annotations")]
        return _instances(*parts)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not an instances JSON with the lists images, annotations and categories ({error!r})"
        ) from error


def _instances(categories: list[Any], images: list[Any], annotations: list[Any]) -> Instances:
    values = {entry["id"]: value for value, entry in enumerate(categories, start=1)}
    by_id = {entry["id"]: entry for entry in images}
    if len(values) < len(categories) or len(by_id) < len(images):
        raise DataError("the id of a category or of an image occurs more than once; every id is used once")
    shapes: dict[Any, list[Shape]] = {number: [] for number in by_id}
    for note in annotations:
        if note.image_id not in by_id:
            raise DataError(
                f"an annotation belongs to image {note.image_id!r}, which is not in the list images"
            )
        if note.category_id not in values:
            raise DataError(
                f"an annotation of image {note.image_id!r} has category {note.category_id!r}, which is not"
                f" among the {len(values)} categories; correct the annotation, or add the category"
            )
        _check_runs(note, by_id[note.image_id])
        shapes[note.image_id].append(Shape(values[note.category_id], note.crowd, note.polygons, note.runs))
    found = [
        CocoImage(
            str(entry["file_name"]),
            int(entry["height"]),
            int(entry["width"]),
            sum(not shape.crowd for shape in shapes[number]),
        )
        for number, entry in by_id.items()
    ]
    by_stem = {image.stem: shapes[number] for image, number in zip(found, by_id, strict=True)}
    if len(by_stem) < len(found):
        raise DataError(
            "two images have the same name but for folder or suffix, so their masks would be one file; rename"
            " one of them"
        )
    category_names = tuple(str(entry["name"]) for entry in categories)
    category_table(category_names)
    return Instances(category_names, tuple(found), by_stem)


def _compact(entry: dict[str, Any]) -> Any:
    """An annotation as arrays, any other JSON object as it is."""
    if "image_id" not in entry or "category_id" not in entry:
        return entry
    outline = entry.get("segmentation", [])
    where = f"annotation {entry.get('id')!r} of image {entry['image_id']!r}"
    polygons: tuple[NDArray[np.int32], ...] = ()
    runs, size = None, None
    if isinstance(outline, dict):
        runs = _runs(outline.get("counts"), where)
        size = tuple(outline.get("size", ()))
    else:
        polygons = tuple(_polygon(numbers, where) for numbers in outline)
    crowd = bool(entry.get("iscrowd", 0))
    return _Annotation(entry["image_id"], entry["category_id"], crowd, polygons, runs, size)


def _polygon(numbers: Any, where: str) -> NDArray[np.int32]:
    points = np.asarray(numbers, dtype=np.float64)
    if points.ndim != 1 or points.size == 0 or points.size % 2 or not np.isfinite(points).all():
        raise DataError(
            f"{where}: a polygon is not a list of pairs x, y but {str(numbers)[:60]}; correct the annotation"
        )
    return points.reshape(-1, 2).astype(np.int32)


def _runs(counts: Any, where: str) -> NDArray[np.int64]:
    if not isinstance(counts, list):
        raise DataError(
            f"{where}: its RLE is compressed text; expected `counts` as a list of numbers, as COCO's own"
            " files have them"
        )
    return np.asarray(counts, dtype=np.int64)


def _check_runs(note: _Annotation, image: dict[str, Any]) -> None:
    if note.runs is None:
        return
    size = (image["height"], image["width"])
    if note.size != size or (note.runs < 0).any() or int(note.runs.sum()) != size[0] * size[1]:
        raise DataError(
            f"an RLE of image {note.image_id!r} covers {int(note.runs.sum())} px of {list(note.size or ())},"
            f" the image has {list(size)} (height, width); correct the annotation"
        )
