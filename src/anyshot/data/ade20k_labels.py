"""ADE20K's 150 classes (SceneParse150): names, kinds, and the ids of its masks. Source: simformer.md 1.2.

Published masks hold 0 for void and 1..150; converted ones 0..149 and 255 for void. The position of a class in
the table is the same for both.
"""

from __future__ import annotations

from typing import Final

from anyshot.data.classes import ClassTable

VOID: Final = 0  # in published masks

# The first name of each class, in the order of objectInfo150.
CLASSES: Final = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "window", "grass", "cabinet",
    "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water",
    "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence",
    "desk", "rock", "wardrobe", "lamp", "tub", "rail", "cushion", "base", "box", "column", "signboard",
    "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator", "grandstand",
    "path", "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway", "river",
    "bridge", "bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench",
    "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning",
    "street lamp", "booth", "tv", "plane", "dirt track", "clothes", "pole", "land", "bannister",
    "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain",
    "conveyer belt", "canopy", "washer", "plaything", "pool", "stool", "barrel", "basket", "falls", "tent",
    "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank", "trade name", "microwave", "pot",
    "animal", "bicycle", "lake", "dishwasher", "screen", "blanket", "sculpture", "hood", "sconce", "vase",
    "traffic light", "tray", "trash can", "fan", "pier", "crt screen", "plate", "monitor", "bulletin board",
    "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
# The 50 classes without instances in ADE20K's own instance task; the other 100 are things.
STUFF: Final = frozenset({
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "grass", "sidewalk", "earth", "mountain",
    "plant", "water", "house", "sea", "rug", "field", "rock", "base", "sand", "skyscraper", "grandstand",
    "path", "runway", "stairway", "river", "bridge", "blind", "hill", "bar", "hovel", "tower", "dirt track",
    "land", "escalator", "buffet", "poster", "stage", "conveyer belt", "canopy", "pool", "falls", "tent",
    "cradle", "tank", "lake", "blanket", "pier", "crt screen", "shower",
})  # fmt: skip


def ade20k_table(*, first: int) -> ClassTable:
    """The 150 classes; `first` is the id of the first, 1 in published masks and 0 in converted ones."""
    kinds = ["stuff" if name in STUFF else "thing" for name in CLASSES]
    return ClassTable.of(CLASSES, ids=range(first, first + len(CLASSES)), kinds=kinds)
