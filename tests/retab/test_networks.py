"""The four networks: published sizes (retab.md 7.15), shapes, training groups, boundary upsampling."""

from typing import Any

import pytest
import torch
from torch import nn

from anyshot.errors import ConfigError
from anyshot.nets.resnet38 import ResNet38
from anyshot.options import OptimiserOptions
from anyshot.retab.networks import (
    AffinityNet,
    BoundaryNet,
    ClassificationNet,
    SegmentationNet,
    build_network,
    build_segmentation,
    count_parameters,
    parameter_groups,
    upsample_boundary,
)
from anyshot.retab.options import Segmentation

TINY = {"name": "resnet38", "width": 0.0625}
HEADS: dict[str, dict[str, Any]] = {
    "retab_classifier": {"classes": 20, "dropout": 0.5},
    "retab_boundary": {"branch_channels": [8, 8, 16], "initial_gain": 4.0},
    "retab_affinity": {"branch_channels": [8, 8, 16], "initial_gain": 4.0},
    "retab_segmentation": {"classes": 21, "head_channels": 16, "head_dilation": 12, "skip_channels": 0},
}


def tiny(name: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_network({"name": name, "options": {"backbone": TINY, **HEADS[name], **changes}}, load=False)


def head_size(network: nn.Module) -> int:
    return count_parameters(network) - count_parameters(network.backbone)  # type: ignore[arg-type]


def test_published_heads() -> None:
    """7.15: 81,920 weights for the CAMs, 1,212,864 for boundaries, 1,413,120 for affinities; no biases."""
    with torch.device("meta"):
        backbone = ResNet38()
        branches = (64, 128, 256)
        networks = {
            81_920: ClassificationNet(backbone=backbone, classes=20),
            1_212_864: BoundaryNet(backbone=backbone, channels=branches),
            1_413_120: AffinityNet(backbone=backbone, channels=branches),
        }
    for size, network in networks.items():
        assert head_size(network) == size
        assert not [name for name, _ in network.named_parameters() if not name.startswith("backbone.")
                    and name.endswith("bias")]  # fmt: skip


def test_published_segmentation_head() -> None:
    """retab.md 4: 3x3 4096 -> 512 and 3x3 512 -> 21, both with dilation 12 and biases."""
    options = Segmentation()
    with torch.device("meta"):
        network = SegmentationNet(
            backbone=ResNet38(), classes=21, channels=options.head_channels, dilation=options.head_dilation
        )
    assert head_size(network) == 4096 * 512 * 9 + 512 + 512 * 21 * 9 + 21
    for layer in (network.head, network.classifier):
        assert layer.dilation == layer.padding == (12, 12)
        assert layer.bias is not None


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 50), (8, 8)])
def test_shapes(height: int, width: int) -> None:
    """Everything at stride 8, ceil(side / 8) cells."""
    images = torch.randn(2, 3, height, width)
    h, w = -(-height // 8), -(-width // 8)
    with torch.no_grad():
        classifier = tiny("retab_classifier").eval()
        assert classifier(images).shape == (2, 20)
        maps = classifier.activation_maps(images)  # type: ignore[operator]
        assert maps.shape == (2, 20, h, w)
        assert maps.min() >= 0
        assert tiny("retab_boundary").eval()(images).shape == (2, 1, h, w)
        assert tiny("retab_affinity").eval()(images).shape == (2, 32, h, w)
        assert tiny("retab_segmentation").eval()(images).shape == (2, 21, h, w)
        assert tiny("retab_segmentation", skip_channels=4).eval()(images).shape == (2, 21, h, w)


def test_logits_are_the_mean_of_the_maps() -> None:
    """The CAM is the classifier's own weight applied before the average (retab.md 2.4)."""
    classifier = tiny("retab_classifier").eval()
    images = torch.randn(2, 3, 40, 48)
    with torch.no_grad():
        deepest = classifier.backbone.features(images)[-1]  # type: ignore[union-attr,operator]
        logits = classifier.fc8(deepest).mean(dim=(2, 3))  # type: ignore[operator]
        assert torch.allclose(classifier(images), logits, atol=1e-5)


@pytest.mark.parametrize("name", ["retab_boundary", "retab_affinity"])
def test_initial_gain(name: str) -> None:
    """retab.md 2.6: Xavier uniform, |w| <= gain * sqrt(6 / (in + out)); the names are the published ones."""
    assert {key for key in tiny(name).state_dict() if not key.startswith("backbone.")} == {
        "f8_3.weight", "f8_4.weight", "f8_5.weight", "f9.weight"}  # fmt: skip
    for gain in (1.0, 4.0):
        weight = tiny(name, initial_gain=gain).f9.weight
        bound = gain * (6 / (weight.shape[0] + weight.shape[1])) ** 0.5
        assert 0.8 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize("name", list(HEADS))
def test_groups_of_the_optimiser(name: str) -> None:
    """retab.md 2.2: head x10, biases twice that, decay on weights, the frozen start in no group."""
    network = tiny(name)
    options = OptimiserOptions()
    groups = parameter_groups(network, options)
    by_parameter = {id(p): group for group in groups for p in group["params"]}
    for path, parameter in network.named_parameters():
        if not parameter.requires_grad:
            assert path.startswith("backbone.")
            assert id(parameter) not in by_parameter
            continue
        group = by_parameter.pop(id(parameter))
        scale = (1 if path.startswith("backbone.") else 10) * (2 if path.endswith("bias") else 1)
        assert group["scale"] == scale
        assert group["weight_decay"] == (5e-4 if parameter.ndim > 1 else 0)
    assert not by_parameter
    frozen = {
        path.split(".")[1] for path, p in network.named_parameters() if not p.requires_grad and p.ndim > 1
    }
    assert frozen == {"conv1a", "b2", "b2_1", "b2_2"}
    assert network.train().backbone.bn7.training is False  # type: ignore[union-attr]


def test_gradients_reach_every_trained_weight() -> None:
    for name in HEADS:
        network = tiny(name).train()
        network(torch.randn(2, 3, 48, 48)).square().mean().backward()
        missing = [path for path, p in network.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, name


def test_boundary_is_upsampled_with_aligned_corners() -> None:
    """P25: the corner cells are the corner pixels."""
    logits = torch.tensor([[[[0.0, 1], [2, 3]]]])
    full = upsample_boundary(logits, (5, 9))
    assert full.shape == (1, 5, 9)
    assert [full[0, y, x].item() for y in (0, 4) for x in (0, 8)] == [0, 1, 2, 3]
    assert full[0, 0].tolist() == pytest.approx([k / 8 for k in range(9)])


def test_wrong_networks_are_named() -> None:
    with pytest.raises(ConfigError, match="retab_nothing"):
        build_network({"name": "retab_nothing", "options": {"backbone": TINY}}, load=False)
    built = build_segmentation({"backbone": TINY, **HEADS["retab_segmentation"]})
    assert isinstance(built, SegmentationNet)
