"""Published numbers of POP (pop.md 4.2), percent: means over support seeds, of the released models.

The harmonic mean is not in the source: it is that of the mean base and the mean novel mIoU.
The source does not say whether a row is the mean of the four folds or of one; its size fits the mean.
"""

from __future__ import annotations

from typing import Any

SOURCE = "MODELS.md of the official release; mean over its support seeds, and most likely over the folds"

TABLE: dict[tuple[str, int], tuple[float, float, float, float]] = {
    # (scheme, shots): base with background, novel, total, harmonic
    ("pascal_5i", 1): (73.81, 36.74, 64.98, 49.06),
    ("pascal_5i", 5): (74.74, 56.55, 70.41, 64.38),
    ("pascal_5i", 10): (75.15, 60.06, 71.56, 66.76),
    ("coco_20i", 1): (54.24, 23.89, 46.75, 33.17),
    ("coco_20i", 5): (54.59, 36.77, 50.19, 43.94),
    ("coco_20i", 10): (54.62, 38.91, 50.74, 45.44),
}


def reference(scheme: str | None) -> dict[str, Any]:
    """Published values in [0, 1] by `pop_<shots>shot`; empty for a scheme that has none."""
    found: dict[str, Any] = {
        f"pop_{shots}shot": {
            "all": total / 100, "base": base / 100, "novel": novel / 100, "harmonic": harmonic / 100
        }
        for (name, shots), (base, novel, total, harmonic) in TABLE.items()
        if name == scheme
    }  # fmt: skip
    return {**found, "source": SOURCE, "subset": "val"} if found else {}
