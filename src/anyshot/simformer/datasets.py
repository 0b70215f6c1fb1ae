"""Training sets of SimFormer: pairs of crops, and crops with pseudo labels (simformer.md 1.4, 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from anyshot.data.crop_geometry import Geometry
from anyshot.data.images import image_size, read_image, read_mask
from anyshot.data.manifest import Sample
from anyshot.data.transforms import CropWindow, corner_crop, normalise, ssd_jitter
from anyshot.errors import DataError
from anyshot.simformer.options import Augmentation
from anyshot.simformer.pairing import Partners
from anyshot.simformer.tables import IGNORE, WeakTables

PAD_GREY = 128  # image value of padding, before normalisation
TRIALS = 50  # crops drawn until one shows a class

Supervision = Literal["crop", "image", "none", "masks"]
LabelReader = Callable[[Sample], np.ndarray]


def short_side_size(height: int, width: int, short_side: int, longest: int) -> tuple[int, int]:
    """Size whose shorter side is `short_side` px, aspect kept, the longer one at most `longest`."""
    factor = min(short_side / min(height, width), longest / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


class Crops:
    """Scaled, cropped, recoloured and mirrored images with a class or more in them."""

    def __init__(self, options: Augmentation, *, mean: Sequence[float], std: Sequence[float]) -> None:
        self.options, self.mean, self.std = options, mean, std

    def geometry(
        self, labels: np.ndarray, rng: np.random.Generator, *, shows: Callable[[np.ndarray], bool]
    ) -> Geometry:
        """A geometry whose crop of `labels` (H, W) has something to learn.

        Drawn up to 50 times; then the crop is put around a pixel that has a class. Raises ValueError when
        there is none.
        """
        for _ in range(TRIALS):
            drawn = self._drawn(labels.shape, rng)
            if shows(drawn.labels(labels, fill=IGNORE)):
                return drawn
        size = labels.shape
        return Geometry(size, self._around(labels, rng), mirror=False)

    def _drawn(self, shape: tuple[int, ...], rng: np.random.Generator) -> Geometry:
        side = int(rng.choice(self.options.short_sides))
        size = short_side_size(shape[0], shape[1], side, self.options.longest)
        window = corner_crop(*size, self.options.crop, rng)
        return Geometry(size, window, mirror=self.options.mirror and bool(rng.random() < 0.5))

    def _around(self, labels: np.ndarray, rng: np.random.Generator) -> CropWindow:
        rows, columns = np.nonzero(labels != IGNORE)
        if not len(rows):
            raise ValueError("no pixel of the label map has a class")
        chosen = int(rng.integers(len(rows)))
        sides = []
        for place, length in zip((int(rows[chosen]), int(columns[chosen])), labels.shape, strict=True):
            side = min(length, self.options.crop)
            start = min(max(place - side // 2, 0), length - side)
            sides.append((slice(start, start + side), slice(0, side)))
        return CropWindow(self.options.crop, (sides[0][0], sides[1][0]), (sides[0][1], sides[1][1]))

    def image(self, sample: Sample, geometry: Geometry, rng: np.random.Generator) -> Tensor:
        """The normalised crop, (3, crop, crop)."""
        part, place = geometry.image(read_image(sample.image))
        if self.options.jitter:
            part = ssd_jitter(part, rng)
        side = geometry.window.size
        canvas = np.full((side, side, 3), PAD_GREY, dtype=np.uint8)
        canvas[place] = part
        return normalise(canvas, mean=self.mean, std=self.std)


def mask_labels(tables: WeakTables, *, supervision: Supervision) -> LabelReader:
    """Reader of a sample's mask as class indices (H, W) uint8.

    What the supervision hides is 255: novel classes, unless they have masks or their presence in the crop is
    read from the mask. An image without a mask is 255 all over where `image` labels are learnt from; else it
    raises DataError.
    """
    lut = tables.lut if supervision in ("crop", "masks") else tables.base_lut

    def read(sample: Sample) -> np.ndarray:
        if sample.mask is not None:
            return np.asarray(lut[read_mask(sample.mask)])
        if supervision != "image":
            learnt = "set `joint.novel_label_source: image`, which learns such images from their labels"
            needed = "the variants `oracle` and `ignore_novel` need one: take them out of `variants`"
            raise DataError(
                f"image {sample.id} has no mask: {learnt if supervision == 'crop' else needed},"
                " or leave it out"
            )
        return np.full(image_size(sample.image), IGNORE, dtype=np.uint8)

    return read


class CropDataset:
    """One image per item.

    Args:
        samples: the images.
        read: label map (H, W) of a sample in class indices, 255 = none.
        tables: of the split.
        supervision: what is known of novel classes: those in the `crop` or in the `image` by name, `none`,
            or their `masks`.
        crops: draws and makes the crops.
    """

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        read: LabelReader,
        tables: WeakTables,
        supervision: Supervision,
        crops: Crops,
    ) -> None:
        self.samples, self.read, self.tables, self.crops = samples, read, tables, crops
        self.supervision = supervision
        self._hidden = np.arange(256, dtype=np.uint8)
        if supervision != "masks":
            self._hidden[list(tables.novel)] = IGNORE

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`image` (3, S, S), `labels` (S, S) uint8 with classes that have masks and 255, `novel` (K,) bool,
        `pad` (S, S) bool, and `counts` (4,): images, labels, labels with masks, images with others."""
        sample = self.samples[index]
        labels, named = self.read(sample), self._named(sample)
        geometry = self.crops.geometry(
            labels, rng, shows=lambda part: bool(named.any()) or bool((part != IGNORE).any())
        )
        crop = geometry.labels(labels, fill=IGNORE)
        if self.supervision == "crop":
            named = self.tables.is_novel & (np.bincount(crop.ravel(), minlength=256)[: len(named)] > 0)
        visible = self._hidden[crop]
        masks = len(np.unique(visible[visible != IGNORE]))
        missing = int(named.sum())
        return {
            "image": self.crops.image(sample, geometry, rng),
            "labels": torch.from_numpy(visible),
            "novel": torch.from_numpy(named),
            "pad": torch.from_numpy(geometry.labels(np.zeros(labels.shape, dtype=bool), fill=1)),
            "counts": torch.tensor([1.0, masks + missing, masks, float(missing > 0)]),
        }

    def _named(self, sample: Sample) -> np.ndarray:
        """(K,) bool: classes without a mask that the image is known to show, whatever the crop."""
        found = np.zeros(len(self.tables.table), dtype=bool)
        if self.supervision == "image":
            base, novel = self.tables.labels_of(sample)
            found[novel if sample.mask is not None else [*base, *novel]] = True
        return found


class PairDataset:
    """Two images per item, the second one drawn as the partner of the first; each cropped for itself."""

    def __init__(self, *, images: CropDataset, partners: Partners) -> None:
        self.images, self.partners = images, partners

    def __len__(self) -> int:
        return len(self.images)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """What `CropDataset.item` gives, stacked (2, ...), `counts` summed, and `seed` for the points."""
        both = [self.images.item(one, rng) for one in (index, self.partners.draw(index, rng))]
        stacked = {name: torch.stack([item[name] for item in both]) for name in both[0]}
        stacked["counts"] = stacked["counts"].sum(dim=0)
        stacked["seed"] = torch.tensor(int(rng.integers(2**62)))
        return stacked
