"""Scores of POP from confusion matrices, in the two protocols that are in use (pop.md 4.1).

Indices are those of the logits: 0 background, 1..Kb base classes, then Kn novel ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np

from anyshot.ops.metrics import Confusion, Roles, means

Family = Literal["pop", "diam"]

PROTOCOLS: Final[Mapping[Family, str]] = {
    "pop": (
        "POP: IoU over all pixels of the subset that are not ignored, at the image's own size. mIoU base ="
        " mean of background and base classes, novel = of the novel classes, all = of all classes alike,"
        " harmonic = 2 base novel / (base + novel). A class in neither truth nor prediction is left out."
    ),
    "diam": (
        "DIaM, BCM: the same IoU, but mIoU base = mean of the base classes without background, and all ="
        " (base + novel) / 2. Only the means are DIaM's: support images, image sizes and queries are POP's."
    ),
}
"""What the numbers of each family mean. Those of different families must not be compared."""


def roles_of(base: int, novel: int, family: Family) -> Roles:
    """Indices of base and novel classes in a family's means, of Kb base and Kn novel classes."""
    first = 0 if family == "pop" else 1
    return Roles(base=range(first, 1 + base), novel=range(1 + base, 1 + base + novel))


def family_means(iou: np.ndarray, *, base: int, novel: int, family: Family) -> dict[str, float]:
    """all, base, novel and harmonic of per-class IoU (1 + Kb + Kn,) in [0, 1]; a mean of no class is NaN."""
    found = means(iou, roles_of(base, novel, family))
    if family == "diam":
        found["all"] = (found["base"] + found["novel"]) / 2
    return found


def both_families(confusion: Confusion, *, base: int, novel: int) -> dict[Family, dict[str, float]]:
    """The means of a confusion matrix over 1 + Kb + Kn classes in both families.

    Raises:
        ValueError: the matrix has another number of classes.
    """
    if confusion.classes != 1 + base + novel:
        raise ValueError(
            f"the matrix has {confusion.classes} classes; {base} base, {novel} novel and background are"
            f" {1 + base + novel}"
        )
    iou = confusion.iou()
    return {family: family_means(iou, base=base, novel=novel, family=family) for family in PROTOCOLS}
