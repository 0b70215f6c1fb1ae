"""From the resized image's labels or logits to the image's own size: the two ways of larvseg.md 2.9.

`label_nearest` decides at the resized image and resizes the labels, as the published results do;
`logit_bilinear` resizes the logits and decides then. They differ along edges.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from anyshot.ops.pixel_taps import PixelMap, ResizedMap
from anyshot.ops.upsampled import upsampled_argmax

Postprocess = Literal["label_nearest", "logit_bilinear"]


def label_nearest(labels: Tensor, *, height: int, width: int) -> Tensor:
    """Labels (h, w) of any type, resized to height x width px: source index floor(i * h / height)."""
    # in integers: h / height in floating point loses a pixel where the quotient should be whole
    rows = torch.arange(height, device=labels.device) * labels.shape[0] // height
    columns = torch.arange(width, device=labels.device) * labels.shape[1] // width
    return labels[rows[:, None], columns]


def logit_bilinear(logits: Tensor, *, height: int, width: int) -> Tensor:
    """Best class (height, width) int64 of logits (C, h, w), resized bilinearly (align_corners False)."""
    return upsampled_argmax(logits[None], height, width, align_corners=False)[0]


def map_to_decide(pixels: PixelMap, *, height: int, width: int, postprocess: Postprocess) -> PixelMap:
    """Where classes are decided, for `class_argmax`: at the resized image (`label_nearest`; give its labels
    to the function of that name), or at the image of height x width px (`logit_bilinear`)."""
    if postprocess == "label_nearest" or (pixels.height, pixels.width) == (height, width):
        return pixels
    return ResizedMap(pixels, height=height, width=width)
