"""Published numbers of RETAB: scores on the 1,464 VOC train images, ResNet-38, PSA CAMs (retab.md 3.2),
percent."""

from __future__ import annotations

from typing import Any

SOURCE = (
    "table of the official README (train, 1,464 images); which of the two score modes it shows is not stated"
)
README: dict[str, dict[str, tuple[float, float, float]]] = {
    "fold0": {"cam": (48.0, 51.4, 37.4), "retab_walk": (71.2, 74.0, 62.5)},
    "fold1": {"cam": (48.0, 47.8, 48.8), "retab_walk": (71.3, 71.2, 71.6)},
    "fold2": {"cam": (48.0, 47.2, 50.7), "retab_walk": (70.9, 70.2, 73.3)},
    "fold3": {"cam": (48.0, 47.6, 49.4), "retab_walk": (70.1, 72.4, 62.8)},
}


def reference(split: str) -> dict[str, Any]:
    """Published means in [0, 1] of a fold by variant, with their source; empty for any other split."""
    if split not in README:
        return {}
    numbers = {
        variant: dict(zip(("all", "base", "novel"), (value / 100 for value in row), strict=True))
        for variant, row in README[split].items()
    }
    return {**numbers, "source": SOURCE, "subset": "train"}
