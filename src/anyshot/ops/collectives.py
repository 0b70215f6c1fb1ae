"""Sums and collections over the devices of a training; on one device each is the plain value."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor


def device_count() -> int:
    """How many devices share the training."""
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if started else 1


def device_rank() -> int:
    """The number of this device in the training, from 0."""
    return torch.distributed.get_rank() if device_count() > 1 else 0


class _SumOverDevices(torch.autograd.Function):
    """Every device's value depends on every device's input, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over the devices, differentiable; the tensor itself on one device.

    For losses that divide by a count: all_reduce_sum(total) / all_reduce_sum(count) has on every device the
    value and, after the gradients were averaged, the gradients of one device with the whole batch.
    """
    if device_count() == 1:
        return tensor
    return _SumOverDevices.apply(tensor)


def all_gather(tensor: Tensor) -> Tensor:
    """The tensor of every device, stacked in order of rank, without gradient: (devices, ...)."""
    if device_count() == 1:
        return tensor[None]
    found = [torch.empty_like(tensor) for _ in range(device_count())]
    torch.distributed.all_gather(found, tensor.contiguous())
    return torch.stack(found)
