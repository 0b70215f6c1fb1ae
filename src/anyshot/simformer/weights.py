"""Import of MaskFormer and SimFormer checkpoints on a ResNet, strict, with a report (simformer.md 6.5).

Two forms are known. `detectron2`: what the official codes of MaskFormer and SimFormer save. `transformers`:
Hugging Face's MaskFormerForInstanceSegmentation, which keeps queries', keys' and values' projections of an
attention apart. Names map both ways. What lies under `criterion.` (class weights, SimNet) is for training and
is left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from anyshot.errors import WeightsError
from anyshot.nets.weight_files import COUNTER, in_words, listed, read_state
from anyshot.simformer.networks import NETWORK, build_simformer
from anyshot.simformer.options import MaskNetwork

Form = Literal["detectron2", "transformers"]

OURS = "maskformer."
UNUSED = "criterion."
HEAD = "sem_seg_head."  # of detectron2
PIXELS, TRANSFORMER = "model.pixel_level_module.", "model.transformer_module."  # of transformers
FINER = 3  # maps finer than the deepest one: res2, res3, res4
PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # in the order in which `in_proj` holds them

# names of older files -> those below
OLDER = {
    "detectron2": [(rf"^{re.escape(HEAD)}(?!predictor\.|pixel_decoder\.)", f"{HEAD}pixel_decoder.")],
    "transformers": [(r"_attn\.out_proj\.", "_attn.o_proj."), (r"(layers\.\d+)\.fc(?=[12]\.)", r"\1.mlp.fc")],
}


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What was found in a checkpoint.

    Attributes:
        path: the file.
        form: whose names it has.
        network: name and options of our network, as a model card has them.
        tensors, parameters: tensors taken over, and numbers in them.
        added: our names of batch counters that the file lacks, set to 0.
        unused: the file's names that are for training only.
    """

    path: Path
    form: Form
    network: Mapping[str, Any]
    tensors: int
    parameters: int
    added: tuple[str, ...]
    unused: tuple[str, ...]

    def text(self) -> str:
        """The report for people, a few lines."""
        options = self.network["options"]
        network = options["network"]
        lines = [
            f"{self.path}: {self.tensors} tensors, {self.parameters:,} numbers, names of {self.form}",
            "every name and shape of the network was found, and nothing else",
            f"{options['classes']} classes, {network['queries']} queries, {network['layers']} decoder layers"
            f" of width {network['width']}; {network['heads']} attention heads are taken for granted: no file"
            " tells them",
        ]
        if self.unused:
            lines.append(f"{len(self.unused)} tensors for training left out: {listed(self.unused)}")
        if self.added:
            lines.append(f"{len(self.added)} batch counters were absent and set to 0")
        return "\n".join(lines)


def official_names(name: str, form: Form) -> tuple[str, ...]:
    """Our name of a SimFormer's tensor -> the file's; several where the file holds it in equal parts of the
    first axis. Raises KeyError for what has no place in a file (SimNet)."""
    names = _detectron2 if form == "detectron2" else _transformers
    return names(name.removeprefix(OURS).split("."))


def _detectron2(ours: list[str]) -> tuple[str, ...]:
    match ours:
        case ["backbone", "body", *inside]:
            return ("backbone." + _detectron2_resnet(inside),)
        case ["pixel_decoder", "stem", part, end]:
            there = f"pixel_decoder.layer_{FINER + 1}.{_NORM[part]}{end}"
        case ["pixel_decoder", "lateral", index, part, end]:
            there = f"pixel_decoder.adapter_{int(index) + 1}.{_NORM[part]}{end}"
        case ["pixel_decoder", "output", index, part, end]:
            there = f"pixel_decoder.layer_{int(index) + 1}.{_NORM[part]}{end}"
        case ["pixel_decoder", "embed", end]:
            there = f"pixel_decoder.mask_features.{end}"
        case ["predictor", "memory", end]:
            there = f"predictor.input_proj.{end}"
        case ["predictor", "queries", end]:
            there = f"predictor.query_embed.{end}"
        case ["predictor", "classify", end]:
            there = f"predictor.class_embed.{end}"
        case ["predictor", "mask_embed", index, end]:
            there = f"predictor.mask_embed.layers.{int(index) // 2}.{end}"
        case ["predictor", "norm", end]:
            there = f"predictor.transformer.decoder.norm.{end}"
        case ["predictor", "layers", index, "norms", number, end]:
            there = f"predictor.transformer.decoder.layers.{index}.norm{int(number) + 1}.{end}"
        case ["predictor", "layers", index, part, *end] if part in _DETECTRON2_PARTS:
            words = [f"predictor.transformer.decoder.layers.{index}", _DETECTRON2_PARTS[part], *end]
            there = ".".join(words)
        case _:
            raise KeyError(".".join(ours))
    return (HEAD + there,)


_NORM = {"0": "", "1": "norm."}  # a convolution and its norm
_DETECTRON2_PARTS = {
    "self_attention": "self_attn",
    "cross_attention": "multihead_attn",
    "expand": "linear1",
    "contract": "linear2",
}


