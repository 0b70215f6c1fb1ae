"""Cityscapes' labels: which ids its masks hold, and the 19 of them that are evaluated.

Masks (*_gtFine_labelIds.png) hold label ids 0..33. Label -1, the licence plate, is never drawn. The train id
of a class is its position among the 19, 0..18; every other label is ignored. Source: raml.md section 1.2;
names and colours are those Cityscapes publishes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anyshot.data.classes import IGNORE_8_BIT, ClassTable, Colour
from anyshot.errors import DataError

LABELS: Final = 34  # label ids 0..33

# Label id, name, kind, colour; in train id order, which is also the order of the label ids.
CLASSES: Final[tuple[tuple[int, str, str, Colour], ...]] = (
    (7, "road", "stuff", (128, 64, 128)),
    (8, "sidewalk", "stuff", (244, 35, 232)),
    (11, "building", "stuff", (70, 70, 70)),
    (12, "wall", "stuff", (102, 102, 156)),
    (13, "fence", "stuff", (190, 153, 153)),
    (17, "pole", "stuff", (153, 153, 153)),
    (19, "traffic light", "stuff", (250, 170, 30)),
    (20, "traffic sign", "stuff", (220, 220, 0)),
    (21, "vegetation", "stuff", (107, 142, 35)),
    (22, "terrain", "stuff", (152, 251, 152)),
    (23, "sky", "stuff", (70, 130, 180)),
    (24, "person", "thing", (220, 20, 60)),
    (25, "rider", "thing", (255, 0, 0)),
    (26, "car", "thing", (0, 0, 142)),
    (27, "truck", "thing", (0, 0, 70)),
    (28, "bus", "thing", (0, 60, 100)),
    (31, "train", "thing", (0, 80, 100)),
    (32, "motorcycle", "thing", (0, 0, 230)),
    (33, "bicycle", "thing", (119, 11, 32)),
)
_TRAIN_ID: Final = {label: train_id for train_id, (label, *_) in enumerate(CLASSES)}

# 35 rows: train ids of the labels 0..33, and of label -1, which Python finds at the end.
TRAIN_IDS: Final = (*(_TRAIN_ID.get(label, IGNORE_8_BIT) for label in range(LABELS)), IGNORE_8_BIT)
# Labels that masks hold and nobody evaluates.
VOID_LABELS: Final = frozenset(range(LABELS)) - frozenset(_TRAIN_ID)


def cityscapes_table() -> ClassTable:
    """The 19 classes under their label ids, 7..33; the position of a class in the table is its train id."""
    ids, names, kinds, colours = zip(*CLASSES, strict=True)
    return ClassTable(ids=ids, names=names, kinds=kinds, colours=colours)


def to_train_ids(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """The train ids 0..18 of label ids (any shape, -1..33, or 255), uint8 of the same shape, 255 = ignore.

    Raises DataError for other values: then the mask does not hold label ids.
    """
    known = (mask >= -1) & (mask < LABELS) | (mask == IGNORE_8_BIT)
    if not known.all():
        raise DataError(
            f"the mask value {mask[~known].flat[0]} is no label id of Cityscapes, which are -1..33, nor 255"
            " for ignored pixels; use the files *_labelIds.png"
        )
    lut = np.full(256, IGNORE_8_BIT, dtype=np.uint8)
    lut[:LABELS] = TRAIN_IDS[:LABELS]
    return lut[mask]  # -1 is the last entry, 255
