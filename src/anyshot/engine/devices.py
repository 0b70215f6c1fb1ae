"""The devices of a training: Lightning Fabric on them, sums over them, their memory."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor

from anyshot.options import OptimiserOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def precision_of(options: OptimiserOptions, device: torch.device) -> Any:
    """The precision that the options name; `auto` is bf16-mixed on GPUs that have it."""
    if options.precision != "auto":
        return options.precision
    return "bf16-mixed" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32-true"


def start_fabric(device: torch.device, gpus: int, options: OptimiserOptions, devices: int | None) -> Fabric:
    """Fabric on the held `gpus`, or on the CPU; `devices` overrides their number.

    For several devices it starts the script again, once per further device.
    """
    # here, because it takes 1.6 s, and stages that only load a network import this module, too
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment

    on_gpu = device.type == "cuda"
    count = devices or (min(max(gpus, 1), torch.cuda.device_count()) if on_gpu else 1)
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=count,
        strategy="ddp" if count > 1 else "auto",
        precision=precision_of(options, device),
        # without it Fabric takes the variables of a Slurm job for its own: one device for one task
        plugins=[LightningEnvironment()],
    )
    fabric.launch()
    return fabric


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
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return tensor
    if torch.distributed.get_world_size() == 1:
        return tensor
    return _SumOverDevices.apply(tensor)


def all_gather(tensor: Tensor) -> Tensor:
    """The tensor of every device, stacked in order of rank, without gradient: (devices, ...)."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return tensor[None]
    found = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, tensor.contiguous())
    return torch.stack(found)


def device_rank() -> int:
    """The number of this device in the training, from 0."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0
    return torch.distributed.get_rank()


def peak_mib(device: torch.device) -> float:
    """Largest memory so far, MiB: of tensors on a GPU, of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
