"""Weights files into networks, strictly: nothing is unpickled, nothing missing or left over goes unsaid."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from anyshot.errors import WeightsError

SHOWN = 5  # names listed in an error message
COUNTER = "num_batches_tracked"  # how the names of batch counters of normalisation layers end

Key = TypeVar("Key", bound=Hashable)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from .safetensors or from a torch file (.pth, .pt, .bin), on the CPU.

    Torch files are read with `weights_only=True`: a file that holds anything but tensors and plain containers
    is refused, never executed. A dict with one of the usual outer keys (`state_dict`, `model`) is opened, and
    a `module.` in front of every name (left by DataParallel) is taken off.

    Raises:
        WeightsError: the file is missing, broken, or not a state dict.
    """
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist: correct `weights`, or use `none`")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    for outer in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(outer), Mapping):
            content = content[outer]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            f"{path} holds no state dict but a {type(content).__name__}: give names with tensors"
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(f"{path} is not a state dict: {listed(others)} are not tensors")
    return without_prefix({str(name): value for name, value in content.items()}, "module.")


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take `prefix` off every name if every name has it, otherwise leave all as they are."""
    if state and all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the batch counters of normalisation layers: no computation reads them."""
    return {name: value for name, value in state.items() if not name.endswith(COUNTER)}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a complete safetensors file ({error}): get it again") from error


def read_torch(path: Path) -> object:
    """What a torch file holds, on the CPU; anything but tensors and plain containers is refused, never run.

    Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsError(f"weights file {path} does not exist: correct the path")
    try:
        check_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} was refused: it is no torch file, or holds objects other than tensors, which could run"
            f" code when loaded ({str(error).splitlines()[0]}): save a plain state dict, or use safetensors"
        ) from error
    except Exception as error:  # damaged files make torch raise errors of every kind
        detail = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} cannot be read as a torch file ({detail}): get it again") from error


def check_zip(path: Path) -> None:
    """Compare the checksums of a torch file, which torch itself does not. Raises ValueError, BadZipFile.

    Files of before torch 1.6 have none.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")


def load_exactly(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    ignored: Collection[str] = (),
) -> list[str]:
    """Copy `state` into `network`; every name and shape must fit, batch counters aside.

    Args:
        network: receives the tensors.
        state: name -> tensor.
        source: where the state came from, for the messages.
        ignored: names that may be in `state` without having a place in the network.

    Returns:
        The names that were ignored, sorted.

    Raises:
        WeightsError: lists the first missing, unexpected and misshapen names. The network is unchanged then.
    """
    expected = without_counters(network.state_dict())
    given = without_counters(state)
    missing = [name for name in expected if name not in given]
    unexpected = [name for name in given if name not in expected and name not in ignored]
    misshapen = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in given and given[name].shape != value.shape
    ]
    problems = in_words({"missing": missing, "unexpected": unexpected, "with another shape": misshapen})
    if problems:
        raise WeightsError(
            f"{source} does not fit {type(network).__name__} ({problems}):"
            " give weights of this network, or change the network's name"
        )
    network.load_state_dict({name: given[name] for name in expected}, strict=False)
    return sorted(name for name in given if name not in expected)


def under_our_names(
    expected: Mapping[str, Tensor], theirs: Mapping[str, Key], given: Mapping[Key, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of a network whose weights have other names in a file.

    expected: our names with tensors of the right shape and type; theirs: the file's names by ours, for those
    that a file can hold; given: the file's tensors. Returns the state, float32 but for counters, and the
    names that the file lacks, set to 0.
    """
    state, added = {}, []
    for name, value in expected.items():
        if name in theirs and theirs[name] in given:
            tensor = given[theirs[name]]
            state[name] = tensor if name.endswith(COUNTER) else tensor.float()
        else:
            added.append(name)
            state[name] = torch.zeros(value.shape, dtype=value.dtype)
    return state, added


def in_words(problems: Mapping[str, Sequence[str]]) -> str:
    """Names by what is wrong with them, a few of each kind; empty text where nothing is wrong."""
    return "; ".join(f"{len(names)} {what}: {listed(names)}" for what, names in problems.items() if names)


def listed(names: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
