"""Which parameters learn how fast, and which decay."""

from __future__ import annotations

from typing import Any

from torch import nn

from anyshot.nets.contract import Backbone
from anyshot.options import OptimiserOptions


def parameter_groups(
    model: nn.Module, options: OptimiserOptions, *, undecayed: tuple[type[nn.Module], ...]
) -> list[dict[str, Any]]:
    """Trainable parameters in four groups, for the training loop.

    Backbones have lr `scale` 1, all else `head_multiplier`. Parameters of modules of the types `undecayed` do
    not decay, all others do, biases too. Frozen parameters are left out.
    """
    backbone = {
        id(parameter)
        for part in model.modules()
        if isinstance(part, Backbone)
        for parameter in part.parameters()
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (inside, decays): [] for inside in (True, False) for decays in (True, False)
    }
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                groups[id(parameter) in backbone, not isinstance(module, undecayed)].append(parameter)
    return [
        {
            "params": parameters,
            "scale": 1.0 if inside else options.head_multiplier,
            "weight_decay": options.weight_decay if decays else 0.0,
        }
        for (inside, decays), parameters in groups.items()
    ]
