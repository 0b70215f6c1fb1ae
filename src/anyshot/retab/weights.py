"""Import and export of released PSA and RETAB checkpoints on ResNet-38, strict, with a report (retab.md P13).

A released file holds one flat state dict: names of ResNet-38 and of the head. Ours has `backbone.` in front
of the first and its own names for the segmentation head; nothing else differs, so names map both ways.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from anyshot.errors import WeightsError
from anyshot.nets.resnet38 import ResNet38
from anyshot.nets.weight_files import COUNTER, in_words, read_state

Kind = Literal["classifier", "affinity", "boundary", "segmentation"]

PREFIX = "backbone."

# Channels of the three branches of the affinity and boundary heads, and of their concatenation.
BRANCHES = {"f8_3": 64, "f8_4": 128, "f8_5": 256}
FEATURES = sum(BRANCHES.values())
SEGMENTATION_CHANNELS = 512

# Layers of the segmentation head of the repository that RETAB's README points to -> ours.
SEGMENTATION_HEAD = {"fc8_seg_conv1": "head", "fc8_seg_conv2": "classifier"}

HEADS: dict[Kind, tuple[str, ...]] = {
    "classifier": ("fc8",),
    "affinity": (*BRANCHES, "f9"),
    "boundary": (*BRANCHES, "f9"),
    "segmentation": tuple(SEGMENTATION_HEAD),
}

# Stands in a shape for a number that the file decides: the number of classes.
ANY = -1


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What was found in a checkpoint.

    Attributes:
        kind: which network.
        path: the file.
        tensors: tensors taken over.
        parameters: numbers in them.
        classes: outputs of a classifier or segmenter, None for the other networks.
        renamed: the file's name -> our name, of everything taken over.
        added: batch counters that the file lacks, set to 0 (no computation reads them).
        ignored: names in the file that were not taken over; only batch counters ever are.
    """

    kind: Kind
    path: Path
    tensors: int
    parameters: int
    classes: int | None
    renamed: Mapping[str, str]
    added: tuple[str, ...]
    ignored: tuple[str, ...]

    def text(self) -> str:
        """The report for people, a few lines."""
        lines = [
            f"{self.path}: {self.kind} network, {self.tensors} tensors, {self.parameters:,} numbers",
            "every name and shape of the network was found, and nothing else",
        ]
        if self.classes is not None:
            lines.append(f"{self.classes} classes")
        if self.added:
            lines.append(f"{len(self.added)} batch counters were absent and set to 0")
        if self.ignored:
            lines.append(f"{len(self.ignored)} batch counters without a layer were left out")
        return "\n".join(lines)


def our_name(kind: Kind, name: str) -> str:
    """A released checkpoint's parameter name -> ours."""
    layer, _, parameter = name.partition(".")
    if layer not in HEADS[kind]:
        return PREFIX + name
    return f"{SEGMENTATION_HEAD[layer]}.{parameter}" if kind == "segmentation" else name


def official_name(kind: Kind, name: str) -> str:
    """Our parameter name -> the released checkpoints' name."""
    if name.startswith(PREFIX):
        return name.removeprefix(PREFIX)
    if kind == "segmentation":
        theirs = {ours: layer for layer, ours in SEGMENTATION_HEAD.items()}
        layer, _, parameter = name.partition(".")
        return f"{theirs.get(layer, layer)}.{parameter}"
    return name


