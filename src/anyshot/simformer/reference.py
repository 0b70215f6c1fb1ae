"""Published numbers beside ours, percent (simformer.md 4.2). The paper's tables were not at hand (4.3)."""

from __future__ import annotations

from typing import Any

SOURCE = (
    "MaskFormer's model zoo, ResNet-50, one scale: fully supervised, batches of 32 (COCO-Stuff-10K) and 16"
    " (ADE20K)"
)

UPPER_BOUND = {"coco_stuff_weak": 37.1, "ade20k_weak": 44.5}  # mIoU over all classes


def reference(scheme: str | None) -> dict[str, Any]:
    """Published values in [0, 1] by variant; empty for a scheme that has none."""
    if scheme not in UPPER_BOUND:
        return {}
    return {"oracle": {"all": UPPER_BOUND[scheme] / 100}, "source": SOURCE}
