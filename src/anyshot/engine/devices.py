"""The devices of a training: Lightning Fabric on them, and their memory."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Any

import torch

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


def peak_mib(device: torch.device) -> float:
    """Largest memory so far, MiB: of tensors on a GPU, of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
