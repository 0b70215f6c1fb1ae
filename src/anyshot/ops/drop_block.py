"""Pooled vectors of randomly thinned class regions, for metric learning (raml.md 2.4; 5 item 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def keep_masks(
    *,
    draws: int,
    images: int,
    height: int,
    width: int,
    block: int = 3,
    probability: float = 0.3,
    generator: torch.Generator,
) -> Tensor:
    """DropBlock keep-masks bool (draws, images, height, width), on the generator's device.

    Seeds are drawn with probability / block^2 per cell; the block around every seed is dropped. An inner cell
    survives with (1 - probability / block^2)^(block^2): 0.737 with the published values.
    """
    shape = (draws, images, height, width)
    noise = torch.rand(shape, generator=generator, device=generator.device)
    return keep_from_seeds(noise < probability / block**2, block)


def keep_from_seeds(seeds: Tensor, block: int) -> Tensor:
    """Cells (..., h, w) that no block x block square around a seed covers, bool; seeds bool (..., h, w).

    There is no seed beyond the border. Raises ValueError for an even block, which has no centre.
    """
    if block < 1 or block % 2 == 0:
        raise ValueError(f"the block has {block} cells a side; give an odd number")
    planes = seeds.reshape(1, -1, *seeds.shape[-2:]).float()
    dropped = F.max_pool2d(planes, kernel_size=block, stride=1, padding=block // 2)
    return (dropped == 0).reshape(seeds.shape)


def pool_by_class(
    features: Tensor, labels: Tensor, keep: Tensor, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean feature of every (draw, class, image) over the kept cells of the class: vectors float32 (N, C),
    their classes int64 (N,) and images int64 (N,), rows in the order draw, class, image.

    features (B, C, h, w); labels (B, h, w), 0..classes-1, all else (255) ignored; keep bool (R, B, h, w).
    Combinations without a cell have no row. The rescaling factor of DropBlock cancels in a mean, so a class
    of a draw is one row of a 0-1 matrix and all means are one product per image.
    """
    draws, images = keep.shape[:2]
    numbers = torch.arange(classes, device=labels.device, dtype=labels.dtype)[:, None, None]
    of_class = labels[:, None] == numbers
    members = (keep.transpose(0, 1)[:, :, None] & of_class[:, None]).flatten(3).flatten(1, 2).float()
    with torch.autocast(features.device.type, enabled=False):
        sums = torch.bmm(members, features.flatten(2).float().transpose(1, 2))
    cells = members.sum(dim=2)
    sums = sums.reshape(images, draws, classes, -1).permute(1, 2, 0, 3)
    cells = cells.reshape(images, draws, classes).permute(1, 2, 0)
    draw, of, image = torch.nonzero(cells, as_tuple=True)
    return sums[draw, of, image] / cells[draw, of, image][:, None], of, image
