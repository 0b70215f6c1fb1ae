"""Import of RAML's official checkpoints, strict, with a report (raml.md 6.6).

A file of stage 3 holds two state dicts, `model_state` and `metric_model`; those of stages 1 and 2 only the
first. The official names differ from ours in a few prefixes, so names map both ways.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyshot.data.split_tables import SplitTables
from anyshot.errors import WeightsError
from anyshot.nets.weight_files import (
    COUNTER,
    SHOWN,
    in_words,
    listed,
    read_torch,
    under_our_names,
    without_prefix,
)
from anyshot.raml.networks import build_network

NETWORK, METRIC = "model_state", "metric_model"
UNUSED = ("batch_idx", "optimizer_state", "scheduler_state")
PROTOTYPES = "embedding.known_prototypes"  # the official code has none

# ours -> field of the file and name there; the first prefix that fits counts
NAMES = {
    "deeplab.backbone.body.": (NETWORK, "backbone."),
    "deeplab.project.": (NETWORK, "classifier.project."),
    "deeplab.aspp.": (NETWORK, "classifier.aspp."),
    "deeplab.fuse.0.": (NETWORK, "classifier.conv1."),
    "deeplab.fuse.1.": (NETWORK, "classifier.bn."),
    "closed.": (NETWORK, "classifier.conv2."),
    "meta_head.": (NETWORK, "classifier.conv3."),
    "embedding.layers.": (METRIC, "model."),
    "embedding.classifier.": (METRIC, "classifier."),
}

# layers whose sizes the network is built with: our option, the field, the tensor, and its axis
SIZES = {
    "channels": (NETWORK, "classifier.conv1.weight", 0),
    "low_channels": (NETWORK, "classifier.project.0.weight", 0),
    "hidden": (METRIC, "model.0.weight", 0),
    "embedding": (METRIC, "model.2.weight", 0),
}

Key = tuple[str, str]  # field of the file, name there


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What was found in a checkpoint.

    Attributes:
        path: the file.
        network: name and options of our network, as a model card has them.
        tensors, parameters: tensors taken over, and numbers in them.
        added: our names of tensors that the file lacks and no computation here needs, set to 0.
        unused: fields of the file that are no weights.
    """

    path: Path
    network: Mapping[str, Any]
    tensors: int
    parameters: int
    added: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def has_metric(self) -> bool:
        """Whether it is of stage 3."""
        return bool(self.network["name"] == "raml_metric")

    def text(self) -> str:
        """The report for people, a few lines."""
        options = self.network["options"]
        lines = [
            f"{self.path}: {self.tensors} tensors, {self.parameters:,} numbers",
            "every name and shape of the network was found, and nothing else",
            f"{options['known']} known classes, {options['meta']} meta channels",
        ]
        if self.unused:
            lines.append(f"not weights, left out: {', '.join(self.unused)}")
        counters = [name for name in self.added if name.endswith(COUNTER)]
        if counters:
            lines.append(f"{len(counters)} batch counters were absent and set to 0")
        if self.has_metric:
            lines.append("it has no prototypes of known classes: --reject-known cannot be used with it")
        else:
            lines.append(
                f"a file of stage 1 or 2, without {METRIC}: it segments known classes; regions of novel"
                " classes need a file of stage 3"
            )
        return "\n".join(lines)


def official_key(name: str) -> Key:
    """Our name in a raml_metric network -> field of an official file, and name there."""
    name = name.removeprefix("network.")
    for ours, (field, theirs) in NAMES.items():
        if name.startswith(ours):
            return field, theirs + name.removeprefix(ours)
    raise KeyError(name)


