"""Pixels as weighted sums of tokens: bilinear upsampling, overlapping windows, a second resize: all linear.

Scores of 21,841 classes cannot be held for every pixel, but every pixel of an upsampled map, of the mean over
overlapping windows of such maps, and of that mean resized once more is a weighted sum of a few tokens
(larvseg.md 5.2 items 5 and 8). A `PixelMap` says which and with what weights, for as many rows of the image
as are asked for. The sums can be taken of features or of logits; the result is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Taps(NamedTuple):
    """Of which tokens P pixels are made: pixel p is the sum over m of weights[p, m] * token tokens[p, m]."""

    tokens: Tensor
    """(P, m) int64, rows of the table of tokens."""
    weights: Tensor
    """(P, m) float32, not negative, sum 1."""

    def of(self, table: Tensor) -> Tensor:
        """The weighted sums (P, C) of the rows of `table` (T, C), float32."""
        return F.embedding_bag(self.tokens, table, mode="sum", per_sample_weights=self.weights)

    def part(self, chosen: slice | Tensor) -> Taps:
        """The taps of some of the pixels."""
        return Taps(self.tokens[chosen], self.weights[chosen])


class PixelMap(Protocol):
    """How the pixels of an image of `height` x `width` px are made of tokens.

    taps: the most tokens that a pixel is made of; token_count: rows of the table of tokens.
    """

    height: int
    width: int
    taps: int
    token_count: int

    def rows(self, start: int, stop: int, device: torch.device) -> Taps:
        """The taps of the pixels in rows `start` to `stop`, row by row: P = (stop - start) * width."""
        ...

    def row_bytes(self, rows: int) -> int:
        """The most bytes that `rows` holds at once for so many rows, the result among them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Window:
    """A map of tokens and where it lies in the image.

    cells: (h, w) of the map; size: (H, W) px that the whole map stands for, padding among them; top, left:
    where its corner lies, px; kept: (rows, columns) px of it that are image, from its corner (None = all): a
    map of a padded crop is upsampled to the padded size and then cut (larvseg.md 6 item 16).
    """

    cells: tuple[int, int]
    size: tuple[int, int]
    top: int = 0
    left: int = 0
    kept: tuple[int, int] | None = None

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns of the image that the window covers, px."""
        return self.size if self.kept is None else self.kept


class WindowMap:
    """The mean of overlapping windows, each upsampled bilinearly (align_corners False) (larvseg.md 2.9).

    The tokens are numbered window by window, row-major within each: `token_table` makes the table. Raises
    ValueError when a window leaves the image or a pixel lies in no window.
    """

    def __init__(self, windows: Sequence[Window], *, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.windows = list(windows)
        self._overlap = _overlap(self.windows, height, width)
        self.taps = 4 * self._overlap
        counts = [window.cells[0] * window.cells[1] for window in self.windows]
        self._begins = [sum(counts[:number]) for number in range(len(counts))]
        self.token_count = sum(counts)

    def rows(self, start: int, stop: int, device: torch.device) -> Taps:
        shape = (stop - start, self.width, self._overlap)
        tokens = torch.zeros(*shape, 4, dtype=torch.int64, device=device)
        weights = torch.zeros(*shape, 4, device=device)
        filled = torch.zeros(shape[:2], dtype=torch.int64, device=device)
        for begin, window in zip(self._begins, self.windows, strict=True):
            first, last = max(start, window.top), min(stop, window.top + window.extent[0])
            if first >= last:
                continue
            found, shares = _window_taps(window, first - window.top, last - window.top, device)
            here = (slice(first - start, last - start), slice(window.left, window.left + window.extent[1]))
            if self._overlap == 1:
                tokens[here][:, :, 0], weights[here][:, :, 0] = found + begin, shares
                continue
            slot = filled[here][..., None, None].expand(-1, -1, 1, 4)
            tokens[here].scatter_(2, slot, (found + begin)[:, :, None])
            weights[here].scatter_(2, slot, shares[:, :, None])
            filled[here] += 1
        if self._overlap > 1:
            weights /= filled[..., None, None]
        return Taps(tokens.view(-1, self.taps), weights.view(-1, self.taps))

    def row_bytes(self, rows: int) -> int:
        return rows * self.width * (12 * self.taps + 8 + 4 * 40)


class ResizedMap:
    """`source` resized bilinearly (align_corners False) to height x width px: the post-processing
    `logit_bilinear` (larvseg.md 2.9) of logits that are never held."""

    def __init__(self, source: PixelMap, *, height: int, width: int) -> None:
        self.source, self.height, self.width = source, height, width
        self.taps, self.token_count = 4 * source.taps, source.token_count

    def rows(self, start: int, stop: int, device: torch.device) -> Taps:
        source = self.source
        low, high, share = axis_taps(source.height, self.height, start, stop, device)
        left, right, across = axis_taps(source.width, self.width, 0, self.width, device)
        first, last = int(low[0]), int(high[-1]) + 1
        parts = source.rows(first, last, device)
        tokens = parts.tokens.view(-1, source.width, source.taps)
        weights = parts.weights.view(-1, source.width, source.taps)
        shape = (stop - start, self.width, 4, source.taps)
        taken = torch.empty(shape, dtype=torch.int64, device=device)
        given = torch.empty(shape, device=device)
        for number, (row, column, part) in enumerate(_corners(low - first, high - first, share,
                                                              left, right, across)):  # fmt: skip
            taken[:, :, number] = tokens[row[:, None], column]
            torch.mul(weights[row[:, None], column], part[..., None], out=given[:, :, number])
        return Taps(taken.view(-1, self.taps), given.view(-1, self.taps))

    def row_bytes(self, rows: int) -> int:
        source = self.source
        needed = min(source.height, math.ceil(rows * source.height / self.height) + 2)
        own = rows * self.width * (12 * self.taps + 16 * source.taps + 16)
        return source.row_bytes(needed) + own + 64 * (rows + self.width)


def image_map(
    cells: tuple[int, int], *, height: int, width: int, padded: tuple[int, int] | None = None
) -> WindowMap:
    """The map of an image of height x width px that went through the network whole.

    cells: (h, w) of the tokens; padded: (H, W) px of the network's input, when it was padded at the right and
    bottom: the tokens are upsampled to that and cut.
    """
    window = Window(cells=cells, size=padded or (height, width), kept=(height, width))
    return WindowMap([window], height=height, width=width)


def token_table(maps: Sequence[Tensor]) -> Tensor:
    """The tokens (T, D) float32 of the maps (D, h, w) of all windows, in the order of `WindowMap`."""
    return torch.cat([one.detach().float().flatten(1).T for one in maps]).contiguous()


def slide(length: int, *, side: int, stride: int) -> list[tuple[int, int]]:
    """Start and stop, px, of the windows along one axis of `length` px (larvseg.md 2.9).

    max(ceil((length - side) / stride), 0) + 1 windows; the last one is shifted back inside, and where the
    image is shorter than a window, the window is the image. Raises ValueError unless 0 < stride <= side.
    """
    if not 0 < stride <= side:
        raise ValueError(f"stride {stride} px, side {side} px: 0 < stride <= side is needed")
    count = max(math.ceil((length - side) / stride), 0) + 1
    stops = [min(number * stride + side, length) for number in range(count)]
    return [(max(0, stop - side), stop) for stop in stops]


def axis_taps(
    cells: int, size: int, start: int, stop: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Lower cell, upper cell (int64) and the upper one's share (float32) of the samples start..stop of an
    axis of `cells` that is resized to `size`: sample i lies at (i + 1/2) cells / size - 1/2, cut to the
    axis."""
    samples = torch.arange(start, stop, dtype=torch.float64, device=device)
    places = ((samples + 0.5) * (cells / size) - 0.5).clamp(min=0)
    low = places.floor().long().clamp(max=cells - 1)
    high = (low + 1).clamp(max=cells - 1)
    return low, high, (places - low).clamp(0, 1).float()


