"""`resnet50_v2` against a plain network in the words of pop.md 2.1, filled from a file in semseg's names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anyshot.errors import WeightsError
from anyshot.nets.backbones import build_backbone
from anyshot.nets.contract import Backbone
from anyshot.nets.deep_stem import from_semseg, semseg_name
from anyshot.options import BackboneOptions

BLOCKS, WIDTHS, EXPANSION = (3, 4, 6, 3), (64, 128, 256, 512), 4
STRIDES = (1, 2, 1, 1)
DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}
STEM = (("1", 3, 64), ("2", 64, 64), ("3", 64, 128))


def options(**changes: object) -> BackboneOptions:
    fields = {"name": "resnet50_v2", "freeze_norm": False, "frozen_stages": 0, **changes}
    return BackboneOptions.model_validate(fields)


def semseg_state() -> dict[str, Tensor]:
    """A file's content: random weights, running statistics that are not at rest, and a classifier."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}

    def layer(conv: str, norm: str, outputs: int, inputs: int, size: int) -> None:
        state[f"{conv}.weight"] = torch.randn(outputs, inputs, size, size) * (2 / (inputs * size**2)) ** 0.5
        state[f"{norm}.weight"] = torch.rand(outputs) + 0.5
        state[f"{norm}.bias"] = torch.randn(outputs) * 0.1
        state[f"{norm}.running_mean"] = torch.randn(outputs) * 0.1
        state[f"{norm}.running_var"] = torch.rand(outputs) + 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    for number, inputs, outputs in STEM:
        layer(f"conv{number}", f"bn{number}", outputs, inputs, 3)
    inputs = 128
    for stage, (count, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
        for index in range(count):
            name = f"layer{stage}.{index}"
            layer(f"{name}.conv1", f"{name}.bn1", width, inputs, 1)
            layer(f"{name}.conv2", f"{name}.bn2", width, width, 3)
            layer(f"{name}.conv3", f"{name}.bn3", width * EXPANSION, width, 1)
            if index == 0:
                layer(f"{name}.downsample.0", f"{name}.downsample.1", width * EXPANSION, inputs, 1)
            inputs = width * EXPANSION
    state["fc.weight"], state["fc.bias"] = torch.randn(1000, 2048), torch.randn(1000)
    return state


def plain_maps(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The four stages' maps of images, norms in evaluation mode, output stride 8."""

    def norm(name: str, y: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(y, mean, var, weight, bias)

    for number, _, _ in STEM:
        stride = 2 if number == "1" else 1
        x = F.conv2d(x, state[f"conv{number}.weight"], stride=stride, padding=1)
        x = F.relu(norm(f"bn{number}", x))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    maps = []
    for stage, count in enumerate(BLOCKS):
        dilation = DILATIONS[8][stage]
        for index in range(count):
            name, stride = f"layer{stage + 1}.{index}", STRIDES[stage] if index == 0 else 1
            y = F.relu(norm(f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"])))
            y = F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=dilation, dilation=dilation)
            y = norm(f"{name}.bn3", F.conv2d(F.relu(norm(f"{name}.bn2", y)), state[f"{name}.conv3.weight"]))
            if index == 0:
                x = norm(
                    f"{name}.downsample.1", F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                )
            x = F.relu(x + y)
        maps.append(x)
    return maps


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return semseg_state()


@pytest.mark.slow
def test_it_computes_what_the_specification_says(state: dict[str, Tensor], tmp_path: Path) -> None:
    """Weights from semseg's file, as DataParallel and torch before 1.6 would have written it."""
    path = tmp_path / "resnet50_v2.pth"
    theirs = {f"module.{name}": value for name, value in state.items()}
    torch.save(theirs, path, _use_new_zipfile_serialization=False)
    backbone = build_backbone(options(weights=str(path))).eval()
    images = torch.randn(1, 3, 65, 81)
    with torch.no_grad():
        found, expected = backbone.features(images), plain_maps(state, images)
    assert [tuple(one.shape[1:]) for one in found] == [
        (256, 17, 21), (512, 9, 11), (1024, 9, 11), (2048, 9, 11)
    ]  # fmt: skip
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * other.abs().max().item(), rtol=0)


def test_an_incomplete_checkpoint_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A released checkpoint of POP is a source of weights, too; here it lacks two tensors, and no more."""
    missing = ("fc.weight", "fc.bias", "bn3.bias", "layer4.2.conv3.weight")
    theirs = {f"module.backbone.{name}": value for name, value in state.items() if name not in missing}
    torch.save({**theirs, "module.base_emb": torch.zeros(15, 512)}, tmp_path / "best.pth")
    expected = r"\(2 missing: body\.bn1\.bias, body\.layer4\.2\.conv3\.weight\)"
    with torch.device("meta"), pytest.raises(WeightsError, match=expected):
        build_backbone(options(weights=str(tmp_path / "best.pth")))


def test_names_map_both_ways(state: dict[str, Tensor]) -> None:
    ours = from_semseg(state)
    assert len(ours) == len(state)
    assert [semseg_name(f"body.{name}") for name in ours] == list(state)
    assert from_semseg(ours) == ours
    with torch.device("meta"):
        own = build_backbone(options()).state_dict()
    assert {name: value.shape for name, value in own.items()} == {
        f"body.{name}": value.shape for name, value in ours.items() if not name.startswith("fc.")
    }


def convolutions(backbone: Backbone, stage: int) -> list[nn.Conv2d]:
    layers = backbone.get_submodule(f"body.layer{stage}").modules()
    return [layer for layer in layers if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_every_convolution(stride: int) -> None:
    """Size, stride, dilation; no bias; the first block is dilated like the others."""
    with torch.device("meta"):
        backbone = build_backbone(options(output_stride=stride))
    assert backbone.reductions == {8: [4, 8, 8, 8], 16: [4, 8, 16, 16], 32: [4, 8, 16, 32]}[stride]
    stem = [layer for layer in backbone.get_submodule("body.conv1").modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels, layer.stride[0]) for layer in stem] == [
        (3, 64, 2), (64, 64, 1), (64, 128, 1)
    ]  # fmt: skip
    for stage, dilation in enumerate(DILATIONS[stride], start=1):
        layers = convolutions(backbone, stage)
        assert all(layer.bias is None for layer in layers)
        strided = stage > 1 and {2: 8, 3: 16, 4: 32}[stage] <= stride
        for layer in layers:
            large = layer.kernel_size == (3, 3)
            assert layer.dilation == ((dilation, dilation) if large else (1, 1))
            assert layer.padding == ((dilation, dilation) if large else (0, 0))
        # of a first block, the 3x3 convolution and the projection of the shortcut
        assert sum(layer.stride == (2, 2) for layer in layers) == (2 if strided else 0)
        first = backbone.get_submodule(f"body.layer{stage}.0.conv2")
        assert first.stride == ((2, 2) if strided else (1, 1))


def test_sizes_of_473_px() -> None:
    """pop.md 2.1: 237, 119, 60, 60, 60."""
    with torch.device("meta"):
        backbone = build_backbone(options()).eval()
        images = torch.zeros(1, 3, 473, 473)
        stem = backbone.get_submodule("body.conv1")(images)
        maps = backbone.features(images)
    assert stem.shape == (1, 128, 237, 237)
    assert [one.shape[-1] for one in maps] == [119, 60, 60, 60]
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 23_631_808


def test_stages_are_stem_and_layers() -> None:
    with torch.device("meta"):
        backbone = build_backbone(options(frozen_stages=2))
    stages = backbone.stages()
    staged = [id(p) for stage in stages for module in stage for p in module.parameters(recurse=False)]
    assert len(stages) == 5
    assert sorted(staged) == sorted(map(id, backbone.parameters()))
    frozen = {name.split(".")[1] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
