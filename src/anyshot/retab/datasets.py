"""Training sets of RETAB's networks: `item(index, rng)` gives one sample, all randomness comes from `rng`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from anyshot.data.classes import ClassTable
from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Sample
from anyshot.data.transforms import (
    CropWindow,
    colour_jitter,
    corner_crop,
    draw_contour,
    long_side_size,
    normalise,
    random_crop,
    resize_image,
    resize_labels,
)
from anyshot.errors import DataError
from anyshot.ops.affinity import merge_crf_labels
from anyshot.retab.options import Affinity, Boundary, Classifier, Crops, Segmentation

IGNORE = 255
BLOCK = 8  # px per cell of the label grids


class MaskReader(Protocol):
    """Reads an image's mask in the data set's ids, uint8 or uint16 (H, W)."""

    def __call__(self, sample_id: str) -> np.ndarray: ...


class CrfReader(Protocol):
    """Reads a window (y0, y1, x0, x1) of an image's CRF results: `la` and `ha`, float (K+1, h, w) each."""

    def __call__(
        self, sample_id: str, window: tuple[int, int, int, int]
    ) -> tuple[np.ndarray, np.ndarray]: ...


def _image(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array)


class ClassifierDataset:
    """Images and multi-hot labels (retab.md 2.3); an image of background alone has all zeros."""

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        table: ClassTable,
        options: Classifier,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.samples, self.options, self.mean, self.std = samples, options, mean, std
        self.positions = {class_id: k for k, class_id in enumerate(table.foreground_ids)}

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`image` (3, crop, crop) and `target` (K,) in {0, 1}."""
        sample, options = self.samples[index], self.options
        image = read_image(sample.image)
        long_side = int(rng.integers(options.long_side[0], options.long_side[1] + 1))
        image = resize_image(image, *long_side_size(image.shape[0], image.shape[1], long_side), bicubic=True)
        if rng.random() < 0.5:
            image = _image(image[:, ::-1])
        image = colour_jitter(image, options.jitter, rng)
        window = random_crop(image.shape[0], image.shape[1], options.crop, rng)
        target = torch.zeros(len(self.positions))
        target[[self.positions[label] for label in sample.labels]] = 1
        pixels = normalise(image, mean=self.mean, std=self.std).numpy()
        return {"image": torch.from_numpy(window.apply(pixels)), "target": target}


def pad_colour(crops: Crops, mean: Sequence[float]) -> list[int]:
    """Colour (8-bit RGB) of an image's padding: black or the mean colour (P3)."""
    return [0, 0, 0] if crops.image_pad == "black" else [round(255 * value) for value in mean]


