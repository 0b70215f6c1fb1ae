"""What the losses compare proposals with: classes of an image, with masks or without (simformer.md 1.4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

IGNORE = 255  # not a base class: novel, void or padding
CELL = 4  # px per cell of the mask logits


@dataclass(frozen=True)
class Targets:
    """Supervision of a batch of crops; pairs of images stand one after the other.

    labels: (B, H, W) uint8, class indices that have a mask, 255 elsewhere. A novel class never stands here.
    novel: (B, K) bool, classes the crop shows without a mask.
    pad: (B, H, W) bool, True beyond the image.
    """

    labels: Tensor
    novel: Tensor
    pad: Tensor

    @cached_property
    def present(self) -> Tensor:
        """(B, K) bool: classes with a mask in the crop."""
        count = self.novel.shape[1]
        flat = self.labels.flatten(1).long().clamp(max=count)
        rows = torch.zeros(len(flat), count + 1, dtype=torch.bool, device=flat.device)
        return rows.scatter_(1, flat, True)[:, :count]

    @cached_property
    def table(self) -> Tensor:
        """(N, 3) int64: image, class, 1 with a mask or 0 without, of every label of the batch.

        Ordered by image; in an image classes with a mask come first, each kind ascending. This is the flat
        list of labels that matches point into.
        """
        masked, bare = self.present.nonzero(), self.novel.nonzero()
        rows = torch.cat(
            [
                torch.cat([masked, torch.ones_like(masked[:, :1])], dim=1),
                torch.cat([bare, torch.zeros_like(bare[:, :1])], dim=1),
            ]
        )
        order = (2 * rows[:, 0] + (1 - rows[:, 2])).argsort(stable=True)
        return rows[order]

    @cached_property
    def masks(self) -> Tensor:
        """(M, H, W) bool: the masks of the labels of `table` that have one, in its order."""
        chosen = self.table[self.table[:, 2] == 1]
        return self.labels[chosen[:, 0]] == chosen[:, 1, None, None]

    @cached_property
    def cells(self) -> Tensor:
        """(M, H / 4, W / 4) bool: `masks` at every 4th row and column, as the matcher sees them.

        A mask that has no pixel there has the cells in which it has any (simformer.md 6.2, item 6).
        """
        coarse = self.masks[:, ::CELL, ::CELL]
        lost = ~coarse.flatten(1).any(dim=1)
        if not lost.any():
            return coarse
        any_pixel = torch.nn.functional.max_pool2d(self.masks[lost].float()[:, None], CELL, CELL)[:, 0] > 0
        coarse = coarse.clone()
        coarse[lost] = any_pixel
        return coarse
