"""Import of POP's released checkpoints, strict, with a report (pop.md 2.1, 6.2-b).

A file is one plain state dict whose names begin with `module.`, left by DataParallel; names map both ways.
Stage 2 adds `novel_emb` and `classifier_n` to the names of stage 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyshot.errors import WeightsError
from anyshot.nets.deep_stem import DEEP_STEM, semseg_name
from anyshot.nets.weight_files import COUNTER, in_words, listed, read_state, under_our_names
from anyshot.pop.heads import POP_NETWORK
from anyshot.pop.networks import build_pop_net

BACKBONE, PYRAMID, HEAD = "decoder.backbone.body.", "decoder.pyramid.", "head."
UNUSED = ("backbone.fc.weight", "backbone.fc.bias")  # of ImageNet; no network of POP has a place for them
PREFIX = "module."


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What was found in a checkpoint.

    Attributes:
        path: the file.
        network: name and options of our network, as a model card has them.
        tensors, parameters: tensors taken over, and numbers in them.
        added: our names of batch counters that the file lacks, set to 0.
        unused: names of tensors that the network has no place for and may be there.
    """

    path: Path
    network: Mapping[str, Any]
    tensors: int
    parameters: int
    added: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def novel(self) -> int:
        """Kn; 0 for a file of stage 1."""
        return int(self.network["options"]["novel"])

    def text(self) -> str:
        """The report for people, a few lines."""
        lines = [
            f"{self.path}: {self.tensors} tensors, {self.parameters:,} numbers",
            "every name and shape of the network was found, and nothing else",
        ]
        base = f"background and {self.network['options']['base']} base classes"
        if self.novel:
            lines.append(f"a file of stage 2: {base}, {self.novel} novel classes")
        else:
            lines.append(f"a file of stage 1: {base}; novel classes are learnt from it in stage 2")
        if self.unused:
            lines.append(f"not part of the network, left out: {', '.join(self.unused)}")
        if self.added:
            lines.append(f"{len(self.added)} batch counters were absent and set to 0")
        return "\n".join(lines)


def official_name(name: str, *, backbone: str = DEEP_STEM) -> str:
    """Our name of a PopNet's tensor -> the released files' name, without `module.`.

    backbone: its name in `BackboneOptions`; only `resnet50_v2` has names of its own.
    """
    if name.startswith(BACKBONE):
        inside = name.removeprefix(BACKBONE)
        return "backbone." + (semseg_name(inside) if backbone == DEEP_STEM else inside)
    if name.startswith(PYRAMID):
        return "decoder." + name.removeprefix(PYRAMID)
    if name.startswith(HEAD):
        return name.removeprefix(HEAD)
    raise KeyError(name)


def export_checkpoint(state: Mapping[str, Tensor], *, backbone: str = DEEP_STEM) -> dict[str, Tensor]:
    """A PopNet's state dict -> that which the official code loads."""
    return {PREFIX + official_name(name, backbone=backbone): value for name, value in state.items()}


def import_checkpoint(
    path: Path, *, base: int, novel: int, backbone: Mapping[str, Any]
) -> tuple[dict[str, Tensor], ImportReport]:
    """Read a released checkpoint of stage 1 or 2.

    Args:
        path: torch or safetensors file; nothing is unpickled but tensors and plain containers.
        base: Kb, base classes of the split that it was trained on, without background.
        novel: Kn, the split's novel classes; a file of stage 1 has none.
        backbone: options of the backbone, published: resnet50_v2 at output stride 8.

    Returns:
        The state dict of a PopNet, float32, complete; and the report, with the network's name and options.

    Raises:
        WeightsError: the file is missing, broken or unsafe, it has other numbers of classes, or any name or
            shape is not that of the network.
    """
    given = _without_module(read_state(path))
    network = {"name": POP_NETWORK, "options": _options(path, given, base, novel, backbone)}
    with torch.device("meta"):
        expected = build_pop_net(network["options"]).state_dict()  # type: ignore[arg-type]
    names = {name: official_name(name, backbone=str(backbone["name"])) for name in expected}
    unused = tuple(name for name in UNUSED if name in given)
    _check(path, given, {names[name]: tuple(value.shape) for name, value in expected.items()})
    state, added = under_our_names(expected, names, given)
    taken = [given[names[name]] for name in expected if names[name] in given]
    report = ImportReport(
        path=path,
        network=network,
        tensors=len(taken),
        parameters=sum(value.numel() for value in taken),
        added=tuple(added),
        unused=unused,
    )
    return state, report


def _without_module(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without `module.`, also where only some names have it: none of POP's own begins so."""
    return {name.removeprefix(PREFIX): value for name, value in state.items()}


def _options(
    path: Path, given: Mapping[str, Tensor], base: int, novel: int, backbone: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of the network, sizes as in the file. Raises WeightsError for other numbers of classes."""
    prototypes = given.get("base_emb")
    if prototypes is None or prototypes.ndim != 2:
        raise WeightsError(
            f"{path} is no POP checkpoint: it has no matrix `base_emb` (found: {listed(list(given))}); give"
            " the `best.pth` or `best_{seed}.pth` of a stage"
        )
    if len(prototypes) != base:
        raise WeightsError(
            f"{path} has {len(prototypes)} base classes (rows of base_emb), the split {base}: give the"
            " --split and --data-set that it was trained on"
        )
    rows = len(given["novel_emb"]) if "novel_emb" in given else 0
    if rows not in (0, novel):
        raise WeightsError(
            f"{path} has {rows} novel classes (rows of novel_emb), the split {novel}: give the --split and"
            " --data-set that it was trained on"
        )
    return {
        "backbone": dict(backbone),
        "channels": int(prototypes.shape[1]),
        "base": base,
        "novel": rows,
        "background": "residual",
    }


def _check(path: Path, given: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in expected if name not in given and not name.endswith(COUNTER)]
    unexpected = [name for name in given if name not in expected and name not in UNUSED]
    misshapen = [
        f"{name} {tuple(given[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    found = in_words({"missing": missing, "unexpected": unexpected, "with another shape": misshapen})
    if found:
        raise WeightsError(
            f"{path} is not the network of POP ({found}): give a file of it, or the --backbone it has"
        )
