"""Backbones by name: our ResNet-38, POP's ResNet-50, or any timm model, behind one contract."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from anyshot.errors import ConfigError, WeightsError
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD, NORM_LAYERS, Backbone
from anyshot.nets.deep_stem import DEEP_STEM, dilate_whole_stages, from_semseg, timm_name
from anyshot.nets.depthwise import train_fast
from anyshot.nets.mxnet_params import read_resnet38
from anyshot.nets.resnet38 import HEADS, ResNet38
from anyshot.nets.weight_files import load_exactly, read_state
from anyshot.nets.wheel_weights import WHEEL_MEAN, WHEEL_NETWORK, WHEEL_STD, WHEEL_WEIGHTS, read_wheel
from anyshot.options import BackboneOptions

__all__ = ["Backbone", "TimmBackbone", "build_backbone"]

# Finer maps cost memory and no system asks for them.
FINEST_REDUCTION = 4


def build_backbone(options: BackboneOptions, *, load: bool = True) -> Backbone:
    """Build the backbone that `options` names, with its weights and its frozen parts.

    Args:
        options: name, weights, output stride, what is frozen.
        load: False leaves the weights out, for a network that is filled from a checkpoint right after;
            everything else, normalisation of the input included, is the same.

    Raises:
        ConfigError: unknown network, or options that this network does not have.
        WeightsError: weights that are missing, broken, or made for another network.
    """
    backbone = _resnet38(options, load=load) if options.name == "resnet38" else _timm(options, load=load)
    backbone.freeze(norm=options.freeze_norm, stages=options.frozen_stages)
    backbone.choose_memory_format()
    return backbone


def _resnet38(options: BackboneOptions, *, load: bool) -> ResNet38:
    if options.output_stride != 8:
        raise ConfigError(
            f"output_stride is {options.output_stride}, but resnet38 has only 8: set output_stride: 8"
        )
    backbone = ResNet38(width=options.width)
    if not load or options.weights == "none":
        return backbone
    if options.weights == "timm" or options.weights.startswith("wheel:"):
        raise WeightsError(
            f"weights `{options.weights}` do not exist for resnet38: allowed are `none`, its MXNet file"
            " (ilsvrc-cls_rna-a1_cls1000_ep-0001.params), or a .safetensors or .pth file"
        )
    path = Path(options.weights)
    state = read_resnet38(path) if path.suffix == ".params" else _backbone_part(read_state(path))
    heads = {name for name in state if name.partition(".")[0] in HEADS}
    load_exactly(backbone, state, source=str(path), ignored=heads)
    return backbone


def _timm(options: BackboneOptions, *, load: bool) -> TimmBackbone:
    if options.width != 1.0:
        raise ConfigError(
            f"width is {options.width}, but only resnet38 has one: remove it for {options.name}"
        )
    if options.weights == WHEEL_WEIGHTS and options.name != WHEEL_NETWORK:
        raise WeightsError(
            f"weights `{WHEEL_WEIGHTS}` are those of {WHEEL_NETWORK}, not of {options.name}:"
            " change name or weights"
        )
    if options.weights.startswith("wheel:") and options.weights != WHEEL_WEIGHTS:
        raise WeightsError(f"weights `{options.weights}` are unknown: the only wheel is `{WHEEL_WEIGHTS}`")
    pretrained = load and options.weights == "timm"
    body, multiple = _create_timm(timm_name(options.name), options.output_stride, pretrained=pretrained)
    if options.name == DEEP_STEM:
        dilate_whole_stages(body)
    train_fast(body)
    mean, std = _normalisation(options)
    backbone = TimmBackbone(name=options.name, body=body, mean=mean, std=std, multiple=multiple)
    if options.freeze_norm and not pretrained:
        _open_branches(backbone)
    if load and options.weights not in ("none", "timm"):
        _fill_timm(backbone, options)
    return backbone


class TimmBackbone(Backbone):
    """The feature maps of a timm model.

    Args:
        name: timm's name, for messages.
        body: what `timm.create_model(..., features_only=True)` returns.
        mean, std: normalisation of images in [0, 1].
        multiple: px; images are padded right and below to this multiple (for networks that need it), and what
            lies beyond the image is cut off the maps again.
    """

    def __init__(
        self, *, name: str, body: nn.Module, mean: Sequence[float], std: Sequence[float], multiple: int = 1
    ) -> None:
        info: Any = body.feature_info
        channels, reductions = info.channels(), info.reduction()
        kept = [index for index, reduction in enumerate(reductions) if reduction >= FINEST_REDUCTION]
        super().__init__(
            channels=[channels[index] for index in kept],
            reductions=[reductions[index] for index in kept],
            mean=mean,
            std=std,
        )
        self.name = name
        self.body = body
        self._kept = kept
        self._multiple = multiple
        self._stage_ends = [str(module) for module in info.module_name()]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C_i, H_i, W_i) of images (B, 3, H, W)."""
        height, width = images.shape[-2:]
        if self._multiple > 1:
            # Zero is the mean colour of a normalised image.
            images = functional.pad(images, (0, -width % self._multiple, 0, -height % self._multiple))
        maps = self.body(images)
        kept = [maps[index] for index in self._kept]
        if self._multiple > 1:
            kept = [
                feature[..., : math.ceil(height / step), : math.ceil(width / step)]
                for feature, step in zip(kept, self.reductions, strict=True)
            ]
        return kept

    def stages(self) -> list[list[nn.Module]]:
        """One stage per feature map of the model, stride 2 included: what runs after the map before it."""
        stages: list[list[nn.Module]] = [[]]
        ends = list(self._stage_ends)
        inside = False
        for name, module in self.body.named_modules():
            if not name:
                continue
            at_end = bool(ends) and _lies_in(name, ends[0])
            if inside and not at_end:
                ends.pop(0)
                if not ends:
                    break
                stages.append([])
                at_end = _lies_in(name, ends[0])
            inside = at_end
            stages[-1].append(module)
        return stages


