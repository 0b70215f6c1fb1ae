"""Training items of several sources at once (larvseg.md 1.8, 1.9).

An item is a bundle: the share of every source's images that the release computes on one GPU each. A step has
several bundles, so its images are the same for any number of devices, and no source depends on a rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from anyshot.data.crop_geometry import Geometry
from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Sample
from anyshot.data.transforms import corner_crop, normalise, ssd_jitter
from anyshot.errors import ConfigError, DataError
from anyshot.larvseg.image_sets import ImageSetSource
from anyshot.larvseg.options import Source
from anyshot.larvseg.tables import IGNORE

TRIALS = 10  # crops drawn until several classes are in one, the largest below LARGEST
LARGEST = 0.75

Lut = np.ndarray  # mask value -> position among the active classes of the source


@dataclass(frozen=True)
class Shown:
    """An image and what is known of it.

    image: uint8 (H, W, 3). labels: positions of the classes that are in it, ascending. positions: by pixel,
    int32 (H, W), IGNORE where there is none; None: no mask is read.
    """

    image: np.ndarray
    labels: tuple[int, ...]
    positions: np.ndarray | None


class SourceImages(Protocol):
    """The images of a source, drawn by epoch and position."""

    def __len__(self) -> int: ...

    def read(self, epoch: int, position: int) -> Shown: ...


class ManifestImages:
    """The images of a source by its manifest.

    Args:
        samples: the images; those without a label of the source are left out where labels are learnt from.
        lut: mask value -> position, IGNORE.
        labels: positions that an image's labels name.
        read_masks: masks are read; otherwise no pixel of any is.
        by_class: draw a class first and then one of its images; otherwise all images in turn.
        seed: of the order.

    Raises DataError when nothing is left, or a mask is missing where masks are read.
    """

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        lut: Lut,
        labels: Callable[[Sample], Sequence[int]],
        read_masks: bool,
        by_class: bool,
        seed: int,
        name: str,
    ) -> None:
        self._lut, self._read_masks, self._seed = lut, read_masks, seed
        found = [(sample, tuple(labels(sample))) for sample in samples]
        kept = [(sample, own) for sample, own in found if own]
        if not kept:
            raise DataError(f"none of the {len(samples)} images of source {name!r} shows one of its classes")
        missing = [sample.id for sample, _ in kept if sample.mask is None]
        if read_masks and missing:
            raise DataError(
                f"source {name!r}: {len(missing)} images have no mask, the first is {missing[0]}: set"
                " `label_source: image` for images with labels alone, or give masks"
            )
        self.samples = [sample for sample, _ in kept]
        self._labels = [own for _, own in kept]
        self._of_class: dict[int, list[int]] = {}
        if by_class:
            for number, own in enumerate(self._labels):
                for position in own:
                    self._of_class.setdefault(position, []).append(number)

    def __len__(self) -> int:
        return len(self.samples)

    def draw(self, position: int) -> int:
        """The number of the image that is next; positions count on over the epochs."""
        if self._of_class:
            rng = np.random.default_rng(np.random.SeedSequence([self._seed, position], spawn_key=(4,)))
            among = self._of_class[sorted(self._of_class)[int(rng.integers(len(self._of_class)))]]
            return among[int(rng.integers(len(among)))]
        turn, place = divmod(position, len(self))
        return int(_order(self._seed, turn, len(self))[place])

    def read(self, epoch: int, position: int) -> Shown:
        number = self.draw(position)
        sample = self.samples[number]
        positions = None
        if self._read_masks and sample.mask is not None:
            positions = np.asarray(self._lut[read_mask(sample.mask)])
        return Shown(read_image(sample.image), self._labels[number], positions)


class FolderImages:
    """The images of an image set, each with the label of its folder.

    images: of the set. labels: class index of the set -> position. Corrupt images are errors or passed over,
    as the set's options say.
    """

    def __init__(self, images: ImageSetSource, *, labels: Mapping[int, int]) -> None:
        self.images, self._labels = images, dict(labels)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, epoch: int, position: int) -> Shown:
        found = self.images.read(epoch, position)
        return Shown(found.pixels, tuple(self._labels[label] for label in found.labels), None)


@lru_cache(maxsize=16)
def _order(seed: int, turn: int, length: int) -> np.ndarray:
    """The order of a source's images in one turn through them."""
    # the spawn key keeps this stream apart from those of items and steps
    sequence = np.random.SeedSequence([seed, turn], spawn_key=(5,))
    return np.random.default_rng(sequence).permutation(length)


