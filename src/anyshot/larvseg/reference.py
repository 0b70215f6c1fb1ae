"""Published numbers beside ours, percent (larvseg.md 4). The paper's tables were not at hand."""

from __future__ import annotations

from typing import Any

SOURCE = (
    "the authors' logs, base/novel by 63/87 classes of ADE20K; which run a log belongs to is inferred"
    " (larvseg.md 4.1), and the paper's own tables were not at hand"
)

# COCO-Stuff with masks, ADE20K with image labels, scored on ADE20K-150: all, base, novel
A150 = {
    "attentive": (31.64, 38.78, 26.46),
    "baseline": (28.33, 36.06, 22.73),
    "oracle": (48.57, 54.71, 44.12),
}


def reference(published: bool) -> dict[str, Any]:
    """Values in [0, 1] by variant, for the published experiment with the published options; else empty."""
    if not published:
        return {}
    rows = {
        variant: dict(zip(("all", "base", "novel"), (value / 100 for value in values), strict=True))
        for variant, values in A150.items()
    }
    return {**rows, "source": SOURCE}
