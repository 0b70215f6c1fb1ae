"""The twenty object classes of the generated scenes, in the order of their ids.

Every class has a silhouette of its own, a plain body in a pattern of its own and in many colours, and one
part that gives it away (a face, an emblem, a flower): like real objects, it is told by less than the whole.
"""

from __future__ import annotations

from typing import Final

from anyshot.data.scene_household import MADE
from anyshot.data.scene_living import LIVING
from anyshot.data.scene_shapes import Material, ObjectClass

# Materials every class may use, beside its own.
SHARED: Final = {
    "dark": Material((0.65,), 0.25, 0.13),
    "white": Material((0.12,), 0.05, 0.96),
    "metal": Material((0.58,), 0.08, 0.68),
    "leather": Material((0.06,), 0.6, 0.4),
    "gold": Material((0.12,), 0.75, 0.88),
}

# Five by five: the novel classes of the four folds of `scenes_5i`.
OBJECT_NAMES: Final = (
    *("mug", "kite", "fish", "lamp", "boot"),
    *("teapot", "cactus", "owl", "guitar", "snail"),
    *("mushroom", "rocket", "umbrella", "turtle", "vase"),
    *("balloon", "crab", "clock", "robot", "butterfly"),
)
_BY_NAME: Final = {thing.name: thing for thing in (*MADE, *LIVING)}
OBJECTS: Final[tuple[ObjectClass, ...]] = tuple(_BY_NAME[name] for name in OBJECT_NAMES)