def fitted_size(
    height: int, width: int, *, short_side: float, long_side: float, ratio: float = 1.0
) -> tuple[int, int]:
    """The size (H, W) px, aspect kept, that fits both limits times `ratio` (larvseg.md 1.9)."""
    limits = int(short_side * ratio), int(long_side * ratio)
    factor = min(max(limits) / max(height, width), min(limits) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


class Crops:
    """Crops of one source: scaled, cut, mirrored, recoloured, normalised, padded with zeros behind."""

    def __init__(
        self, source: Source, *, mirror: bool, downsample: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        if source.crop % downsample:
            raise ConfigError(
                f"source {source.name!r}: crop {source.crop} px is no multiple of `downsample` {downsample}"
            )
        self.source, self.mirror, self.downsample = source, mirror, downsample
        self.mean, self.std = mean, std

    def item(self, shown: Shown, rng: np.random.Generator) -> _Crop:
        """One crop and what is known of it, at loss resolution."""
        positions, shape = shown.positions, shown.image.shape[:2]
        if positions is not None and positions.shape != shape:
            raise DataError(f"image {shape} px and mask {positions.shape} px of an image differ in size")
        geometry = self._geometry((shape[0], shape[1]), positions, rng)
        part, place = geometry.image(shown.image)
        if self.source.jitter:
            part = ssd_jitter(part, rng)
        side, rate = self.source.crop, self.downsample
        canvas = torch.zeros(3, side, side)
        canvas[(slice(None), *place)] = normalise(part, mean=self.mean, std=self.std)
        inside = np.zeros((side, side), dtype=bool)
        inside[place] = True
        labels = np.full((side // rate, side // rate), IGNORE, dtype=np.int32)
        if positions is not None:
            labels = np.ascontiguousarray(geometry.labels(positions, fill=IGNORE)[::rate, ::rate])
        valid = inside[::rate, ::rate] & ((labels != IGNORE) | (positions is None))
        return _Crop(canvas, labels, valid)

    def _geometry(
        self, shape: tuple[int, int], positions: np.ndarray | None, rng: np.random.Generator
    ) -> Geometry:
        """A geometry; drawn again while one class fills the crop, where masks are known (larvseg.md 1.9)."""
        ratio = float(rng.uniform(*self.source.ratio))
        limits = {"short_side": self.source.short_side, "long_side": self.source.long_side}
        size = fitted_size(*shape, **limits, ratio=ratio)
        mirror = self.mirror and bool(rng.random() < 0.5)
        for _ in range(TRIALS):
            geometry = Geometry(size, corner_crop(*size, self.source.crop, rng), mirror=mirror)
            if positions is None or _varied(geometry.labels(positions, fill=IGNORE)):
                break
        return geometry


class _Crop:
    """image (3, s, s); labels int32 and valid bool (no padding, not ignored), both (s / rate, s / rate)."""

    def __init__(self, image: Tensor, labels: np.ndarray, valid: np.ndarray) -> None:
        self.image, self.labels, self.valid = image, labels, valid


def _varied(labels: np.ndarray) -> bool:
    """Whether a crop shows several classes, the largest on less than 75 % of what has one."""
    counts = np.unique(labels[labels != IGNORE], return_counts=True)[1]
    return len(counts) > 1 and counts.max() / counts.sum() < LARGEST


class SourceData:
    """What a bundle has of one source.

    Args:
        source: its options; the role may differ from them for the oracle.
        with_masks: pixels are learnt from, not which classes are there.
        classes: N, active classes of the source.
        bundles: per step, over all devices.
    """

    def __init__(
        self,
        *,
        source: Source,
        images: SourceImages,
        crops: Crops,
        with_masks: bool,
        classes: int,
        bundles: int,
    ) -> None:
        self.source, self.images, self.crops = source, images, crops
        self.with_masks, self.classes = with_masks, classes
        self.share = source.images_per_step // bundles

    @property
    def bundles(self) -> int:
        """Bundles in one turn through the images."""
        return -(-len(self.images) // self.share)

    def part(self, epoch: int, bundle: int, rng: np.random.Generator) -> dict[str, Any]:
        """images (n, 3, s, s), valid (n, h, w), and labels (n, h, w) or present (n, N)."""
        name = self.source.name
        crops, present = [], torch.zeros(self.share, self.classes, dtype=torch.bool)
        for place in range(self.share):
            shown = self.images.read(epoch, bundle * self.share + place)
            crop = self.crops.item(shown, rng)
            crops.append(crop)
            present[place, self.known(shown, crop.labels)] = True
        found = {
            f"{name}.images": torch.stack([crop.image for crop in crops]),
            f"{name}.valid": torch.from_numpy(np.stack([crop.valid for crop in crops])),
        }
        if self.with_masks:
            found[f"{name}.labels"] = torch.from_numpy(np.stack([crop.labels for crop in crops]))
        else:
            found[f"{name}.present"] = present
        return found

    def known(self, shown: Shown, labels: np.ndarray) -> list[int]:
        """Positions of the classes that are known to be there: in the crop, or in the whole image."""
        if self.source.label_source == "image" or shown.positions is None:
            return list(shown.labels)
        return [int(value) for value in np.unique(labels) if value != IGNORE]


class MixedDataset:
    """Bundles of all sources; one epoch is a turn through the source that takes longest."""

    def __init__(self, sources: Sequence[SourceData]) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return max(source.bundles for source in self.sources)

    def item_of(self, epoch: int, index: int, rng: np.random.Generator) -> Mapping[str, Any]:
        """The bundle `index` of an epoch, with the seed of what its losses draw."""
        found: dict[str, Any] = {"seed": int(rng.integers(2**62))}
        for source in self.sources:
            found |= source.part(epoch, epoch * len(self) + index, rng)
        return found
