"""Depthwise convolutions with gradients of their own are torch's, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anyshot.nets.backbones import build_backbone
from anyshot.nets.depthwise import Depthwise, is_depthwise, train_fast
from anyshot.options import BackboneOptions


def pair(
    kernel: int, dilation: int, padding: int, *, channels: int = 6, bias: bool = False
) -> tuple[nn.Conv2d, Depthwise]:
    """The same weights in torch's layer and in ours, float64."""
    torch.manual_seed(kernel + dilation)
    options = {"padding": padding, "dilation": dilation, "groups": channels, "bias": bias}
    plain = nn.Conv2d(channels, channels, kernel, **options).double()
    ours = Depthwise(channels, channels, kernel, **options).double()
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def results(layer: nn.Module, images: Tensor) -> list[Tensor]:
    """Output, gradient of the images, gradient of the weights."""
    images = images.clone().requires_grad_()
    found = layer(images)
    weights = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view_as(found)
    return [found, *torch.autograd.grad((found * weights).sum(), [images, *layer.parameters()])]


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding"),
    [(3, 1, 1), (5, 1, 2), (3, 2, 2), (5, 2, 4), (5, 4, 8), (3, 3, 0), (3, 2, 3), (3, 1, 2), (1, 1, 0)],
)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients(
    kernel: int, dilation: int, padding: int, bias: bool, layout: torch.memory_format
) -> None:
    plain, ours = pair(kernel, dilation, padding, bias=bias)
    assert is_depthwise(plain)
    images = torch.randn(2, 6, 11, 13, dtype=torch.float64).to(memory_format=layout)
    for found, expected in zip(results(ours, images), results(plain, images), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_gradients_by_differences() -> None:
    _, ours = pair(3, 2, 2, channels=2, bias=True)
    images = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours, (images,))


def test_only_the_gradients_that_are_wanted() -> None:
    _, ours = pair(3, 2, 2)
    ours.weight.requires_grad_(False)
    images = torch.randn(1, 6, 7, 7, dtype=torch.float64, requires_grad=True)
    ours(images).sum().backward()
    assert images.grad is not None
    assert ours.weight.grad is None


def test_in_inference_it_is_torchs_own() -> None:
    plain, ours = pair(5, 2, 4)
    images = torch.randn(1, 6, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(ours(images), plain(images))
        assert ours(images).grad_fn is None


def test_a_backbone_keeps_its_parameters_and_its_features() -> None:
    options = BackboneOptions(name="tf_efficientnet_lite0", weights="none", output_stride=16, frozen_stages=0)
    torch.manual_seed(0)
    made = build_backbone(options).train()
    replaced = [name for name, module in made.named_modules() if isinstance(module, Depthwise)]
    assert len(replaced) == 13  # all but the three of stride 2
    assert not any(is_depthwise(module) for module in made.modules())
    images = torch.randn(2, 3, 64, 64)
    trained = made(images)[-1]
    with torch.no_grad():
        torch.testing.assert_close(made(images)[-1], trained, atol=1e-4, rtol=1e-4)
    names = set(made.state_dict())
    assert {f"{name}.weight" for name in replaced} <= names
    trained.square().mean().backward()
    weights = dict(made.named_parameters())[f"{replaced[0]}.weight"]
    assert weights.grad is not None
    assert weights.grad.abs().sum() > 0


def test_in_half_precision_by_autocast_it_is_torchs_own_to_rounding() -> None:
    """Gradients arrive in bfloat16 there, weights and images stay in float32."""
    plain, ours = (layer.float() for layer in pair(3, 2, 2))
    images = torch.randn(1, 6, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = results(ours, images), results(plain, images)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=0.1, rtol=0.05)


def test_other_convolutions_are_left_alone() -> None:
    others = [
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=3, groups=4),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="circular"),
        nn.Conv2d(4, 4, (3, 1), groups=4),
        nn.Conv2d(1, 1, 3),
    ]
    body = nn.Sequential(
        *others, nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False)
    )
    train_fast(body)
    assert [type(layer) for layer in body] == [nn.Conv2d] * len(others) + [Depthwise] * 2