class BoundaryDataset:
    """Crops of base images with their masks, the contour as 255 (retab.md 2.6)."""

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        table: ClassTable,
        read_base_mask: MaskReader,
        options: Boundary,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.samples, self.options, self.mean, self.std = samples, options, mean, std
        self.read_base_mask = read_base_mask
        self.lookup = table.lookup(IGNORE).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`image` (3, crop, crop), `labels` (crop, crop) uint8: 255 contour, 0 background, else object."""
        sample, crops = self.samples[index], self.options.crops
        image = colour_jitter(read_image(sample.image), crops.jitter, rng)
        labels = self.lookup[self.read_base_mask(sample.id)]
        if self.options.contour == "synthesise" and not (labels == IGNORE).any():
            labels = draw_contour(labels, width=self.options.contour_width)
        window = random_crop(image.shape[0], image.shape[1], crops.crop, rng)
        image = window.apply(image, fill=pad_colour(crops, self.mean))
        # padding that is to be ignored must not be taken for a contour: it is marked 254 and masked out
        labels = window.apply(labels, fill=0 if crops.pad_label == 0 else 254)
        if crops.mirror and rng.random() < 0.5:
            image, labels = _image(image[:, ::-1]), _image(labels[:, ::-1])
        return {"image": normalise(image, mean=self.mean, std=self.std), "labels": torch.from_numpy(labels)}


class AffinityDataset:
    """Crops with label maps on the stride-8 grid, from base masks or CRF results (retab.md 2.8).

    A sample in `base_ids` reads its mask; any other reads CRF results and, with `open_maps`, its boundary
    map. A novel sample's mask is never opened.
    """

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        table: ClassTable,
        base_ids: frozenset[str],
        read_base_mask: MaskReader,
        read_crf: CrfReader | None,
        open_maps: MaskReader | None,
        options: Affinity,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.samples, self.base_ids, self.options = samples, base_ids, options
        self.read_base_mask, self.read_crf, self.open_maps = read_base_mask, read_crf, open_maps
        self.mean, self.std = mean, std
        self.lookup = table.lookup(IGNORE).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`image` (3, crop, crop), `labels` (crop / 8, crop / 8) uint8 with 255 = ignore."""
        sample, crops = self.samples[index], self.options.crops
        image = colour_jitter(read_image(sample.image), crops.jitter, rng)
        window = random_crop(image.shape[0], image.shape[1], crops.crop, rng)
        image = window.apply(image, fill=pad_colour(crops, self.mean))
        if sample.id in self.base_ids:
            mask = self.lookup[self.read_base_mask(sample.id)]
            labels = window.apply(mask, fill=crops.pad_label)[::BLOCK, ::BLOCK]
        else:
            labels = self._from_crf(sample.id, window)
        if crops.mirror and rng.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        tensor = normalise(_image(image), mean=self.mean, std=self.std)
        return {"image": tensor, "labels": torch.from_numpy(_image(labels))}

    def _from_crf(self, sample_id: str, window: CropWindow) -> np.ndarray:
        if self.read_crf is None:
            raise DataError(f"image {sample_id} is no base image, and no CRF results were given for it")
        low, high = (_block_means(part, window) for part in self.read_crf(sample_id, window.window))
        open_cells = None
        if self.open_maps is not None:
            open_cells = window.apply(self.open_maps(sample_id), fill=0)[::BLOCK, ::BLOCK] != 0
        return merge_crf_labels(low, high, open_cells)


def _block_means(part: np.ndarray, window: CropWindow) -> np.ndarray:
    """Place (K, h, w) in the canvas and average 8x8 blocks: float32 (K, crop / 8, crop / 8)."""
    canvas = np.zeros((len(part), window.size, window.size), dtype=np.float32)
    canvas[(slice(None), *window.target)] = part
    cells = window.size // BLOCK
    return canvas.reshape(len(part), cells, BLOCK, cells, BLOCK).mean(axis=(2, 4))


class SegmentationDataset:
    """Rescaled crops with base masks or novel pseudo labels (retab.md 4); padding right and bottom,
    ignored."""

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        table: ClassTable,
        read_labels: MaskReader,
        options: Segmentation,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.samples, self.options, self.mean, self.std = samples, options, mean, std
        self.read_labels = read_labels
        self.lookup = table.lookup(IGNORE).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`image` (3, crop, crop), `labels` (crop, crop) uint8 class indices with 255 = ignore."""
        sample, options = self.samples[index], self.options
        image, labels = read_image(sample.image), self.lookup[self.read_labels(sample.id)]
        if rng.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        long_side = int(rng.integers(options.long_side[0], options.long_side[1] + 1))
        size = long_side_size(image.shape[0], image.shape[1], long_side)
        image = resize_image(_image(image), *size, bicubic=True)
        image = colour_jitter(image, options.jitter, rng)
        window = corner_crop(*size, options.crop, rng)
        pixels = normalise(image, mean=self.mean, std=self.std).numpy()
        labels = window.apply(_image(resize_labels(labels, *size)), fill=IGNORE)
        return {"image": torch.from_numpy(window.apply(pixels)), "labels": torch.from_numpy(labels)}


def mask_reader(samples: Sequence[Sample]) -> MaskReader:
    """Reader of the masks of these samples only: asking for any other id is an error, so no mask leaks."""
    paths = {sample.id: sample.mask for sample in samples}

    def read(sample_id: str) -> np.ndarray:
        path: Any = paths.get(sample_id)
        if path is None:
            raise DataError(
                f"the mask of {sample_id} may not be read here, or there is none: it is no base image"
            )
        return read_mask(path)

    return read
