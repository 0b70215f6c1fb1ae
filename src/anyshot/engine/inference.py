"""Inference of any segmenter at several scales, with mirror, on images of any size.

A segmenter here is a callable `(B, 3, h, w) normalised float32 -> (B, C, h', w') logits` at any stride.
Small images go through whole; larger ones in overlapping tiles, whose logits are blended with weights
that taper linearly towards each inner edge and sum to one at every pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anyshot.data.transforms import resize_image
from anyshot.ops.argmax import argmax

Resize = Literal["bilinear", "bicubic"]
Segmenter = Callable[[Tensor], Tensor]

OVERLAP = 0.25
"""Share of a tile's side that it has in common with the next tile."""


@dataclass(frozen=True)
class _Passes:
    """What happens to one image, or one tile of it."""

    scales: tuple[float, ...]
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    size_divisor: int
    resize: Resize

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales are {self.scales}; at least one is needed, each above 0")
        if self.size_divisor < 1:
            raise ValueError(f"size_divisor is {self.size_divisor} px; it must be 1 or more")
        if self.resize not in get_args(Resize):
            raise ValueError(f"resize is {self.resize!r}; allowed: {', '.join(get_args(Resize))}")


def multi_scale_logits(
    model: Segmenter,
    image: np.ndarray,
    *,
    scales: Sequence[float],
    flip: bool,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    size_divisor: int = 1,
    resize: Resize = "bilinear",
    tile: int | None = None,
) -> Tensor:
    """Mean logits of `image` (H, W, 3) uint8 RGB over all scales and the mirror: (C, H, W) float32.

    Per scale s the image is resized (Pillow, uint8) to Python-rounded (H*s, W*s) px, normalised
    ((x / 255 - mean) / std), padded with zeros at the right and bottom to multiples of `size_divisor` px,
    and mirrored in the same batch. Logits are brought to (H, W) bilinearly (align_corners False).
    With `tile` (px of the image; it is the side of a square) an image larger than that goes through in
    overlapping tiles. The result is on `device`, or on the CPU when the image was tiled.
    Raises ValueError for impossible arguments or a model whose output is not (B, C, h', w').
    """
    passes = _Passes(tuple(scales), flip, tuple(mean), tuple(std), torch.device(device), size_divisor, resize)
    height, width = _check_image(image)
    if tile is None or max(height, width) <= tile:
        return _logits(model, [image], passes)[0]
    total: Tensor | None = None
    for row in tile_spans(height, tile):
        for column in tile_spans(width, tile):
            part = _weighted_tile(model, image, row, column, passes)
            if total is None:
                total = torch.zeros(part.shape[0], height, width)
            total[:, row.start : row.stop, column.start : column.stop] += part
    assert total is not None  # an image has at least one pixel, so at least one tile
    return total


def multi_scale_logits_batch(
    model: Segmenter,
    images: Sequence[np.ndarray],
    *,
    scales: Sequence[float],
    flip: bool,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    size_divisor: int = 1,
    resize: Resize = "bilinear",
) -> Tensor:
    """`multi_scale_logits` of N images (H, W, 3) of one size in one go: (N, C, H, W) float32 on `device`.

    Raises ValueError when the sizes differ.
    """
    passes = _Passes(tuple(scales), flip, tuple(mean), tuple(std), torch.device(device), size_divisor, resize)
    sizes = {_check_image(image) for image in images}
    if len(sizes) != 1:
        raise ValueError(f"a batch needs images of one size; these have {sorted(sizes)}")
    return _logits(model, images, passes)


def segment_tiled(
    model: Segmenter,
    image: np.ndarray,
    *,
    scales: Sequence[float],
    flip: bool,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    size_divisor: int = 1,
    resize: Resize = "bilinear",
    tile: int,
) -> np.ndarray:
    """Class index of every pixel of an image of any size: (H, W), uint8 below 256 classes, else uint16.

    The same as the argmax of `multi_scale_logits(..., tile=tile)`, but rows and columns that no later tile
    touches are decided at once: beside the tile, only the overlap of two rows of tiles
    (C, overlap, W) is held, never (C, H, W).
    """
    passes = _Passes(tuple(scales), flip, tuple(mean), tuple(std), torch.device(device), size_divisor, resize)
    height, width = _check_image(image)
    rows, columns = tile_spans(height, tile), tile_spans(width, tile)
    result = np.zeros((height, width), np.uint16)
    below: Tensor | None = None  # (C, overlap rows, W): what the tiles above gave to the rows of this one
    classes = 0
    for row in rows:
        carried, below = below, None
        beside: Tensor | None = None  # (C, tile rows, overlap columns)
        for column in columns:
            part = _weighted_tile(model, image, row, column, passes)
            classes = part.shape[0]
            if beside is not None:
                part[:, :, : beside.shape[2]] += beside
            done = slice(0, column.settled - column.start)
            ready = part[:, :, done]
            if carried is not None:
                ready[:, : carried.shape[1]] += carried[:, :, column.start : column.settled]
            settled = row.settled - row.start
            best = argmax(ready[:, :settled], dim=0)
            result[row.start : row.settled, column.start : column.settled] = best.numpy()
            if settled < part.shape[1]:
                if below is None:
                    below = torch.zeros(classes, part.shape[1] - settled, width)
                below[:, :, column.start : column.settled] = ready[:, settled:]
            beside = part[:, :, done.stop :]
    return result.astype(np.uint8) if classes <= 256 else result


@dataclass(frozen=True)
class TileSpan:
    """One tile along one axis: pixels `start` to `stop`; those before `settled` get no later tile's share."""

    start: int
    stop: int
    settled: int
    weights: np.ndarray
    """(stop - start,) float32 share of this tile in each pixel; the shares of all tiles sum to 1."""


