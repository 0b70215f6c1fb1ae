"""Weights (safetensors + JSON card) and training states (torch.save), written whole or not at all."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anyshot.engine.artifacts import atomic_path, write_json
from anyshot.errors import ArtifactError, WeightsError
from anyshot.nets.weight_files import check_zip, in_words

logger = logging.getLogger("anyshot")
CHECKSUM = "weights_sha256"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_weights(path: Path, state: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write `state` to `path` (.safetensors) and `card` to the .json beside it, adding the weights' checksum.

    Raises ArtifactError when a file cannot be written.
    """
    # safetensors refuses tensors that share memory (tied weights): each gets its own copy
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        try:
            safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(None, str(error)) from error
        checksum = _sha256(temporary)
    write_json(path.with_suffix(".json"), {**card, CHECKSUM: checksum})


def load_weights(
    path: Path, *, expect: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and their card, to the CPU.

    expect: card entries that must be equal, such as system, network, split, classes digest.
    Raises ArtifactError for missing, cut off or changed files, WeightsError when the card says something
    else.
    """
    path = Path(path)
    beside = path.with_suffix(".json")
    try:
        card = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise ValueError(f"{beside.name} holds a {type(card).__name__}")
        checksum = _sha256(path)
        state = safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"weights {error.filename or path} do not exist; run the stage that trains them"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(
            f"{path} or {beside.name} is damaged ({error}); delete both and train again"
        ) from error
    if card.get(CHECKSUM, checksum) != checksum:
        raise ArtifactError(
            f"{path} is not the file that {beside.name} describes (sha256 {checksum[:12]}, expected"
            f" {str(card[CHECKSUM])[:12]}); delete both and train again"
        )
    wrong = [
        f"{name} is {card.get(name)!r}, expected {value!r}"
        for name, value in (expect or {}).items()
        if card.get(name) != value
    ]
    if wrong:
        raise WeightsError(
            f"{path} does not fit: {'; '.join(wrong)}. Take the weights of this run, or train again"
        )
    return state, card


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """Names of the tensors that were loaded, missing (left as initialised) and unexpected (not used)."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for pattern in patterns)


def load_into(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> LoadReport:
    """Copy `state` into `model`, strictly.

    allow_missing, allow_unexpected: names, prefixes up to a dot (`head`) or patterns
    (`*.num_batches_tracked`) of tensors that may be absent from `state` or from the model.
    Raises WeightsError naming the first missing, unexpected and wrongly shaped tensors; the model is then
    unchanged.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = {
        "missing": [name for name in missing if not _matches(name, allow_missing)],
        "unexpected": [name for name in unexpected if not _matches(name, allow_unexpected)],
        "wrong shape": shapes,
    }
    text = in_words(problems)
    if text:
        raise WeightsError(
            f"weights do not fit {type(model).__name__} ({text}); set the network's options to those of the"
            " weights"
        )
    loaded = {name: state[name] for name in own if name in state}
    model.load_state_dict(loaded, strict=False)
    return LoadReport(tuple(loaded), tuple(missing), tuple(unexpected))


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state: containers of tensors, numbers and strings, with the key `fingerprint`."""
    with atomic_path(path) as temporary:
        try:
            torch.save(dict(state), temporary)
        except RuntimeError as error:  # how torch's zip writer reports a full disk
            raise OSError(None, str(error).splitlines()[0]) from error


def load_state(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Read a training state to the CPU; None when there is none, it is damaged, or belongs to another job."""
    if not path.exists():
        return None
    try:
        check_zip(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["fingerprint"]
    except Exception as error:  # damaged files make torch raise errors of every kind
        logger.warning("ignoring the damaged training state %s (%s): training starts anew", path, error)
        return None
    if found != fingerprint:
        logger.info("ignoring the training state %s: it belongs to other options or inputs", path)
        return None
    return state
