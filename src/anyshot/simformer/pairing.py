"""Who is paired with whom: classes as bit masks, partners drawn on the fly (simformer.md 2.7). No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from anyshot.errors import ArtifactError
from anyshot.simformer.options import PairMode

MANY = 500  # released code: a class without candidates counts as one with so many


@dataclass(frozen=True)
class ImageLabels:
    """Ids of the training images, and the classes each one shows: bit k stands for class index k."""

    ids: tuple[str, ...]
    base: tuple[int, ...]
    novel: tuple[int, ...]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> ImageLabels:
        """From (id, base class indices, novel class indices) of every image."""
        listed = [(one, _bits(base), _bits(novel)) for one, base, novel in rows]
        ids, base, novel = zip(*listed, strict=True) if listed else ((), (), ())
        return cls(tuple(ids), tuple(base), tuple(novel))

    def with_a_base_class(self) -> ImageLabels:
        """The same without the images that show none."""
        rows = [row for row in zip(self.ids, self.base, self.novel, strict=True) if row[1]]
        ids, base, novel = zip(*rows, strict=True) if rows else ((), (), ())
        return ImageLabels(tuple(ids), tuple(base), tuple(novel))

    @cached_property
    def with_novel(self) -> Mapping[int, list[int]]:
        """Images that show a novel class, by class."""
        return _holders(self.novel)

    @cached_property
    def with_base(self) -> Mapping[int, list[int]]:
        """Images that show a base class, by class."""
        return _holders(self.base)

    def deconfounded(self, image: int, novel: int) -> list[int]:
        """D_f(c): the other images that have exactly `novel` in common with the novel classes of `image`."""
        own, wanted = self.novel[image], 1 << novel
        return [
            one for one in self.with_novel.get(novel, ()) if one != image and self.novel[one] & own == wanted
        ]

    def sharing(self, image: int, kind: str) -> list[int]:
        """The other images that share a class of the kind `base` or `novel` with `image`."""
        sets, holders = (self.base, self.with_base) if kind == "base" else (self.novel, self.with_novel)
        found = {one for index in members(sets[image]) for one in holders[index]}
        return sorted(found - {image})

    def to_json(self, *, split: str, dropped: Sequence[str]) -> dict[str, Any]:
        """JSON types only; `partners` counts, per image, those of each of its novel classes."""
        images = [
            {
                "id": one,
                "base": members(self.base[number]),
                "novel": members(self.novel[number]),
                "partners": [len(self.deconfounded(number, index)) for index in members(self.novel[number])],
            }
            for number, one in enumerate(self.ids)
        ]
        return {"split": split, "images": images, "without_labels": list(dropped)}


def read_image_labels(path: Path, *, split: str) -> ImageLabels:
    """What `simformer_pairs` has written. Raises ArtifactError when it is damaged or of another split."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["split"] != split:
            raise ArtifactError(
                f"{path} is of split {content['split']}, expected {split}: run simformer_pairs again"
            )
        return ImageLabels.of((row["id"], row["base"], row["novel"]) for row in content["images"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} is no list of image labels ({error!r}): run simformer_pairs again"
        ) from None


class Partners:
    """Draws the partner of an image.

    Modes: `deconfounded` shares exactly one novel class, drawn among those of the image that have partners,
    with the chance `rare_share` the one with the fewest; failing that any image that shares a novel, then a
    base class, then the image itself. `novel` and `base` share a class of that kind, or it is the image
    itself. `random` is any image. `released` is what the released code does (simformer.md 6.2, items 3, 4).
    """

    def __init__(self, labels: ImageLabels, *, mode: PairMode, rare_share: float) -> None:
        self.labels, self.mode, self.rare_share = labels, mode, rare_share

    def draw(self, image: int, rng: np.random.Generator) -> int:
        """The partner's number; the image's own where no other fits."""
        if self.mode == "random":
            return int(rng.integers(len(self.labels.ids)))
        if self.mode in ("base", "novel"):
            return _one_of(self.labels.sharing(image, self.mode), image, rng)
        if self.mode == "released":
            return self._released(image, rng)
        found = {index: ones for index, ones in self._deconfounded(image).items() if ones}
        if found:
            return _one_of(found[self._class(found, rng)], image, rng)
        others = self.labels.sharing(image, "novel") or self.labels.sharing(image, "base")
        return _one_of(others, image, rng)

    def _released(self, image: int, rng: np.random.Generator) -> int:
        found = self._deconfounded(image)
        if len(found) < 2:  # with one novel class the released list of common novel classes is empty
            return _one_of(self.labels.sharing(image, "base"), image, rng)
        return _one_of(found[self._class(found, rng)], image, rng)

    def _class(self, found: Mapping[int, list[int]], rng: np.random.Generator) -> int:
        """The novel class to share."""
        classes = list(found)
        if rng.random() < self.rare_share:
            return min(classes, key=lambda index: len(found[index]) or MANY)
        return classes[int(rng.integers(len(classes)))]

    def _deconfounded(self, image: int) -> dict[int, list[int]]:
        """The candidates of each novel class of an image; found anew, as those of all images are too many to
        keep."""
        own = members(self.labels.novel[image])
        return {index: self.labels.deconfounded(image, index) for index in own}


def members(bits: int) -> list[int]:
    """Indices of the set bits, ascending."""
    found = []
    while bits:
        lowest = bits & -bits
        found.append(lowest.bit_length() - 1)
        bits ^= lowest
    return found


def _bits(indices: Sequence[int]) -> int:
    return sum(1 << index for index in set(indices))


def _holders(sets: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number, bits in enumerate(sets):
        for index in members(bits):
            found.setdefault(index, []).append(number)
    return found


def _one_of(candidates: Sequence[int], otherwise: int, rng: np.random.Generator) -> int:
    return candidates[int(rng.integers(len(candidates)))] if candidates else otherwise