def import_checkpoint(
    kind: Kind, path: Path, *, width: float = 1.0
) -> tuple[dict[str, Tensor], ImportReport]:
    """Read a released checkpoint of one of RETAB's networks.

    Args:
        kind: `classifier` (PSA's `res38_cls.pth`), `affinity` (RETAB's or PSA's), `boundary`, `segmentation`.
        path: .pth (nothing is unpickled but tensors) or .safetensors.
        width: factor on ResNet-38's channels; released files have 1.

    Returns:
        The state dict of our network of that kind, float32, complete; and the report.

    Raises:
        WeightsError: the file is missing, broken or unsafe, or any name or shape is not as specified.
    """
    if kind not in get_args(Kind):
        raise WeightsError(
            f"there is no checkpoint of kind `{kind}`: allowed are {', '.join(get_args(Kind))}"
        )
    given = read_state(path)
    expected = expected_shapes(kind, width=width)
    counters = [name for name in given if name.endswith(COUNTER)]
    _check(kind, path, {name: tuple(value.shape) for name, value in given.items()}, expected)
    state, renamed = {}, {}
    added = []
    for name in expected:
        if name in given:
            renamed[name] = our_name(kind, name)
            state[renamed[name]] = given[name] if name.endswith(COUNTER) else given[name].float()
        else:
            added.append(our_name(kind, name))
            state[added[-1]] = torch.zeros((), dtype=torch.int64)
    head = {"classifier": "fc8.weight", "segmentation": "fc8_seg_conv2.weight"}.get(kind)
    report = ImportReport(
        kind=kind,
        path=path,
        tensors=len(renamed),
        parameters=sum(given[name].numel() for name in renamed),
        classes=None if head is None else int(given[head].shape[0]),
        renamed=renamed,
        added=tuple(added),
        ignored=tuple(name for name in counters if name not in expected),
    )
    return state, report


def export_checkpoint(kind: Kind, state: Mapping[str, Tensor], *, width: float = 1.0) -> dict[str, Tensor]:
    """Our state dict of a ResNet-38 network -> the state dict that the official code of that network loads.

    Raises:
        WeightsError: the state is not that of our ResNet-38 network of this kind.
    """
    renamed = {official_name(kind, name): value for name, value in state.items()}
    expected = expected_shapes(kind, width=width)
    _check(kind, None, {name: tuple(value.shape) for name, value in renamed.items()}, expected)
    return {name: renamed[name] for name in expected if name in renamed}


def expected_shapes(kind: Kind, *, width: float = 1.0) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released checkpoint with batch counters; -1 stands for the number of classes."""
    with torch.device("meta"):
        backbone = ResNet38(width=width)
    shapes = {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
    for layer, shape in _head_shapes(kind, backbone.channels[-3:]).items():
        shapes[f"{layer}.weight"] = shape
        if kind == "segmentation":
            shapes[f"{layer}.bias"] = shape[:1]
    return shapes


def _head_shapes(kind: Kind, taps: list[int]) -> dict[str, tuple[int, ...]]:
    if kind == "classifier":
        return {"fc8": (ANY, taps[-1], 1, 1)}
    if kind == "segmentation":
        return {
            "fc8_seg_conv1": (SEGMENTATION_CHANNELS, taps[-1], 3, 3),
            "fc8_seg_conv2": (ANY, SEGMENTATION_CHANNELS, 3, 3),
        }
    branches = zip(BRANCHES.items(), taps, strict=True)
    shapes: dict[str, tuple[int, ...]] = {name: (channels, tap, 1, 1) for (name, channels), tap in branches}
    shapes["f9"] = (FEATURES if kind == "affinity" else 1, FEATURES, 1, 1)
    return shapes


def _check(
    kind: Kind,
    path: Path | None,
    given: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    required = [name for name in expected if not name.endswith(COUNTER)]
    missing = [name for name in required if name not in given]
    unexpected = [name for name in given if name not in expected and not name.endswith(COUNTER)]
    misshapen = [
        f"{name} {given[name]} instead of {expected[name]}"
        for name in required
        if name in given and not _fits(given[name], expected[name])
    ]
    found = in_words({"missing": missing, "unexpected": unexpected, "with another shape": misshapen})
    if found:
        raise WeightsError(
            f"{path or 'the state dict'} is no {kind} network on ResNet-38 ({found}):"
            f" give the file of this network; kinds are {', '.join(get_args(Kind))}"
        )


def _fits(given: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(given) == len(expected) and all(
        wanted in (ANY, found) for found, wanted in zip(given, expected, strict=True)
    )