def _lies_in(name: str, parent: str) -> bool:
    """Whether module `name` is `parent` or inside it; timm writes `stages.0` as `stages_0` in some."""
    flattened = parent.replace(".", "_")
    return any(name == top or name.startswith(f"{top}.") for top in (parent, flattened, f"model.{parent}"))


def _create_timm(name: str, output_stride: int, *, pretrained: bool) -> tuple[nn.Module, int]:
    """The feature network, and the px whose multiple its input must be."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ConfigError(
            f"backbone `{name}` is neither resnet38 nor a timm model"
            f"{'; did you mean ' + ', '.join(near) if near else ''} (timm {timm.__version__})"
        )
    try:
        return _call_timm(name, pretrained=pretrained, output_stride=output_stride), 1
    except (TypeError, NotImplementedError):
        return _create_fixed_stride(name, output_stride, pretrained=pretrained), output_stride


def _call_timm(name: str, *, pretrained: bool, **arguments: Any) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, features_only=True, **arguments)
    except (TypeError, NotImplementedError):
        raise
    except (RuntimeError, AttributeError, AssertionError) as error:
        if pretrained:
            raise _not_downloaded(name, error) from error
        raise ConfigError(f"timm's {name} gives no feature maps ({error}): choose another network") from error
    except Exception as error:
        # timm's hub raises errors of several libraries when it is offline.
        if pretrained:
            raise _not_downloaded(name, error) from error
        raise


def _not_downloaded(name: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"timm's weights of {name} could not be had ({type(error).__name__}: {error}):"
        " connect to its hub, or give a file as `weights`, or `none`"
    )


def _create_fixed_stride(name: str, output_stride: int, *, pretrained: bool) -> nn.Module:
    """A model whose strides cannot be changed (mostly transformers): fits only if it has this one."""
    body = None
    attempts: tuple[dict[str, Any], ...] = (
        {"feature_cls": "getter", "dynamic_img_size": True},
        {"feature_cls": "getter", "strict_img_size": False},
        {},
    )
    for arguments in attempts:
        try:
            body = _call_timm(name, pretrained=pretrained, **arguments)
            break
        except (TypeError, NotImplementedError):
            continue
    if body is None:
        raise ConfigError(f"timm's {name} cannot give feature maps: choose another network")
    info: Any = body.feature_info
    deepest = info.reduction()[-1]
    if deepest != output_stride:
        raise ConfigError(
            f"output_stride is {output_stride}, but {name} cannot change its own, {deepest}:"
            f" set output_stride: {deepest}, or choose a convolutional network"
        )
    _check_layout(name, body, info.channels())
    return body


def _check_layout(name: str, body: nn.Module, channels: list[int]) -> None:
    with torch.no_grad():
        maps = body.eval()(torch.zeros(1, 3, 224, 224))
    body.train()
    if [feature.shape[1] for feature in maps] != list(channels):
        raise ConfigError(f"timm's {name} gives maps that are not (B, C, H, W): choose another network")


def _normalisation(options: BackboneOptions) -> tuple[Sequence[float], Sequence[float]]:
    if options.weights == WHEEL_WEIGHTS:
        return WHEEL_MEAN, WHEEL_STD
    card = timm.get_pretrained_cfg(timm_name(options.name))
    return (IMAGENET_MEAN, IMAGENET_STD) if card is None else (card.mean, card.std)


def _open_branches(backbone: Backbone) -> None:
    """Set norms that start at zero (residual branches of timm) to one: frozen, they would stay shut."""
    for module in backbone.modules():
        if isinstance(module, NORM_LAYERS) and isinstance(module.weight, Tensor) and not module.weight.any():
            nn.init.ones_(module.weight)


def _fill_timm(backbone: TimmBackbone, options: BackboneOptions) -> None:
    """Fill the feature network from a state of the whole timm model, or of this backbone."""
    if options.weights == WHEEL_WEIGHTS:
        state, source = read_wheel(), WHEEL_WEIGHTS
    else:
        state, source = _backbone_part(read_state(Path(options.weights))), options.weights
    if options.name == DEEP_STEM:
        state = from_semseg(state)
    own = backbone.state_dict()
    if any(name in own for name in state):
        load_exactly(backbone, state, source=source)
        return
    with torch.device("meta"):
        whole = timm.create_model(timm_name(options.name), pretrained=False)
    renamed, unused = _feature_names(list(whole.state_dict()), own)
    state = {renamed.get(name, name): value for name, value in state.items()}
    load_exactly(backbone, state, source=source, ignored=unused)


def _feature_names(whole: list[str], own: Mapping[str, Tensor]) -> tuple[dict[str, str], set[str]]:
    """Names of the whole model -> names in the feature network; and those without a place there."""
    renamed: dict[str, str] = {}
    for name in whole:
        for candidate in (name, name.replace(".", "_", 1), f"model.{name}"):
            if f"body.{candidate}" in own:
                renamed[name] = f"body.{candidate}"
                break
    return renamed, set(whole) - set(renamed)


def _backbone_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's share of a checkpoint of ours, or the state itself when it has no such names."""
    prefix = "backbone."
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return part or state
