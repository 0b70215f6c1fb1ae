"""COCO-Stuff's 171 classes, and how the annotations of COCO-Stuff-10K (MATLAB files) become masks of them.

An annotation holds `S`, the map of values, and `names`: value v, from 1, is class `names[v - 1]`. In version
1.0 of the archive 1 is unlabeled, 2..81 are things and 82..172 stuff; in version 1.1 0 is unlabeled, and
eleven things that no pixel shows come between. Masks are made by name, so both give the same. Source:
simformer.md section 1.2.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from anyshot.data.classes import IGNORE_8_BIT, ClassTable
from anyshot.errors import DataError

# COCO's categories in its own order, then stuff in that of the alphabet. The position is the class id.
THINGS: Final = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
STUFF: Final = (
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard",
    "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard",
    "curtain", "desk-stuff", "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone",
    "floor-tile", "floor-wood", "flower", "fog", "food-other", "fruit", "furniture-other", "grass",
    "gravel", "ground-other", "hill", "house", "leaves", "light", "mat", "metal", "mirror-stuff", "moss",
    "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic", "platform",
    "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea",
    "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw",
    "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick",
    "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other",
    "waterdrops", "window-blind", "window-other", "wood",
)  # fmt: skip
UNLABELED: Final = "unlabeled"
NO_CLASS: Final = -1

# What h5py and scipy raise for a file that is broken or no MATLAB file.
BROKEN: Final = (
    OSError, EOFError, ValueError, TypeError, IndexError, NotImplementedError, RuntimeError, zlib.error,
    scipy.io.matlab.MatReadError,
)  # fmt: skip


def coco_stuff_table() -> ClassTable:
    """80 things, ids 0..79, and 91 kinds of stuff, ids 80..170."""
    kinds = ("thing",) * len(THINGS) + ("stuff",) * len(STUFF)
    return ClassTable.of((*THINGS, *STUFF), kinds=kinds)


def read_annotation(path: Path) -> NDArray[np.uint8]:
    """The mask (H, W) of a MATLAB annotation: class ids 0..170, 255 where unlabeled.

    Raises DataError when the file is missing or broken, has no `S` or `names`, names other classes than the
    171, or has values that are none of them.
    """
    try:
        values, names = _from_hdf5(path) if h5py.is_hdf5(path) else _from_mat5(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation; the archive's annotations/ has one per image") from None
    except KeyError as error:
        raise DataError(
            f"{path}: no annotation of COCO-Stuff-10K, it lacks {error}; expected are `S`, the map, and"
            " `names`, the classes by value"
        ) from None
    except BROKEN as error:
        raise DataError(
            f"{path}: the annotation cannot be read ({str(error) or repr(error)}); unpack the archive again"
        ) from error
    try:
        return to_ids(values, names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def to_ids(values: NDArray[Any], names: list[str]) -> NDArray[np.uint8]:
    """Class ids (H, W) of the values (H, W) of an annotation, whose value v is `names[v - 1]`, 0 unlabeled.

    Raises DataError when one of the 171 classes has no value, or a value is none of them.
    """
    ids = {name: number for number, name in enumerate((*THINGS, *STUFF))} | {UNLABELED: IGNORE_8_BIT}
    missing = [name for name in ids if name not in names and name != UNLABELED]
    if missing:
        unknown = [name for name in names if name not in ids]
        raise DataError(
            f"`names` has {len(names)} classes, {len(missing)} of COCO-Stuff's 171 are not among them, e.g."
            f" {missing[0]!r}; it has {len(unknown)} others{_such_as(unknown)}: use version 1.0 or 1.1 of the"
            " archive"
        )
    numeric = values.dtype.kind in "uif"
    if not numeric or values.ndim != 2 or values.size == 0 or (values != np.floor(values)).any():
        raise DataError(
            f"`S` is no map of whole numbers (height, width) but {values.dtype} {list(values.shape)}"
        )
    if values.min() < 0 or values.max() > len(names):
        raise DataError(f"`S` has values {values.min():g}..{values.max():g}, `names` only 1..{len(names)}")
    lut = np.array([IGNORE_8_BIT, *(ids.get(name, NO_CLASS) for name in names)])
    found = lut[values.astype(np.int64)]
    if (found == NO_CLASS).any():
        value = int(values[found == NO_CLASS][0])
        count = np.count_nonzero(values == value)
        raise DataError(
            f"{count} px of `S` have the value {value}, {names[value - 1]!r}, which is none of COCO-Stuff's"
            " 171 classes; correct the annotation"
        )
    return found.astype(np.uint8)


def _such_as(names: list[str]) -> str:
    return f", e.g. {names[0]!r}" if names else ""


def _from_hdf5(path: Path) -> tuple[NDArray[Any], list[str]]:
    """`S` and `names` of a MATLAB file of version 7.3. Its arrays are stored column by column."""
    with h5py.File(path, "r", locking="best-effort") as file:
        values = np.asarray(file["S"]).T
        letters = [np.asarray(file[reference]).ravel() for reference in np.asarray(file["names"]).ravel()]
    return values, ["".join(map(chr, codes)) for codes in letters]


def _from_mat5(path: Path) -> tuple[NDArray[Any], list[str]]:
    """`S` and `names` of an older MATLAB file."""
    content = scipy.io.loadmat(str(path), appendmat=False, variable_names=("S", "names"))
    return content["S"], [str(name.item()) for name in content["names"].ravel()]