def _window_taps(window: Window, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and weights (rows, columns, 4) of the rows start..stop of a window."""
    low, high, share = axis_taps(window.cells[0], window.size[0], start, stop, device)
    left, right, across = axis_taps(window.cells[1], window.size[1], 0, window.extent[1], device)
    corners = list(_corners(low, high, share, left, right, across))
    tokens = torch.stack([row[:, None] * window.cells[1] + column for row, column, _ in corners], dim=2)
    return tokens, torch.stack([part for _, _, part in corners], dim=2)


def _corners(
    low: Tensor, high: Tensor, share: Tensor, left: Tensor, right: Tensor, across: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The four neighbours of every sample: rows (r,), columns (c,), weights (r, c)."""
    for row, down in ((low, 1 - share), (high, share)):
        for column, along in ((left, 1 - across), (right, across)):
            yield row, column, down[:, None] * along


def _overlap(windows: Sequence[Window], height: int, width: int) -> int:
    """The most windows that a pixel lies in. Raises ValueError when it is none, or a window is outside."""
    for window in windows:
        rows, columns = window.extent
        bottom, right = window.top + rows, window.left + columns
        inside = window.top >= 0 and window.left >= 0 and bottom <= height and right <= width
        if not inside or rows > window.size[0] or columns > window.size[1] or min(window.cells) < 1:
            raise ValueError(f"{window} does not fit an image of {height} x {width} px")
    # windows begin and end at a few rows and columns: between those the count is constant
    tops = np.unique([0, height, *(e for w in windows for e in (w.top, w.top + w.extent[0]))])
    lefts = np.unique([0, width, *(e for w in windows for e in (w.left, w.left + w.extent[1]))])
    count = np.zeros((len(tops) - 1, len(lefts) - 1), dtype=np.int64)
    for window in windows:
        rows_of = slice(*np.searchsorted(tops, (window.top, window.top + window.extent[0])))
        columns_of = slice(*np.searchsorted(lefts, (window.left, window.left + window.extent[1])))
        count[rows_of, columns_of] += 1
    if count.size == 0 or count.min() == 0:
        raise ValueError(f"{len(windows)} windows leave pixels of the {height} x {width} px uncovered")
    return int(count.max())
