"""POP's network: its parts, and its parameter groups in the training loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from anyshot.engine.train import _optimiser
from anyshot.nets.pspnet import PspNet
from anyshot.options import OptimiserOptions
from anyshot.pop.head import PrototypeHead
from anyshot.pop.networks import PopNet, build_pop_net, parameter_groups
from anyshot.pop.options import BaseOptimiser, NovelOptimiser

BACKBONE = {
    "name": "test_resnet",
    "weights": "none",
    "output_stride": 8,
    "freeze_norm": False,
    "frozen_stages": 0,
}


def options(**changes: Any) -> dict[str, Any]:
    return {"backbone": BACKBONE, "channels": 16, "base": 3, "novel": 0, "background": "residual", **changes}


@pytest.fixture
def model() -> PopNet:
    torch.manual_seed(0)
    return build_pop_net(options())


@pytest.mark.parametrize("novel", [0, 2])
@pytest.mark.parametrize("size", [(64, 64), (65, 90)])
def test_logits_are_the_head_of_the_features(novel: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = build_pop_net(options(novel=novel)).eval()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        features, logits = model.features(images), model(images)
    assert features.shape == (2, 16, -(-size[0] // 8), -(-size[1] // 8))
    assert (features < 0).any()
    assert logits.shape == (2, 4 + novel, *features.shape[2:])
    assert torch.equal(logits, model.head(features))


def test_features_under_autocast_give_logits_in_float32(model: PopNet) -> None:
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        images = torch.randn(1, 3, 64, 64)
        features, logits = model.features(images), model(images)
    assert (features.dtype, logits.dtype) == (torch.bfloat16, torch.float32)
    with torch.no_grad():
        assert torch.equal(logits, model.head(features))


def test_ablation_of_the_background() -> None:
    model = build_pop_net(options(background="feature"))
    assert model.head.background == "feature"


def test_channels_must_agree(model: PopNet) -> None:
    with pytest.raises(ValueError, match="features of 16 channels, prototypes of 8"):
        PopNet(decoder=model.decoder, head=PrototypeHead(channels=8, base=3))


def test_groups_of_stage_1(model: PopNet) -> None:
    """2.3: backbone; biases elsewhere without decay; the rest, norms' scales and prototypes included."""
    optimiser = _optimiser(model, parameter_groups(model, BaseOptimiser()), BaseOptimiser())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in optimiser.param_groups]
    assert [(g["scale"], g["weight_decay"]) for g in optimiser.param_groups] == [
        (1, 1e-4), (10, 0), (10, 1e-4)
    ]  # fmt: skip
    assert sum(map(len, groups)) == len(names)
    assert all(name.startswith("decoder.backbone.") for name in groups[0])
    assert any(name.endswith("bn1.bias") for name in groups[0])
    assert sorted(groups[1]) == [
        "decoder.pyramid.bottleneck.1.bias", "decoder.pyramid.bottleneck.3.bias",
        *(f"decoder.pyramid.stages.{index}.2.bias" for index in range(4)),
    ]  # fmt: skip
    assert {"head.base_emb", "head.classifier.0.weight", "decoder.pyramid.stages.0.2.weight"} < set(groups[2])
    assert not any("bias" in name or "backbone" in name for name in groups[2])


def test_a_rate_of_its_own_for_the_prototypes(model: PopNet) -> None:
    """`prototype_multiplier`: prototypes and classifier leave the third group for a fourth."""
    plain = parameter_groups(model, BaseOptimiser())
    groups = parameter_groups(model, BaseOptimiser(), prototype_multiplier=4.0)
    assert [group["scale"] for group in groups] == [1, 10, 10, 40]
    assert {id(p) for p in groups[3]["params"]} == {id(p) for p in model.head.parameters()}
    assert [len(group["params"]) for group in groups[:2]] == [len(group["params"]) for group in plain[:2]]
    assert len(groups[2]["params"]) + len(groups[3]["params"]) == len(plain[2]["params"])


def test_groups_of_stage_2(model: PopNet) -> None:
    """2.4: one group at 1e-2, with decay."""
    head = model.head.with_novel(2)
    head.freeze_base()
    for settings in (NovelOptimiser(), OptimiserOptions(learning_rate=1e-3, weight_decay=1e-4)):
        optimiser = _optimiser(head, parameter_groups(head, settings), settings)
        (group,) = optimiser.param_groups
        assert len(group["params"]) == 4
        assert settings.learning_rate * group["scale"] == pytest.approx(1e-2)
        assert group["weight_decay"] == 1e-4


def test_saved_and_loaded(model: PopNet) -> None:
    extended = PopNet(decoder=model.decoder, head=model.head.with_novel(2)).eval()
    again = build_pop_net(options(novel=2)).eval()
    again.load_state_dict(extended.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), extended(images))


def test_the_exported_graph_is_small(model: PopNet) -> None:
    """5.3 item 9: the collapsed head has fewer nodes than classes."""
    features = (torch.randn(1, 16, 6, 7),)
    head = model.head.with_novel(500)
    exported = torch.export.export(head, features)
    assert len(exported.graph.nodes) < head.novel
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(*features), head(*features))


def test_decoder_is_a_pspnet(model: PopNet) -> None:
    assert isinstance(model.decoder, PspNet)
    assert {name.split(".")[0] for name in model.decoder.state_dict()} == {"backbone", "pyramid"}
    assert all(isinstance(one, nn.Module) for one in (model.decoder.backbone, model.decoder.pyramid))
