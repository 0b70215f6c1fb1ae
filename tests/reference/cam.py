"""Multi-scale CAMs of one image, pass by pass (retab.md 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from tests.reference.resample import normalise_cam


def multi_scale_cam(
    activation_maps: Callable[[Tensor], Tensor],
    image: np.ndarray,
    classes: Sequence[int],
    *,
    scales: Sequence[float],
    mean: Sequence[float],
    std: Sequence[float],
) -> np.ndarray:
    """Normalised CAMs (K, H, W) of `classes` (channel numbers): for every scale the image and its mirror, the
    maps of each brought to (H, W), mirrored back, all summed."""
    height, width = image.shape[:2]
    total = np.zeros((len(classes), height, width))
    for scale in scales:
        size = (round(width * scale), round(height * scale))
        resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        for mirrored in (False, True):
            pixels = resized[:, ::-1] if mirrored else resized
            normalised = (pixels / 255 - np.array(mean)) / np.array(std)
            tensor = torch.from_numpy(normalised.transpose(2, 0, 1)[None].astype(np.float32))
            maps = activation_maps(tensor)
            full = interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)[0].numpy()
            full = full[:, :, ::-1] if mirrored else full
            total += full[list(classes)]
    return normalise_cam(total)
