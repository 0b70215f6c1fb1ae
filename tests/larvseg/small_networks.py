"""A small LarvSeg network without a pretrained backbone, a view for it, and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyshot.larvseg.bank import CompactBank
from anyshot.larvseg.head import CosineHead
from anyshot.larvseg.networks import LarvSegNet
from anyshot.larvseg.options import View
from anyshot.nets.contract import Backbone

WIDTH, ROWS, REDUCTION = 6, 9, 4
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
READING: dict[str, Any] = {"mean": MEAN, "std": STD, "device": "cpu"}
WHOLE = View(short_side=24, long_side=96, window=None)
WINDOWS = View(short_side=24, long_side=96, window=32, window_stride=18)  # both overlap and odd sizes


class Patches(Backbone):
    """One linear map of 4 x 4 px patches."""

    def __init__(self) -> None:
        super().__init__(channels=[WIDTH], reductions=[REDUCTION], mean=MEAN, std=STD)
        self.embed = nn.Conv2d(3, WIDTH, REDUCTION, REDUCTION)

    def maps(self, images: Tensor) -> list[Tensor]:
        return [self.embed(images)]

    def stages(self) -> list[list[nn.Module]]:
        return [[self.embed]]


def small_network(*, scale: float = 1.4, bank: bool = False, seed: int = 3) -> LarvSegNet:
    torch.manual_seed(seed)
    head = CosineHead(width=WIDTH, classes=ROWS)
    with torch.no_grad():
        head.scale.fill_(scale)
        head.shift.fill_(0.3)
    store = CompactBank(classes=ROWS, width=WIDTH, slots=2, tokens=3) if bank else None
    return LarvSegNet(backbone=Patches(), neck=None, stride=REDUCTION, head=head, bank=store).eval()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8, smooth enough that classes form areas."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (1 + height // 6, 1 + width // 6, 3)).astype(np.uint8)
    return np.ascontiguousarray(coarse.repeat(6, axis=0).repeat(6, axis=1)[:height, :width])
