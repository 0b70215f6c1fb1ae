"""Computing in full precision whatever the training's precision is."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def full(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is when it is float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    """A context in which no product on the tensor's device is computed in half precision."""
    kind = tensor.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()