def tile_spans(length: int, tile: int) -> list[TileSpan]:
    """Tiles of at most `tile` px that cover `length` px evenly, neighbours sharing a quarter or more.

    Starts are multiples of gcd(tile // 4, 32) px, so (for a tile of 128, 256, ... px) the cells of a network
    with stride 8, 16 or 32 lie where they lie in the whole image.
    """
    if tile < 4:
        raise ValueError(f"tile is {tile} px; it must be 4 or more")
    unit = math.gcd(int(tile * OVERLAP), 32)
    longest_step = (tile - int(tile * OVERLAP)) // unit
    last = max(0, math.ceil((length - tile) / unit))
    steps = math.ceil(last / longest_step)
    starts = [unit * (number * last // steps) for number in range(steps + 1)] if steps else [0]
    stops = [min(start + tile, length) for start in starts]
    shares = []
    total = np.zeros(length)
    for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        before = stops[number - 1] - start if number else 0
        after = stop - starts[number + 1] if number + 1 < len(starts) else 0
        shares.append(_taper(stop - start, before=before, after=after))
        total[start:stop] += shares[-1]
    return [
        TileSpan(start, stop, settled, (share / total[start:stop]).astype(np.float32))
        for start, stop, settled, share in zip(starts, stops, [*starts[1:], length], shares, strict=True)
    ]


def _taper(length: int, *, before: int, after: int) -> np.ndarray:
    """(length,) ones that fall linearly to almost zero over `before` px at the start, `after` at the end."""
    rise = (np.arange(length) + 0.5) / max(before, 0.5)
    fall = (np.arange(length)[::-1] + 0.5) / max(after, 0.5)
    return np.minimum(np.minimum(rise, fall), 1.0)


def _check_image(image: np.ndarray) -> tuple[int, int]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image is uint8 (H, W, 3) RGB; this one is {image.dtype} {image.shape}")
    return image.shape[0], image.shape[1]


def _weighted_tile(
    model: Segmenter, image: np.ndarray, row: TileSpan, column: TileSpan, passes: _Passes
) -> Tensor:
    """(C, tile rows, tile columns) float32 on the CPU: the tile's logits times its share of each pixel."""
    crop = image[row.start : row.stop, column.start : column.stop]
    logits = _logits(model, [crop], passes)[0].cpu()
    weights = torch.from_numpy(row.weights)[:, None] * torch.from_numpy(column.weights)
    return logits * weights


@torch.no_grad()
def _logits(model: Segmenter, images: Sequence[np.ndarray], passes: _Passes) -> Tensor:
    """(N, C, H, W) float32 on the device: the mean of all passes over N images, or tiles, of one size."""
    height, width = images[0].shape[:2]
    total: Tensor | None = None
    for batch, size in _inputs(images, passes):
        padded = (batch.shape[2], batch.shape[3])
        logits = model(batch)
        if logits.ndim != 4 or logits.shape[0] != batch.shape[0]:
            raise ValueError(
                f"the model made {tuple(logits.shape)} of {tuple(batch.shape)}; (B, C, h', w') is needed"
            )
        if passes.flip and padded == size:
            # Without padding, mirroring back at the network's stride is the same and half the upsampling.
            logits = _mean_with_mirror(logits.float())
        upsampled = upsample_logits(logits.float(), size=size, padded=padded, target=(height, width))
        if passes.flip and padded != size:
            upsampled = _mean_with_mirror(upsampled)
        total = upsampled if total is None else total + upsampled
    assert total is not None  # _Passes holds at least one scale
    return total / len(passes.scales)


def _inputs(images: Sequence[np.ndarray], passes: _Passes) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Per scale: (N, 3, h, w) normalised, padded, the N mirrored ones after them; and (h, w) unpadded, px."""
    height, width = images[0].shape[:2]
    mean = torch.tensor(passes.mean, device=passes.device).view(3, 1, 1)
    std = torch.tensor(passes.std, device=passes.device).view(3, 1, 1)
    for scale in passes.scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = np.stack(
            [resize_image(image, *size, bicubic=passes.resize == "bicubic") for image in images]
        )
        values = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).to(passes.device)
        batch = (values.float() / 255 - mean) / std
        if passes.flip:
            batch = torch.cat([batch, batch.flip(3)])
        divisor = passes.size_divisor
        yield F.pad(batch, (0, -size[1] % divisor, 0, -size[0] % divisor)), size


def _mean_with_mirror(logits: Tensor) -> Tensor:
    """(2 N, C, h, w), the second half from the mirrored images -> (N, C, h, w)."""
    plain, mirrored = logits.chunk(2)
    return (plain + mirrored.flip(3)) / 2


def upsample_logits(
    logits: Tensor, *, size: tuple[int, int], padded: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """(B, C, h', w') of an input of `padded` px, `size` px of it image -> (B, C, *target) of the image alone.

    Cells that lie wholly in the padding are cut off before; the rest keeps its place to the fraction of a
    pixel, because the scale factor is that of the padded input.
    """
    if padded == size:
        return F.interpolate(logits, size=target, mode="bilinear", align_corners=False)
    cells, factors = [], []
    for axis in range(2):
        cell = padded[axis] / logits.shape[2 + axis]  # px of the resized image
        cells.append(max(1, math.ceil(size[axis] / cell - 1e-6)))
        # A hair more than the ratio, as torch rounds the output size down.
        factors.append(cell * target[axis] / size[axis] * (1 + 1e-7))
    logits = logits[:, :, : cells[0], : cells[1]]
    upsampled = F.interpolate(logits, scale_factor=tuple(factors), mode="bilinear", align_corners=False)
    return upsampled[:, :, : target[0], : target[1]]
