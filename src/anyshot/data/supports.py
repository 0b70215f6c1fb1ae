"""Support images: the published lists, and rules that draw others. Ids are those of the manifest's samples.

A support's object mask is all its pixels of the class. No torch here.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from importlib import resources
from typing import Any, Final

import numpy as np
import yaml

from anyshot.data.images import read_mask
from anyshot.data.manifest import Sample
from anyshot.data.prepare import map_samples
from anyshot.errors import ConfigError, DataError

SUPPORT_LISTS: Final = ("cityscapes_5shot", "cityscapes_1shot")


def listed_supports(name: str, classes: Iterable[str]) -> dict[str, list[str]]:
    """The sample ids of a published list by class name, in the order of `classes` (raml.md section 1.6).

    Raises ConfigError for an unknown list, or a class that it has no images of.
    """
    listed = _load(name)
    wanted = list(classes)
    for class_name in wanted:
        if class_name not in listed:
            close = difflib.get_close_matches(class_name, listed, n=3, cutoff=0.6)
            hint = f" (did you mean {', '.join(close)}?)" if close else ""
            raise ConfigError(
                f"the support list {name!r} has no images of {class_name!r}{hint}; it has"
                f" {', '.join(listed)}. Choose another list, or draw supports at random"
            )
    return {class_name: list(listed[class_name]) for class_name in wanted}


@cache
def _load(name: str) -> dict[str, list[str]]:
    if name not in SUPPORT_LISTS:
        raise ConfigError(f"support list {name!r} is unknown; the lists are {', '.join(SUPPORT_LISTS)}")
    text = resources.files("anyshot.data").joinpath("supports", f"{name}.yaml").read_text(encoding="utf-8")
    return checked_supports(yaml.safe_load(text), name)


def checked_supports(content: dict[str, Any], name: str) -> dict[str, list[str]]:
    """The lists of a file, after its own asserted counts have been verified. Raises DataError."""
    supports: dict[str, list[str]] = content["supports"]
    shots = sorted({len(ids) for ids in supports.values()} | {len(set(ids)) for ids in supports.values()})
    expected = content["asserted"]
    strangers = sorted(set(content.get("derived", [])) - set(supports))
    if len(supports) != expected["classes"] or shots != [expected["shots"]] or strangers:
        raise DataError(
            f"supports/{name}.yaml is damaged: found {len(supports)} classes with {shots} distinct images,"
            f" derived but not listed {strangers}; the file itself asserts {expected}"
        )
    return supports


def class_areas(
    samples: Sequence[Sample], ids: Iterable[int] | None, threads: int = 1
) -> dict[str, dict[int, int]]:
    """Pixels of some classes by sample id, then class id; 0 where an image has none, or no mask.

    With None for `ids`, pixels of every value that a sample's mask holds, the ignore value too, and no zeros.
    Every mask is read once, in `threads` processes. Raises DataError for an unreadable mask.
    """
    numbers = None if ids is None else tuple(ids)
    areas = map_samples(partial(_areas, ids=numbers), samples, threads=threads)
    return {sample.id: area for sample, area in zip(samples, areas, strict=True)}


def _areas(sample: Sample, *, ids: tuple[int, ...] | None) -> dict[int, int]:
    if sample.mask is None:
        return dict.fromkeys(ids or (), 0)
    # Void and every other value have counts of their own.
    counts = np.bincount(read_mask(sample.mask).ravel())
    if ids is None:
        return {int(number): int(counts[number]) for number in np.flatnonzero(counts)}
    return {number: int(counts[number]) if number < len(counts) else 0 for number in ids}


def random_supports(
    samples: Sequence[Sample],
    *,
    class_id: int,
    shots: int,
    seed: int,
    min_pixels: int,
    areas: Mapping[str, int] | None = None,
    threads: int = 1,
) -> list[str]:
    """Draw `shots` images of a class, each candidate equally likely: their ids, in the order drawn.

    The draw depends on seed, class id, shots and the ids of the candidates, not on their order nor on other
    classes: every candidate has the rank that its hash gives it.

    Args:
        samples: the training samples.
        class_id: the class, in data set ids.
        shots: how many images, at least 1.
        seed: another seed, another draw.
        min_pixels: px of the class that a candidate's mask holds at least, from 1.
        areas: px of the class by sample id, absent ones count 0; None: the masks are read.
        threads: processes that read masks.

    Raises:
        ConfigError: shots or min_pixels below 1.
        DataError: fewer candidates than shots, or an unreadable mask.
    """
    found = _candidates(samples, class_id, shots, min_pixels, areas, threads)
    return sorted(found, key=partial(_rank, seed=seed, class_id=class_id, shots=shots))[:shots]


def largest_supports(
    samples: Sequence[Sample],
    *,
    class_id: int,
    shots: int,
    min_pixels: int = 1,
    areas: Mapping[str, int] | None = None,
    threads: int = 1,
) -> list[str]:
    """The `shots` images with the largest area of a class, largest first, equal ones by id (paper's rule).

    Arguments and errors are those of `random_supports`.
    """
    found = _candidates(samples, class_id, shots, min_pixels, areas, threads)
    return sorted(found, key=lambda sample_id: (-found[sample_id], sample_id))[:shots]


def _rank(sample_id: str, *, seed: int, class_id: int, shots: int) -> bytes:
    return hashlib.sha256(f"{seed}/{class_id}/{shots}/{sample_id}".encode()).digest()


def _candidates(
    samples: Sequence[Sample],
    class_id: int,
    shots: int,
    min_pixels: int,
    areas: Mapping[str, int] | None,
    threads: int,
) -> dict[str, int]:
    """Area in px by id of the samples that may be supports."""
    for what, value in (("shots", shots), ("min_pixels", min_pixels)):
        if value < 1:
            raise ConfigError(f"{what} is {value}, allowed are 1 and more; correct it in the configuration")
    if areas is None:
        areas = {number: area[class_id] for number, area in class_areas(samples, [class_id], threads).items()}
    found = {s.id: areas[s.id] for s in samples if areas.get(s.id, 0) >= min_pixels}
    if len(found) < shots:
        raise DataError(
            f"{len(found)} of {len(samples)} images have at least {min_pixels} px of the class {class_id},"
            f" {shots} are needed as supports; ask for fewer shots, lower min_pixels, or add images"
        )
    return found
