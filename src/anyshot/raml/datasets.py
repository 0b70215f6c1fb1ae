"""Training set of RAML's three sub-stages: crops with closed labels (raml.md 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Sample
from anyshot.data.split_tables import IGNORE, SplitTables
from anyshot.data.transforms import colour_jitter, corner_crop, normalise
from anyshot.errors import DataError
from anyshot.raml.options import Photometry


class ClosedSetDataset:
    """Random crops without scaling; novel and void pixels are 255, as is what lies beyond a small image."""

    def __init__(
        self,
        *,
        samples: Sequence[Sample],
        tables: SplitTables,
        options: Photometry,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        bare = [sample.id for sample in samples if sample.mask is None]
        if bare:
            raise DataError(f"{len(bare)} training images have no mask, the first is {bare[0]!r}")
        self.samples, self.tables, self.options = samples, tables, options
        self.mean, self.std = mean, std

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`image` (3, crop, crop) and `labels` (crop, crop) uint8, 0..K-1 or 255."""
        sample, options = self.samples[index], self.options
        assert sample.mask is not None  # checked above; narrows the type
        image = read_image(sample.image)
        labels = self.tables.closed_lut[read_mask(sample.mask)]
        window = corner_crop(image.shape[0], image.shape[1], options.crop, rng)
        image = colour_jitter(image, options.jitter, rng)
        if rng.random() < 0.5:
            image, labels = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
        pixels = normalise(image, mean=self.mean, std=self.std).numpy()
        return {
            "image": torch.from_numpy(window.apply(pixels)),
            "labels": torch.from_numpy(window.apply(labels, fill=IGNORE)),
        }
