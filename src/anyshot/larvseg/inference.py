"""From images to classes: windows, tokens over sigma, the best of all classes (larvseg.md 2.9, 5.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.data.transforms import normalise, resize_image
from anyshot.errors import ConfigError
from anyshot.larvseg.attention_loss import LAYER_NORM_EPS
from anyshot.larvseg.bank import CompactBank, Mining, attention_direction, mined_background
from anyshot.larvseg.datasets import fitted_size
from anyshot.larvseg.head import ActiveClasses, CosineHead, class_moments, cosine_deviations
from anyshot.larvseg.networks import LarvSegNet
from anyshot.larvseg.options import View
from anyshot.ops.certified_argmax import certified_argmax
from anyshot.ops.pixel_taps import Window, WindowMap, slide, token_table
from anyshot.ops.postprocess import Postprocess, label_nearest, map_to_decide
from anyshot.ops.precision import full


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An image as the network saw it.

    maps: features (D, h, w) of every window, at least float32. pixels: how the pixels of the resized image
    are made of their tokens. height, width: of the image itself, px.
    """

    maps: Sequence[Tensor]
    pixels: WindowMap
    height: int
    width: int


@torch.no_grad()
def see(
    model: LarvSegNet,
    image: np.ndarray,
    *,
    view: View,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
) -> Seen:
    """Fit an image (H, W, 3) uint8 to the view and send its windows through the network (larvseg.md 2.9).

    Windows are zero-padded right and below to a multiple of the network's reduction, after normalisation;
    their maps are later upsampled to the padded size and cut (larvseg.md 6, item 16). Raises ConfigError
    where windows would leave gaps.
    """
    height, width = image.shape[:2]
    size = fitted_size(height, width, short_side=view.short_side, long_side=view.long_side)
    pixels = normalise(resize_image(image, *size), mean=mean, std=std).to(device)
    maps, windows = [], []
    for top, bottom in window_spans(size[0], view):
        for left, right in window_spans(size[1], view):
            kept = (bottom - top, right - left)
            padding = (0, -kept[1] % model.reduction, 0, -kept[0] % model.reduction)
            found = full(model.tokens(F.pad(pixels[None, :, top:bottom, left:right], padding))[0])
            maps.append(found)
            cells = (found.shape[1], found.shape[2])
            padded = (kept[0] + padding[3], kept[1] + padding[1])
            windows.append(Window(cells=cells, size=padded, top=top, left=left, kept=kept))
    return Seen(
        maps=maps, pixels=WindowMap(windows, height=size[0], width=size[1]), height=height, width=width
    )


def window_spans(length: int, view: View) -> list[tuple[int, int]]:
    """Start and stop, px, of the windows along one axis of a resized image. Raises ConfigError."""
    if view.window is None:
        return [(0, length)]
    if view.window_stride > view.window:
        raise ConfigError(
            f"`window_stride` {view.window_stride} px is more than `window` {view.window} px: pixels between"
            " the windows would have no class; set it to that or less"
        )
    return slide(length, side=view.window, stride=view.window_stride)


class Classifier:
    """The active classes of a head, ready to be asked about many images.

    A pixel's class is the n with the largest gamma * c_n . (U [x / sigma]) (larvseg.md 5.2 item 5).

    Attributes:
        class_units: (N, D) c_n.
        gamma: the head's scale; where it is negative, the least product wins.
    """

    @torch.no_grad()
    def __init__(self, head: CosineHead, active: ActiveClasses) -> None:
        self.head = head
        self.class_units = head.class_units(active)
        self.gamma = float(head.scale)
        self._moments = class_moments(self.class_units, active.counts)

    @torch.no_grad()
    def tokens(self, seen: Seen) -> Tensor:
        """x / sigma (T, D) of all windows' tokens: `CosineHead.argmax_features`, as rows."""
        units = self.head.units(token_table(seen.maps).T[None, :, :, None])[0]
        return units / cosine_deviations(units, self._moments)[:, None]

    def decide(self, seen: Seen, *, postprocess: Postprocess, memory_mib: float) -> np.ndarray:
        """Position among the active classes at every pixel of the image itself: (H, W) int32.

        postprocess: see `anyshot.ops.postprocess`; memory_mib: what the decision may hold at once. Raises
        ConfigError when that is too little for one row of pixels.
        """
        height, width = seen.height, seen.width
        pixels = map_to_decide(seen.pixels, height=height, width=width, postprocess=postprocess)
        try:
            found = certified_argmax(
                self.tokens(seen), pixels, self.class_units, memory_mib=memory_mib, gamma=self.gamma
            ).labels
        except ValueError as error:
            raise ConfigError(
                f"an image of {height} x {width} px cannot be decided among {len(self.class_units)} classes"
                f" within memory_mib {memory_mib:g}: {error}"
            ) from error
        if postprocess == "label_nearest":
            found = label_nearest(found, height=height, width=width)
        return found.cpu().numpy()

    @torch.no_grad()
    def probabilities(self, seen: Seen) -> Tensor:
        """Softmax over the active classes (N, h, w) float32 at the resized image, on the CPU."""
        scores = self.gamma * (self.tokens(seen) @ self.class_units.T)
        pixels = seen.pixels
        found = torch.empty(len(self.class_units), pixels.height, pixels.width)
        for row in range(pixels.height):
            taps = pixels.rows(row, row + 1, scores.device)
            found[:, row] = taps.of(scores.float()).softmax(dim=1).T.cpu()
        return found


class Attended(NamedTuple):
    """Where a network looks for classes: maps (n, h, w) in 0..1 on the grid of tokens; warm (n,) bool, the
    class's ring in the bank has been filled once."""

    maps: Tensor
    warm: Tensor


@torch.no_grad()
def attention(
    bank: CompactBank,
    classifier: Classifier,
    features: Tensor,
    *,
    rows: Tensor,
    labels: Sequence[int],
    present: Sequence[int],
) -> Attended:
    """sigma(LN(e)) of one image at token resolution (larvseg.md 2.5 steps 2 to 4), as in training.

    features: (D, h, w) of the whole image; rows: (N,) of the class table, by position, on the host; labels:
    positions whose maps are made; present: positions of all classes of the image. Where the image has one
    class, its background is mined with the published thresholds.
    """
    units = classifier.head.units(features[None])[0]
    maps = [units.new_zeros(0, *features.shape[1:])]
    warm = []
    for label in labels:
        others = [position for position in present if position != label]
        if others:
            background = rows[others]
        else:
            mining = Mining(tokens=min(Mining.tokens, len(units)))
            background = mined_background(
                bank, units, classifier.class_units, label=label, rows=rows, mining=mining
            )
        direction = attention_direction(bank, int(rows[label]), background.to(bank.wraps.device))
        response = F.layer_norm(units @ direction.to(units), (len(units),), eps=LAYER_NORM_EPS)
        maps.append(response.sigmoid().view(1, *features.shape[1:]))
        warm.append(bool(bank.wraps[int(rows[label])] >= 1))
    return Attended(torch.cat(maps), torch.tensor(warm, dtype=torch.bool))
