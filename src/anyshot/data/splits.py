"""Which classes are novel in a split, and which images are novel samples. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from anyshot.data.images import read_mask
from anyshot.data.manifest import Sample
from anyshot.data.prepare import map_samples
from anyshot.errors import ConfigError, DataError

SCHEMES: Final = ("pascal_5i", "scenes_5i", "coco_20i", "coco_stuff_weak", "ade20k_weak", "scenes_weak")
JOINT: Final = "joint"  # a split that every scheme has beside its folds: no class is novel

MaskReader = Callable[[Path], NDArray[Any]]


def split_names(scheme: str) -> list[str]:
    """The names of a scheme's splits, in order: fold0, fold1, ... or split1, ... Raises ConfigError."""
    return list(_load(scheme))


def novel_class_names(scheme: str, split: str) -> list[str]:
    """The names of a split's novel classes, in id order; none for `joint`. Raises ConfigError."""
    splits = {**_load(scheme), JOINT: []}
    if split not in splits:
        raise ConfigError(f"scheme {scheme!r} has no split {split!r}; it has {', '.join(splits)}")
    return list(splits[split])


@cache
def _load(scheme: str) -> dict[str, list[str]]:
    if scheme not in SCHEMES:
        raise ConfigError(f"scheme {scheme!r} is unknown; the schemes are {', '.join(SCHEMES)}")
    text = resources.files("anyshot.data").joinpath("splits", f"{scheme}.yaml").read_text(encoding="utf-8")
    return checked_splits(yaml.safe_load(text), scheme)


def checked_splits(content: dict[str, Any], scheme: str) -> dict[str, list[str]]:
    """The splits of a split file, after its own asserted counts have been verified.

    The number of novel classes per split is asserted once where it is the same for all, else in a list. A
    class counts once per split. Raises DataError.
    """
    splits = cast(dict[str, list[str]], content["splits"])
    asserted = content["asserted"]
    sizes = asserted["novel_classes_per_split"]
    found = {
        "splits": len(splits),
        "novel_classes_per_split": [len(set(names)) for names in splits.values()],
        "distinct_novel_classes": len({name for names in splits.values() for name in names}),
    }
    expected = {
        "splits": asserted["splits"],
        "novel_classes_per_split": sizes if isinstance(sizes, list) else [sizes] * asserted["splits"],
        "distinct_novel_classes": asserted["distinct_novel_classes"],
    }
    if found != expected:
        raise DataError(f"splits/{scheme}.yaml is damaged: found {found}, the file itself asserts {expected}")
    return splits


def base_novel_split(
    samples: Sequence[Sample],
    novel_ids: Iterable[int],
    rule: Literal["mask", "labels"] = "mask",
    mask_reader: MaskReader = read_mask,
    *,
    threads: int = 1,
) -> tuple[list[str], list[str]]:
    """Split training images into base and novel samples; together they are all samples, each list in order.

    Rule `mask` (RETAB's own lists): novel iff the ground-truth mask has at least one pixel of a novel class.
    Rule `labels` (honest weak supervision): novel iff the image labels name a novel class.

    Returns:
        ids of the base samples, ids of the novel samples.

    Raises:
        DataError: rule `mask`, and a sample has no mask.
        ConfigError: an unknown rule.
    """
    novel = frozenset(novel_ids)
    if rule == "labels":
        is_novel = [not novel.isdisjoint(sample.labels) for sample in samples]
    elif rule == "mask":
        without = [sample.id for sample in samples if sample.mask is None]
        if without:
            raise DataError(
                f"{len(without)} of {len(samples)} samples have no mask, e.g. {without[0]}; use rule labels"
            )
        work = partial(_shows_any, classes=novel, mask_reader=mask_reader)
        is_novel = list(map_samples(work, samples, threads=threads))
    else:
        raise ConfigError(f"split rule {rule!r} is unknown; the rules are mask, labels")
    base = [sample.id for sample, found in zip(samples, is_novel, strict=True) if not found]
    return base, [sample.id for sample, found in zip(samples, is_novel, strict=True) if found]


def _shows_any(sample: Sample, *, classes: frozenset[int], mask_reader: MaskReader) -> bool:
    assert sample.mask is not None  # checked by the caller; narrows the type
    counts = np.bincount(mask_reader(sample.mask).ravel())
    return any(number < len(counts) and counts[number] > 0 for number in classes)