def _detectron2_resnet(ours: list[str]) -> str:
    match ours:
        case ["conv1", end]:
            return f"stem.conv1.{end}"
        case ["bn1", end]:
            return f"stem.conv1.norm.{end}"
        case [stage, block, "downsample", part, end]:
            return f"res{int(stage[-1]) + 1}.{block}.shortcut.{_NORM[part]}{end}"
        case [stage, block, part, end] if part[:-1] in ("conv", "bn"):
            norm = "" if part.startswith("conv") else "norm."
            return f"res{int(stage[-1]) + 1}.{block}.conv{part[-1]}.{norm}{end}"
    raise KeyError(".".join(ours))


def _transformers(ours: list[str]) -> tuple[str, ...]:
    match ours:
        case ["backbone", "body", *inside]:
            return (f"{PIXELS}encoder.{_transformers_resnet(inside)}",)
        case ["pixel_decoder", "stem", part, end]:
            return (f"{PIXELS}decoder.fpn.stem.{part}.{end}",)
        case ["pixel_decoder", "lateral" | "output" as kind, index, part, end]:
            block = "proj" if kind == "lateral" else "block"
            return (f"{PIXELS}decoder.fpn.layers.{FINER - 1 - int(index)}.{block}.{part}.{end}",)
        case ["pixel_decoder", "embed", end]:
            return (f"{PIXELS}decoder.mask_projection.{end}",)
        case ["predictor", "memory", end]:
            return (f"{TRANSFORMER}input_projection.{end}",)
        case ["predictor", "queries", end]:
            return (f"{TRANSFORMER}queries_embedder.{end}",)
        case ["predictor", "classify", end]:
            return (f"class_predictor.{end}",)
        case ["predictor", "mask_embed", index, end]:
            return (f"mask_embedder.{int(index) // 2}.0.{end}",)
        case ["predictor", "norm", end]:
            return (f"{TRANSFORMER}decoder.layernorm.{end}",)
        case ["predictor", "layers", index, *inside]:
            layer = f"{TRANSFORMER}decoder.layers.{index}."
            return tuple(layer + name for name in _transformers_layer(inside))
    raise KeyError(".".join(ours))


def _transformers_layer(ours: list[str]) -> tuple[str, ...]:
    match ours:
        case ["norms", number, end]:
            norm = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")[int(number)]
            return (f"{norm}.{end}",)
        case ["expand", end]:
            return (f"mlp.fc1.{end}",)
        case ["contract", end]:
            return (f"mlp.fc2.{end}",)
        case ["self_attention" | "cross_attention" as kind, *inside]:
            attention = "self_attn" if kind == "self_attention" else "encoder_attn"
            if inside[0].startswith("in_proj_"):
                end = inside[0].removeprefix("in_proj_")
                return tuple(f"{attention}.{part}.{end}" for part in PROJECTIONS)
            return (f"{attention}.o_proj.{inside[1]}",)
    raise KeyError(".".join(ours))


def _transformers_resnet(ours: list[str]) -> str:
    match ours:
        case ["conv1", end]:
            return f"embedder.embedder.convolution.{end}"
        case ["bn1", end]:
            return f"embedder.embedder.normalization.{end}"
        case [stage, block, "downsample", part, end]:
            kind = "convolution" if part == "0" else "normalization"
            return f"encoder.stages.{int(stage[-1]) - 1}.layers.{block}.shortcut.{kind}.{end}"
        case [stage, block, part, end] if part[:-1] in ("conv", "bn"):
            kind = "convolution" if part.startswith("conv") else "normalization"
            place = f"layers.{block}.layer.{int(part[-1]) - 1}"
            return f"encoder.stages.{int(stage[-1]) - 1}.{place}.{kind}.{end}"
    raise KeyError(".".join(ours))


def export_checkpoint(state: Mapping[str, Tensor], form: Form) -> dict[str, Tensor]:
    """A SimFormer's state dict -> that of its MaskFormer as `form` has it, without batch counters."""
    content: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(OURS) and not name.endswith(COUNTER):
            theirs = official_names(name, form)
            content.update(zip(theirs, value.chunk(len(theirs)), strict=True))
    return content


