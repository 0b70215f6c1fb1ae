"""Training sets of POP: base images, and pairs of a novel and a base image (pop.md 1.7, 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Sample
from anyshot.data.transforms import corner_crop, normalise, resize_image, resize_labels
from anyshot.engine.stores import Store
from anyshot.errors import ArtifactError, DataError
from anyshot.pop.geometry import scaled_size, test_size
from anyshot.pop.options import Geometry
from anyshot.pop.selection import Replay, draw_base, scarce
from anyshot.pop.tables import IGNORE, FoldTables


def mask_of(sample: Sample) -> Path:
    """The path of a sample's mask. Raises DataError when it has none."""
    if sample.mask is None:
        raise DataError(f"image {sample.id} has no mask: POP learns from masks alone")
    return sample.mask


def whole_image(
    image: np.ndarray, size: int, *, mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, tuple[int, int]]:
    """An image (H, W, 3) with its longer side scaled to `size` px, normalised and padded with zeros at the
    right and bottom: (3, size, size), and the size (h, w) of the image in it (pop.md 1.7)."""
    height, width = test_size(image.shape[0], image.shape[1], size)
    pixels = normalise(resize_image(image, height, width), mean=mean, std=std)
    canvas = torch.zeros(3, size, size)
    canvas[:, :height, :width] = pixels
    return canvas, (height, width)


def whole_labels(labels: np.ndarray, size: int) -> np.ndarray:
    """Labels (H, W) scaled and padded as `whole_image` does, 255 beyond: (size, size)."""
    height, width = test_size(labels.shape[0], labels.shape[1], size)
    canvas = np.full((size, size), IGNORE, dtype=labels.dtype)
    canvas[:height, :width] = resize_labels(labels, height, width)
    return canvas


