"""ResNet-38 against the specification's numbers (retab.md 2.1, 7.15), on the meta device where it is big."""

import pytest
import torch
from torch import Tensor, nn

from anyshot.nets.backbones import build_backbone
from anyshot.nets.resnet38 import ResNet38
from anyshot.options import BackboneOptions


@pytest.fixture(scope="module")
def published() -> ResNet38:
    with torch.device("meta"):
        return ResNet38().eval()


def multiplications(network: nn.Module, height: int, width: int) -> tuple[int, list[Tensor]]:
    """Multiply-accumulates of all convolutions for one image, and the feature maps."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)
        total += output[0].numel() * layer.weight[0].numel()

    hooks = [
        layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, nn.Conv2d)
    ]
    with torch.no_grad():
        maps = network(torch.zeros(1, 3, height, width, device="meta"))
    for hook in hooks:
        hook.remove()
    return total, maps


def test_weights_and_multiplications(published: ResNet38) -> None:
    weights = sum(layer.weight.numel() for layer in published.modules() if isinstance(layer, nn.Conv2d))
    assert round(weights / 1e6, 2) == 105.02
    assert round(multiplications(published, 448, 448)[0] / 1e9, 1) == 399.1
    assert round(multiplications(published, 376, 504)[0] / 1e9, 1) == 376.8


def test_taps(published: ResNet38) -> None:
    _, maps = multiplications(published, 375, 500)
    assert [tuple(tap.shape[1:]) for tap in maps] == [
        (256, 94, 125),
        (512, 47, 63),
        (1024, 47, 63),
        (4096, 47, 63),
    ]
    assert published.channels == [256, 512, 1024, 4096]
    assert published.reductions == [4, 8, 8, 8]


def test_names_are_the_checkpoints_names(published: ResNet38) -> None:
    names = {
        name.removesuffix(".weight") for name, _ in published.named_parameters() if name.endswith(".weight")
    }
    basic = {"bn_branch2a", "conv_branch2a", "bn_branch2b1", "conv_branch2b1"}
    expected = {"conv1a", "bn7"}
    for stage, count in {"b2": 3, "b3": 3, "b4": 6, "b5": 3, "b6": 1, "b7": 1}.items():
        for index in range(count):
            block = stage if index == 0 else f"{stage}_{index}"
            layers = set(basic)
            if index == 0:
                layers.add("conv_branch1")
            if stage in ("b6", "b7"):
                layers |= {"bn_branch2b2", "conv_branch2b2"}
            expected |= {f"{block}.{layer}" for layer in layers}
    assert names == expected
    assert not [name for name, _ in published.named_parameters() if "conv" in name and name.endswith("bias")]


def test_strides_and_dilations(published: ResNet38) -> None:
    convolutions = {name: layer for name, layer in published.named_modules() if isinstance(layer, nn.Conv2d)}
    strided = {name for name, layer in convolutions.items() if layer.stride == (2, 2)}
    assert strided == {
        f"{block}.{layer}" for block in ("b2", "b3", "b4") for layer in ("conv_branch2a", "conv_branch1")
    }
    dilated = {name: layer.dilation[0] for name, layer in convolutions.items() if layer.dilation != (1, 1)}
    assert dilated == {
        "b5.conv_branch2b1": 2,
        "b5_1.conv_branch2a": 2,
        "b5_1.conv_branch2b1": 2,
        "b5_2.conv_branch2a": 2,
        "b5_2.conv_branch2b1": 2,
        "b6.conv_branch2b1": 4,
        "b7.conv_branch2b1": 4,
    }
    assert all(
        layer.padding == (layer.dilation if layer.kernel_size == (3, 3) else (0, 0))
        for layer in convolutions.values()
    )


def test_a_block_by_hand() -> None:
    """Pre-activation: an identity shortcut takes x, a convolved one u = ReLU(BN(x))."""
    torch.manual_seed(0)
    network = ResNet38(width=0.0625).eval()
    x = torch.randn(1, 8, 5, 5)

    identity = network.get_submodule("b2_1")
    out, u = identity(x)
    assert torch.equal(u, torch.relu(identity.get_submodule("bn_branch2a")(x)))
    branch = torch.relu(identity.get_submodule("bn_branch2b1")(identity.get_submodule("conv_branch2a")(u)))
    assert torch.equal(out, x + identity.get_submodule("conv_branch2b1")(branch))

    convolved = network.get_submodule("b3")
    out, u = convolved(x)
    branch = torch.relu(convolved.get_submodule("bn_branch2b1")(convolved.get_submodule("conv_branch2a")(u)))
    expected = convolved.get_submodule("conv_branch1")(u) + convolved.get_submodule("conv_branch2b1")(branch)
    assert torch.equal(out, expected)


def test_dropout_is_on_in_training_with_frozen_norms_and_off_in_evaluation() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneOptions(name="resnet38", width=0.0625))
    rates = {name: layer.p for name, layer in backbone.named_modules() if isinstance(layer, nn.Dropout2d)}
    assert sorted(rates.values()) == [0.3, 0.3, 0.5, 0.5]
    assert {name.partition(".")[0]: rate for name, rate in rates.items()} == {"b6": 0.3, "b7": 0.5}
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        trained = [backbone.train().features(images) for _ in range(2)]
        evaluated = [backbone.eval().features(images) for _ in range(2)]
    # T4 and T5 lie before the first dropout.
    assert torch.equal(trained[0][1], trained[1][1])
    assert torch.equal(trained[0][2], trained[1][2])
    assert not torch.equal(trained[0][3], trained[1][3])
    assert torch.equal(evaluated[0][3], evaluated[1][3])


def test_published_freezing() -> None:
    backbone = build_backbone(
        BackboneOptions(name="resnet38", width=0.0625, freeze_norm=True, frozen_stages=2)
    )
    trained = {name.partition(".")[0] for name, value in backbone.named_parameters() if value.requires_grad}
    frozen_convolutions = {
        name.partition(".")[0]
        for name, value in backbone.named_parameters()
        if "conv" in name and not value.requires_grad
    }
    assert frozen_convolutions == {"conv1a", "b2", "b2_1", "b2_2"}
    assert trained == {
        "b3",
        "b3_1",
        "b3_2",
        *[f"b4{k}" for k in ("", "_1", "_2", "_3", "_4", "_5")],
        "b5",
        "b5_1",
    } | {
        "b5_2",
        "b6",
        "b7",
    }


def test_scale_of_an_untrained_network_is_kept() -> None:
    """Also with norms frozen at the identity, so that small networks can be trained from scratch."""
    torch.manual_seed(0)
    network = ResNet38(width=0.25).eval()
    with torch.no_grad():
        taps = network.features(torch.randn(1, 3, 96, 96))
    assert all(0.1 < float(tap.std()) < 10 for tap in taps)