def export_checkpoint(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Our state dict, of raml_open or raml_metric -> the two state dicts that the official code loads."""
    content: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name != PROTOTYPES:
            field, theirs = official_key(name)
            content.setdefault(field, {})[theirs] = value
    return content


def import_checkpoint(
    path: Path, *, tables: SplitTables, backbone: Mapping[str, Any]
) -> tuple[dict[str, Tensor], ImportReport]:
    """Read an official checkpoint of stage 1, 2 or 3.

    Args:
        path: torch file; nothing is unpickled but tensors and plain containers.
        tables: the split that it was trained on.
        backbone: options of the backbone, published: resnet101 at output stride 16.

    Returns:
        The state dict of our network, float32, complete; and the report.

    Raises:
        WeightsError: the file is missing, broken or unsafe, or any name or shape is not that of the network.
    """
    fields, unused = _fields(path)
    given: dict[Key, Tensor] = {
        (field, name): value for field, state in fields.items() for name, value in state.items()
    }
    network = {
        "name": "raml_metric" if METRIC in fields else "raml_open",
        "options": _options(path, given, tables, backbone),
    }
    with torch.device("meta"):
        expected = build_network(network, load=False).state_dict()
    keys = {name: official_key(name) for name in expected if name != PROTOTYPES}
    _check(path, given, {keys[name]: tuple(value.shape) for name, value in expected.items() if name in keys})
    state, added = under_our_names(expected, keys, given)
    report = ImportReport(
        path=path,
        network=network,
        tensors=len(given),
        parameters=sum(value.numel() for value in given.values()),
        added=tuple(added),
        unused=tuple(unused),
    )
    return state, report


def _fields(path: Path) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """The file's state dicts by field, and the names of the fields that are none."""
    content = read_torch(path)
    if not isinstance(content, Mapping) or not isinstance(content.get(NETWORK), Mapping):
        found = ", ".join(map(str, list(content)[:SHOWN])) if isinstance(content, Mapping) else "no dict"
        raise WeightsError(
            f"{path} is no RAML checkpoint: it has no field `{NETWORK}` (found: {found}); give the"
            " `final.pth` of a stage"
        )
    strange = [str(name) for name in content if name not in (NETWORK, METRIC, *UNUSED)]
    if strange:
        raise WeightsError(
            f"{path} has fields that RAML's checkpoints have not: {listed(strange)}; allowed are"
            f" {', '.join((NETWORK, METRIC, *UNUSED))}"
        )
    fields = {}
    for field in (NETWORK, METRIC):
        state = content.get(field)
        if not state:
            continue
        others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
        if others:
            raise WeightsError(f"{path}: `{field}` is no state dict: {listed(others)} are not tensors")
        fields[field] = without_prefix({str(name): value for name, value in state.items()}, "module.")
    return fields, [name for name in UNUSED if name in content]


def _options(
    path: Path, given: Mapping[Key, Tensor], tables: SplitTables, backbone: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of the network, sizes of layers as in the file. Raises WeightsError for another K."""

    def side(field: str, name: str, axis: int) -> int:
        tensor = given.get((field, name))
        if tensor is None or tensor.ndim <= axis:
            raise WeightsError(
                f"{path} is no RAML checkpoint: `{field}` has no tensor {name} with {axis + 1} axes or more;"
                " give the `final.pth` of a stage"
            )
        return int(tensor.shape[axis])

    known = side(NETWORK, "classifier.conv2.weight", 0)
    if known != tables.known:
        raise WeightsError(
            f"{path} has {known} known classes (K, outputs of classifier.conv2), the split {tables.known}:"
            " give the --split that it was trained on, or its --novel classes"
        )
    meta = side(NETWORK, "classifier.conv3.weight", 0) - known
    if meta < 1:
        raise WeightsError(
            f"{path}: classifier.conv3 has {meta + known} outputs, fewer than {known} known classes and one"
            " meta channel; give the `final.pth` of a stage"
        )
    found: dict[str, Any] = {
        "backbone": dict(backbone),
        "known": known,
        "meta": meta,
        "activation": "sigmoid",
    }
    fields = {field for field, _ in given}
    for option, (field, name, axis) in SIZES.items():
        if field in fields:
            found[option] = side(field, name, axis)
    return found


def _check(path: Path, given: Mapping[Key, Tensor], expected: Mapping[Key, tuple[int, ...]]) -> None:
    def plain(key: Key) -> str:
        return f"{key[0]}/{key[1]}"

    missing = [plain(key) for key in expected if key not in given and not key[1].endswith(COUNTER)]
    unexpected = [plain(key) for key in given if key not in expected]
    misshapen = [
        f"{plain(key)} {tuple(given[key].shape)} instead of {shape}"
        for key, shape in expected.items()
        if key in given and tuple(given[key].shape) != shape
    ]
    found = in_words({"missing": missing, "unexpected": unexpected, "with another shape": misshapen})
    if found:
        raise WeightsError(
            f"{path} is not the network of RAML ({found}): give a file of it, or the --backbone it has"
        )