class Augmented:
    """Scaled, mirrored and cropped images with their labels.

    Padding at the right and bottom is the mean colour, its labels 255.
    """

    def __init__(
        self, *, tables: FoldTables, options: Geometry, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.tables, self.options, self.mean, self.std = tables, options, mean, std

    def __call__(
        self, sample: Sample, *, novel: bool, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels float32 (3, crop, crop) and labels uint8 (crop, crop); novel pixels are background unless
        `novel`."""
        image = read_image(sample.image)
        labels = self.tables.labels(read_mask(mask_of(sample)), novel=novel)
        low, high = self.options.scale
        factor = low + (high - low) * rng.random()
        size = scaled_size(image.shape[0], image.shape[1], factor)
        image, labels = resize_image(image, *size), resize_labels(labels, *size)
        if rng.random() < 0.5:
            image, labels = np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(labels[:, ::-1])
        window = corner_crop(*size, self.options.crop, rng)
        pixels = normalise(image, mean=self.mean, std=self.std).numpy()
        return window.apply(pixels), window.apply(labels, fill=IGNORE)


class BaseDataset:
    """Stage 1: images with a base class; novel pixels are background (pop.md 1.6)."""

    def __init__(self, *, samples: Sequence[Sample], augmented: Augmented) -> None:
        self.samples, self.augmented = samples, augmented

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`image` (3, crop, crop) and `labels` (crop, crop) uint8, 0..Kb or 255."""
        pixels, labels = self.augmented(self.samples[index], novel=False, rng=rng)
        return {"image": torch.from_numpy(pixels), "labels": torch.from_numpy(labels)}


class Pairing:
    """Who meets whom in stage 2: every epoch draws `shots` base images of every base class anew, and each
    meets a support image drawn with replacement (pop.md 2.4).

    Args:
        supports: ids of the support images, of all novel classes.
        base_lists: ids of a base class's images, by class.
        shots: base images per class and epoch.
        seed: of the draws of base images.
        replay: `voc` or `coco`, how they are drawn.
        names: of the base classes, for messages.

    `scarce` says which classes may show an image again within an epoch (see `selection.scarce`). Raises as
    `draw_base` when made, not in a later epoch.
    """

    def __init__(
        self,
        *,
        supports: Sequence[str],
        base_lists: Mapping[int, Sequence[str]],
        shots: int,
        seed: int,
        replay: Replay,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self.supports = list(supports)
        self.scarce = scarce(base_lists, shots, self.supports, replay, names=names)
        self._lists, self._shots, self._seed, self._replay = base_lists, shots, seed, replay
        self._epoch, self._drawn = -1, list[str]()

    def __len__(self) -> int:
        return len(self._lists) * self._shots

    def base_of(self, epoch: int) -> list[str]:
        """The base images of an epoch, in order of their classes."""
        if epoch != self._epoch:
            rng = np.random.default_rng(np.random.SeedSequence([self._seed, epoch], spawn_key=(3,)))
            drawn = draw_base(self._lists, self._shots, rng, exclude=self.supports, policy=self._replay)
            self._epoch, self._drawn = epoch, [one for ids in drawn.values() for one in ids]
        return self._drawn

    def pair(self, epoch: int, index: int, rng: np.random.Generator) -> tuple[str, str]:
        """Ids of the support and the base image that item `index` of `epoch` shows."""
        return self.supports[int(rng.integers(len(self.supports)))], self.base_of(epoch)[index]


class PairDataset:
    """Stage 2, exact: a novel and a base image, each freshly scaled, mirrored and cropped."""

    def __init__(self, *, pairing: Pairing, samples: Mapping[str, Sample], augmented: Augmented) -> None:
        self.pairing, self.samples, self.augmented = pairing, samples, augmented

    def __len__(self) -> int:
        return len(self.pairing)

    def item_of(self, epoch: int, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`image` (2, 3, crop, crop) and `labels` (2, crop, crop) uint8: the novel image with all its
        labels, then the base image, whose novel pixels are background."""
        novel_id, base_id = self.pairing.pair(epoch, index, rng)
        parts = [
            self.augmented(self.samples[novel_id], novel=True, rng=rng),
            self.augmented(self.samples[base_id], novel=False, rng=rng),
        ]
        images, labels = (torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True))
        return {"image": images, "labels": labels}


class WholeImages:
    """Features and labels of whole, unchanged images: out of a store, encoded before (`keep`), or now.

    Args:
        samples: by id.
        tables: the fold's classes.
        store: features that the stage `features` has encoded, None to encode.
        encode: a normalised square (1, 3, size, size) -> features (1, C, h, w).
        size: px of the square that `encode` is given; a store has its own.
        mean: of RGB in [0, 1]; std: likewise.
    """

    def __init__(
        self,
        *,
        samples: Mapping[str, Sample],
        tables: FoldTables,
        store: Store | None,
        encode: Callable[[Tensor], Tensor],
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.samples, self.tables, self.store, self.encode = samples, tables, store, encode
        self.mean, self.std = mean, std
        self.size = size if store is None else int(store.attributes["size"])
        self._kept: dict[str, Tensor] = {}

    def keep(self, sample_ids: Iterable[str]) -> list[str]:
        """Encode those images that the store lacks and keep their features; returns their ids.

        A given list may name supports with fewer pixels of their class than the store's images have. Without
        a store nothing is kept. To be called before other processes read from this object.
        """
        if self.store is None:
            return []
        lacking = [
            one for one in dict.fromkeys(sample_ids) if one not in self.store and one not in self._kept
        ]
        for sample_id in lacking:
            self._kept[sample_id] = self._encoded(sample_id).cpu()
        return lacking

    def features(self, sample_id: str) -> Tensor:
        """(C, h, w) float32. Raises ArtifactError for what the store has not, unless it was kept."""
        if sample_id in self._kept:
            return self._kept[sample_id]
        if self.store is not None:
            return torch.from_numpy(self.store.read(sample_id).scores.astype(np.float32))
        return self._encoded(sample_id)

    def _encoded(self, sample_id: str) -> Tensor:
        image = read_image(self.samples[sample_id].image)
        pixels, _ = whole_image(image, self.size, mean=self.mean, std=self.std)
        with torch.no_grad():
            return self.encode(pixels[None])[0].float()

    def labels(self, sample_id: str, *, novel: bool) -> np.ndarray:
        """(size, size) uint8, 255 beyond the image; novel pixels are background unless `novel`."""
        mask = read_mask(mask_of(self.samples[sample_id]))
        return whole_labels(self.tables.labels(mask, novel=novel), self.size)


def view_id(sample_id: str, view: int) -> str:
    """Name of a support image's view, counted from 0, in the store of views."""
    return f"{sample_id}@{view}"


def support_view(
    augmented: Augmented, sample: Sample, *, place: int, view: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A scaled, mirrored and cropped view of a support image: what `augmented` gives.

    It depends on the seed, its number and the image's place among the supports, on nothing else.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, view, place], spawn_key=(4,)))
    return augmented(sample, novel=True, rng=rng)


class SupportViews:
    """Views of every support image, out of the store that the stage `views` has written.

    Raises ArtifactError when a support image has not all its views there, or views have another size than
    `size` px.
    """

    def __init__(self, store: Store, *, supports: Iterable[str], size: int) -> None:
        self.store = store
        self.number = int(store.attributes["views"])
        wanted = [view_id(one, view) for one in dict.fromkeys(supports) for view in range(self.number)]
        lacking = next((one for one in wanted if one not in store), None)
        if lacking is not None or int(store.attributes["size"]) != size:
            sizes = f"views of {store.attributes['size']} px, {size} px are needed"
            found = sizes if lacking is None else f"no view {lacking}"
            raise ArtifactError(f"{store.paths[0]} has {found}: run pop_views again")

    def view(self, sample_id: str, rng: np.random.Generator) -> dict[str, Tensor]:
        """`features` (C, h, w) float32 and `labels` (crop, crop) uint8 of one view, drawn by `rng`."""
        name = view_id(sample_id, int(rng.integers(self.number)))
        return {
            "features": torch.from_numpy(self.store.read(name).scores.astype(np.float32)),
            "labels": torch.from_numpy(self.store.extra(name, "labels")),
        }


class CachedPairDataset:
    """Stage 2, cached: stored features of a whole, unchanged base image, and features of a novel image: a
    view of it, or, without `views`, stored ones too. Views and stored images are squares of one size.
    """

    def __init__(self, *, pairing: Pairing, images: WholeImages, views: SupportViews | None = None) -> None:
        self.pairing, self.images, self.views = pairing, images, views

    def __len__(self) -> int:
        return len(self.pairing)

    def item_of(self, epoch: int, index: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`features` (2, C, h, w) float32 and `labels` (2, size, size) uint8, novel image first."""
        novel_id, base_id = self.pairing.pair(epoch, index, rng)
        novel = self._whole(novel_id, novel=True) if self.views is None else self.views.view(novel_id, rng)
        base = self._whole(base_id, novel=False)
        return {name: torch.stack([novel[name], base[name]]) for name in ("features", "labels")}

    def _whole(self, sample_id: str, *, novel: bool) -> dict[str, Tensor]:
        labels = self.images.labels(sample_id, novel=novel)
        return {"features": self.images.features(sample_id), "labels": torch.from_numpy(labels)}