def import_checkpoint(
    path: Path, *, classes: int, backbone: Mapping[str, Any], heads: int = 8
) -> tuple[dict[str, Tensor], ImportReport]:
    """Read a checkpoint of MaskFormer or SimFormer on a ResNet, of either form.

    Args:
        path: torch or safetensors file; nothing is unpickled but tensors and plain containers.
        classes: K, classes of the data set it was trained on, without `no object`.
        backbone: options of the backbone, published: resnet50 at output stride 32.
        heads: of every attention; no shape in the file depends on it.

    Returns:
        The state dict of a SimFormer without SimNet, float32, complete; and the report, with the network's
        name and options.

    Raises:
        WeightsError: the file is missing, broken or unsafe, it has another number of classes, or any name or
            shape is not that of the network.
    """
    form, given = _normal_names(path, _read(path))
    network = {"name": NETWORK, "options": _options(path, form, given, classes, backbone, heads)}
    expected = _expected(network["options"])  # type: ignore[arg-type]
    try:
        names = {name: official_names(name, form) for name in expected}
    except KeyError as error:
        raise WeightsError(
            f"weights of {form} have names for ResNets only, {backbone['name']} has a layer {error}: give the"
            " --backbone of the checkpoint, e.g. resnet50 or resnet101"
        ) from error
    unused = tuple(name for name in given if name.startswith(UNUSED))
    _check(path, given, expected, names)
    state, added = _under_our_names(expected, names, given)
    taken = [given[theirs] for group in names.values() for theirs in group if theirs in given]
    report = ImportReport(
        path=path,
        form=form,
        network=network,
        tensors=len(taken),
        parameters=sum(value.numel() for value in taken),
        added=tuple(added),
        unused=unused,
    )
    return state, report


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_state(path)
    except WeightsError as error:
        if path.suffix == ".pkl" and path.is_file():
            raise WeightsError(
                f"{path} is a pickle, which can run code when it is opened: it was not. If you trust where it"
                " is from, open it once with Python's pickle, and save its arrays under `model` as tensors"
                " with torch.save or as .safetensors"
            ) from error
        raise


def _normal_names(path: Path, given: Mapping[str, Tensor]) -> tuple[Form, dict[str, Tensor]]:
    """Whose names they are, and the state under the newest of them. Raises WeightsError."""
    form: Form
    if any(name.startswith(HEAD) for name in given):
        form = "detectron2"
    elif any(name.startswith((PIXELS, TRANSFORMER)) for name in given):
        form = "transformers"
    else:
        raise WeightsError(
            f"{path} is no MaskFormer checkpoint: no name in it begins with `{HEAD}` (detectron2) or"
            f" `{PIXELS}` (transformers); found: {listed(list(given))}"
        )
    state = {}
    for name, value in given.items():
        for older, newer in OLDER[form]:
            name = re.sub(older, newer, name)
        state[name] = value
    return form, state


def _options(
    path: Path,
    form: Form,
    given: Mapping[str, Tensor],
    classes: int,
    backbone: Mapping[str, Any],
    heads: int,
) -> dict[str, Any]:
    """Options of the network, sizes as in the file. Raises WeightsError for another K."""

    def shape(ours: str) -> torch.Size:
        (theirs,) = official_names(f"{OURS}predictor.{ours}.weight", form)
        if theirs not in given or given[theirs].ndim != 2:
            raise WeightsError(f"{path} is no MaskFormer checkpoint: it has no matrix {theirs}")
        return given[theirs].shape

    outputs = shape("classify")[0] - 1
    if outputs != classes:
        raise WeightsError(
            f"{path} has {outputs} classes (K, outputs of its class head but `no object`), the class table"
            f" {classes}: give the --data-set or the --classes that it was trained on"
        )
    queries, width = shape("queries")
    pattern = re.compile(r"\.decoder\.layers\.(\d+)\.")
    found = {int(match[1]) for name in given if (match := pattern.search(name)) is not None}
    try:
        network = MaskNetwork(
            width=width,
            queries=queries,
            layers=len(found),
            heads=heads,
            feedforward=shape("layers.0.expand")[0],
        )
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors())
        raise WeightsError(f"{path} has sizes that our MaskFormer cannot have ({said})") from error
    return {
        "backbone": dict(backbone),
        "classes": classes,
        "network": network.model_dump(mode="json"),
        "similarity": None,
    }


def _expected(options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's state dict, without numbers; freezing changes no shape, but would look at numbers."""
    options = {**options, "backbone": {**options["backbone"], "freeze_norm": False}}
    with torch.device("meta"):
        return build_simformer(options).state_dict()


def _check(
    path: Path,
    given: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    names: Mapping[str, tuple[str, ...]],
) -> None:
    missing, misshapen, known = [], [], set()
    for name, value in expected.items():
        for theirs in names[name]:
            known.add(theirs)
            # a scalar is a batch counter, which is never in parts
            shape = value.shape if value.ndim == 0 else (len(value) // len(names[name]), *value.shape[1:])
            if theirs not in given:
                missing += [] if theirs.endswith(COUNTER) else [theirs]
            elif given[theirs].shape != tuple(shape):
                misshapen.append(f"{theirs} {tuple(given[theirs].shape)} instead of {tuple(shape)}")
    unexpected = [name for name in given if name not in known and not name.startswith(UNUSED)]
    found = in_words({"missing": missing, "unexpected": unexpected, "with another shape": misshapen})
    if found:
        raise WeightsError(
            f"{path} is not the network of SimFormer ({found}): give a file of it, or the --backbone it has"
        )


def _under_our_names(
    expected: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]], given: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The state under our names, float32 but for counters, and the counters that are absent, set to 0."""
    state, added = {}, []
    for name, value in expected.items():
        if names[name][0] not in given:
            added.append(name)
            state[name] = torch.zeros(value.shape, dtype=value.dtype)
        elif name.endswith(COUNTER):
            state[name] = given[names[name][0]]
        else:
            state[name] = torch.cat([given[theirs].float() for theirs in names[name]])
    return state, added
