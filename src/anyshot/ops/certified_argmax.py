"""The best class of every pixel from the best few of its tokens, where that is provably enough.

A class that is not among the best k of any of the four tokens around a pixel scores at most their k-th
scores, mixed with the pixel's weights. Where the best of the others lies above, it is the answer; the
remaining pixels are computed in full (larvseg.md 5.2 item 6). The labels are always those of `class_argmax`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anyshot.ops.class_argmax import MIB, Best, Search, bands, class_argmax
from anyshot.ops.pixel_taps import PixelMap, Taps, Window, WindowMap
from anyshot.ops.precision import without_autocast

ROUNDING = 2.0**-24


@dataclass(frozen=True)
class CertifiedLabels:
    """labels: (H, W) int32; certified: share of the pixels that the shortcut decided, None when it was not
    tried because it would not have paid."""

    labels: Tensor
    certified: float | None


def shortcut_pays(*, pixels: int, tokens: int, classes: int, channels: int, k: int) -> bool:
    """Whether the shortcut can save more than it costs.

    It costs one more product of tokens and classes, `channels` multiplications each, and the evaluation of
    4 k classes per pixel; at best it saves the upsampling of all logits, which takes about as long per pixel
    and class as 16 multiplications of that product (benchmarks/larvseg.py).
    """
    return 8 * pixels >= tokens * channels and classes >= 16 * k


@torch.no_grad()
def certified_argmax(
    tokens: Tensor,
    pixels: PixelMap,
    classes: Tensor,
    *,
    memory_mib: float,
    gamma: float = 1.0,
    k: int = 16,
    always: bool = False,
) -> CertifiedLabels:
    """The class with the highest logit at every pixel of an image that went through the network whole.

    Arguments as in `class_argmax`. k: classes kept per token; always: try it even where it does not pay.
    Images of several windows or of a second resize are left to `class_argmax`. Raises ValueError like it.
    """
    worth = always or shortcut_pays(
        pixels=pixels.height * pixels.width, tokens=len(tokens), classes=len(classes),
        channels=tokens.shape[1], k=k,
    )  # fmt: skip
    if not isinstance(pixels, WindowMap) or len(pixels.windows) != 1 or not worth or k > len(classes):
        labels = class_argmax(tokens, pixels, classes, memory_mib=memory_mib, gamma=gamma)
        return CertifiedLabels(labels, None)
    with without_autocast(tokens):
        tokens = tokens.float() * gamma if gamma != 1 else tokens.float()
        return _labels(tokens, pixels, classes.float(), int(memory_mib * MIB), k)


def _labels(tokens: Tensor, pixels: WindowMap, classes: Tensor, memory: int, k: int) -> CertifiedLabels:
    device = tokens.device
    every = torch.arange(len(tokens), device=device)[:, None]
    best = Search(tokens, classes, k=k, memory=memory).best(Taps(every, torch.ones_like(every).float()))
    shortcut = _Shortcut(tokens, classes, best, pixels.windows[0], memory)
    labels = torch.empty(pixels.height, pixels.width, dtype=torch.int32, device=device)
    certified = 0
    for start, stop in bands(pixels, shortcut.fits):
        found, sure = shortcut.best(pixels.rows(start, stop, device))
        labels[start:stop] = found.view(-1, pixels.width).int()
        certified += sure
    return CertifiedLabels(labels, certified / labels.numel())


class _Shortcut:
    """Decides pixels by the best k classes of their tokens, others in full, within `memory` bytes."""

    def __init__(self, tokens: Tensor, classes: Tensor, best: Best, window: Window, memory: int) -> None:
        self.tokens, self.classes, self.best_classes = tokens, classes, best.classes
        self.window = window
        held = best.classes.nbytes + best.scores.nbytes + 8 * len(tokens)
        self.memory = memory - held
        self.search = Search(tokens, classes, k=1, memory=self.memory)
        # what a token's other classes score at most, and how far rounding may move both sides
        reach = torch.linalg.vector_norm(classes, dim=1).max()
        slack = 2 * (tokens.shape[1] + 8) * ROUNDING * reach
        self.limits = best.scores[:, -1:] + slack * torch.linalg.vector_norm(tokens, dim=1, keepdim=True)

    @property
    def _candidates(self) -> int:
        return 4 * self.best_classes.shape[1]

    def fits(self, pixels: PixelMap, rows: int) -> bool:
        down, across = self.window.cells
        cells = across * min(down, rows * down // self.window.size[0] + 2)
        table = cells * (16 * self._candidates + 24 * self._candidates + 96)
        return table + self._band_bytes(rows * pixels.width) <= self.memory // 4 and self.search.fits(
            pixels, rows
        )

    def _band_bytes(self, count: int) -> int:
        return count * (4 * 12 * 2 + 64)

    def best(self, taps: Taps) -> tuple[Tensor, int]:
        """The best class (P,) int64 of P pixels and how many of them were certified."""
        cell_of, corners = self._cells(taps)
        among, scores = self._cell_scores(corners)
        by_cell = Taps(cell_of[:, None] * 4 + torch.arange(4, device=cell_of.device), taps.weights)
        table = scores.flatten(0, 1)
        classes = torch.empty_like(cell_of)
        highest = torch.empty_like(taps.weights[:, 0])
        step = max(1, self.memory // 8 // (8 * self._candidates))
        for start in range(0, len(cell_of), step):
            here = slice(start, start + step)
            value, place = by_cell.part(here).of(table).max(dim=1)
            highest[here], classes[here] = value, among[cell_of[here], place]
        del by_cell, table, scores, among
        unsure = (highest <= taps.of(self.limits)[:, 0]).nonzero()[:, 0]
        if len(unsure):
            full = self.search.best(taps.part(unsure), held=self._band_bytes(len(classes)))
            classes[unsure] = full.classes[:, 0]
        return classes, len(classes) - len(unsure)

    def _cells(self, taps: Taps) -> tuple[Tensor, Tensor]:
        """The cell (P,) of every pixel, and the four tokens (G, 4) around each of the G cells.

        The upper left token names the cell, since every pixel's other three follow from it.
        """
        number = torch.zeros(len(self.tokens), dtype=torch.int64, device=taps.tokens.device)
        number[taps.tokens[:, 0]] = 1
        count = int(number.sum())
        cell_of = (number.cumsum(0) - 1)[taps.tokens[:, 0]]
        corners = torch.empty((count, 4), dtype=torch.int64, device=taps.tokens.device)
        corners[cell_of] = taps.tokens
        return cell_of, corners

    def _cell_scores(self, corners: Tensor) -> tuple[Tensor, Tensor]:
        """The classes (G, 4 k) among the best of a cell's tokens, ascending, and their scores (G, 4, 4 k)."""
        among = self.best_classes[corners].flatten(1).sort(dim=1).values
        scores = torch.empty(len(corners), 4, self._candidates, device=corners.device)
        each = 4 * (self._candidates + 4) * self.tokens.shape[1] + 16 * self._candidates
        step = max(1, self.memory // 4 // each)
        for start in range(0, len(corners), step):
            here = slice(start, start + step)
            vectors = self.classes[among[here]].transpose(1, 2)
            torch.bmm(self.tokens[corners[here]], vectors, out=scores[here])
            del vectors
        return among, scores
