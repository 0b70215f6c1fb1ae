"""PSPNet: its layers as pop.md 2.1 has them, over any backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anyshot.errors import ConfigError
from anyshot.nets.backbones import build_backbone
from anyshot.nets.pspnet import BINS, PspDecoder, PspNet
from anyshot.options import BackboneOptions


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def network(name: str = "resnet18", **changes: Any) -> PspNet:
    fields = {"name": name, "freeze_norm": False, "frozen_stages": 0, **changes}
    return PspNet(backbone=build_backbone(BackboneOptions.model_validate(fields)), channels=12)


def plain_decoder(decoder: PspDecoder, x: torch.Tensor) -> torch.Tensor:
    """In words: pool, 1x1, norm, ReLU, up; [bins, x]; 3x3, norm, ReLU, 1x1 with bias."""
    parts = []
    for cells, stage in zip(BINS, decoder.stages, strict=True):
        conv, norm = stage.get_submodule("1"), stage.get_submodule("2")
        y = F.relu(norm(conv(F.adaptive_avg_pool2d(x, cells))))
        parts.append(F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False))
    first, norm, _, last = decoder.bottleneck
    y = F.relu(norm(first(torch.cat([*parts, x], dim=1))))
    return F.conv2d(y, last.weight, last.bias)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (6, 6), (13, 8)])
def test_decoder(size: tuple[int, int]) -> None:
    decoder = PspDecoder(inputs=10, channels=4)
    decoder.train()(torch.randn(4, 10, 9, 9))
    decoder.eval()
    deepest = torch.randn(2, 10, *size)
    with torch.no_grad():
        feature = decoder(deepest)
        torch.testing.assert_close(feature, plain_decoder(decoder, deepest))
    assert feature.shape == (2, 4, *size)
    assert (feature < 0).any()
    assert (feature > 0).any()


def test_names_are_the_released_ones() -> None:
    decoder = PspDecoder(inputs=10, channels=4)
    layers = {name.rpartition(".")[0] for name in decoder.state_dict()}
    assert layers == {
        *(f"stages.{index}.{part}" for index in range(4) for part in (1, 2)),
        *(f"bottleneck.{part}" for part in (0, 1, 3)),
    }
    biased = {name for name, layer in decoder.named_modules() if isinstance(layer, nn.Conv2d) and
              layer.bias is not None}  # fmt: skip
    assert biased == {"bottleneck.3"}
    assert not any(isinstance(layer, nn.Dropout | nn.Dropout2d) for layer in decoder.modules())


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
def test_any_backbone(name: str, stride: int) -> None:
    model = network(name, output_stride=stride)
    images = torch.randn(2, 3, 65, 50)
    feature = model.train()(images)
    assert feature.shape == (2, 12, -(-65 // stride), -(-50 // stride))
    for layer in model.modules():  # timm lets residual branches start at zero
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    model(images).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad.any() for parameter in model.pyramid.parameters())  # type: ignore[union-attr]


def test_one_image_cannot_be_trained_on() -> None:
    """6.2-r; it can be segmented, and trained on while the norms are frozen."""
    model = network()
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(ConfigError, match=r"batch of 1 image.*Set `batch_size` to 2 or more"):
        model.train()(image)
    model.eval()
    assert model(image).shape == (1, 12, 8, 8)
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    model(image).mean().backward()
