"""Cross entropy and argmax of upsampled logits, in tiles of rows: the upsampled map is never held.

Bilinear upsampling is two products with small matrices, one per axis, whose entries are torch's own weights.
Each tile of rows of the image is upsampled, used and dropped; for the loss its share of the gradient is taken
at once. 81 classes at 473 x 473 px need 72 MiB per map otherwise, several times over (pop.md 5.3 item 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.ops.argmax import argmax
from anyshot.ops.precision import full, without_autocast

# upsampled logits in a tile: a few MiB stay in a CPU's cache, GPUs want long rows of work
CPU_TILE, GPU_TILE = 2**19, 2**26


def upsampled_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    align_corners: bool,
    ignore: int = 255,
    all_reduce_sum: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean cross entropy of logits that are bilinearly resized to the labels, over all pixels not `ignore`.

    logits (B, C, h, w) at any stride; labels (B, H, W) class indices, any integer type. The same as
    `pixel_cross_entropy(F.interpolate(logits, (H, W), mode="bilinear", align_corners=...), labels)`, in
    float32 or, where the logits are float64, in float64. 0 when every pixel is ignored (and gradients are 0,
    not NaN). `all_reduce_sum` adds sums and counts over several devices. Second derivatives do not exist.
    """
    total = _TiledCrossEntropy.apply(logits, labels, ignore, align_corners)
    sums = torch.stack([total, (labels != ignore).sum().to(total.dtype)])
    if all_reduce_sum is not None:
        sums = all_reduce_sum(sums)
    return sums[0] / sums[1].clamp(min=1)


def upsampled_argmax(logits: Tensor, height: int, width: int, *, align_corners: bool) -> Tensor:
    """Index of the largest of logits (B, C, h, w), bilinearly resized to (height, width) px: int64 (B,
    height, width)."""
    best = torch.empty(len(logits), height, width, dtype=torch.int64, device=logits.device)
    for image, found in zip(logits, best, strict=True):
        for rows, part in upsampled_rows(image, height, width, align_corners=align_corners):
            found[rows] = argmax(part, dim=1)
    return best


def upsampled_rows(
    logits: Tensor, height: int, width: int, *, align_corners: bool, corner: tuple[int, int] | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Logits (C, h, w) of one image, bilinearly resized to (height, width) px, in tiles of rows.

    Yields which rows and (rows, C, columns), rows outermost, without gradient, at least float32. `corner`:
    only so many rows and columns, at the top left; the others are never computed.
    """
    with without_autocast(logits):
        maps = full(logits.detach())
        rows, columns = (
            resize_weights(cells, size, align_corners=align_corners, like=maps)[:kept]
            for cells, size, kept in zip(
                maps.shape[1:], (height, width), corner or (height, width), strict=True
            )
        )
        wide = _widened(maps, columns)
    for pixels, cells, weights in _tiles(rows, len(maps) * len(columns), maps.device):
        with without_autocast(logits):
            part = (weights @ wide[cells]).unflatten(1, (-1, len(columns)))
        yield pixels, part


def resize_weights(cells: int, size: int, *, align_corners: bool, like: Tensor) -> Tensor:
    """The matrix (size, cells) of torch's linear resize of one axis, in the type of `like`, on the CPU."""
    unit = torch.eye(cells, dtype=like.dtype)[None]
    return F.interpolate(unit, size=size, mode="linear", align_corners=align_corners)[0].T.contiguous()


def _widened(image: Tensor, columns: Tensor) -> Tensor:
    """(C, h, w) resized along the width with (W, w) -> (h, C * W), rows outermost."""
    return (image.permute(1, 0, 2) @ columns.to(image.device).T).flatten(1)


def _tiles(rows: Tensor, row_size: int, device: torch.device) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of image rows: which, the rows of cells that they are made of, and the weights between them.

    `row_size` is the number of upsampled logits in one row of the image.
    """
    budget = CPU_TILE if device.type == "cpu" else GPU_TILE
    step = max(1, budget // row_size)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        used = part.any(dim=0).nonzero()
        cells = slice(int(used[0]), int(used[-1]) + 1)
        weights = part[:, cells].to(device)
        yield slice(start, start + len(part)), cells, weights


class _TiledCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropy; the gradient is computed along with it, tile by tile."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, ignore: int, align_corners: bool) -> Tensor:
        with without_autocast(logits):
            maps = full(logits)
            rows, columns = (
                resize_weights(cells, size, align_corners=align_corners, like=maps)
                for cells, size in zip(maps.shape[2:], labels.shape[1:], strict=True)
            )
            slopes = torch.zeros_like(maps) if ctx.needs_input_grad[0] else None
            total = maps.new_zeros(())
            for number, image in enumerate(maps):
                down, right = _known(labels[number] != ignore)
                cost, slope = _image_cost(
                    image,
                    labels[number, :down, :right],
                    rows[:down],
                    columns[:right],
                    ignore,
                    slopes is not None,
                )
                total += cost
                if slopes is not None and slope is not None:
                    slopes[number] = slope
        if slopes is not None:
            ctx.save_for_backward(slopes)
            ctx.dtype = logits.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (slopes * grads[0]).to(ctx.dtype), None, None, None


def _known(known: Tensor) -> tuple[int, int]:
    """The size (rows, columns) of the top left part that holds all known pixels: padding is not computed.

    On GPUs all: to look would wait for them.
    """
    if known.device.type != "cpu":
        return known.shape[0], known.shape[1]
    sizes = []
    for axis in (1, 0):
        found = known.any(dim=axis).nonzero()
        sizes.append(int(found[-1]) + 1 if len(found) else 1)
    return sizes[0], sizes[1]


def _image_cost(
    image: Tensor, labels: Tensor, rows: Tensor, columns: Tensor, ignore: int, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """Summed cost of one image's logits (C, h, w), and its gradient (C, h, w) if `wanted`."""
    classes, width = len(image), len(columns)
    wide = _widened(image, columns)
    wide_slope = torch.zeros_like(wide) if wanted else None
    total = image.new_zeros(())
    for pixels, cells, part in _tiles(rows, classes * width, image.device):
        chances = (part @ wide[cells]).unflatten(1, (classes, width)).log_softmax(dim=1)
        truth = labels[pixels].long()
        total += F.nll_loss(chances, truth, ignore_index=ignore, reduction="sum")
        if wide_slope is not None:
            known = truth != ignore
            slope = chances.exp_()  # softmax - 1 at the truth, 0 at ignored pixels
            index = torch.where(known, truth, 0)[:, None]
            slope.scatter_add_(1, index, slope.new_full((), -1.0).expand(index.shape))
            slope *= known[:, None]
            wide_slope[cells] += part.T @ slope.flatten(1)
    if wide_slope is None:
        return total, None
    narrow = wide_slope.unflatten(1, (classes, width)) @ columns.to(image.device)
    return total, narrow.permute(1, 0, 2)
