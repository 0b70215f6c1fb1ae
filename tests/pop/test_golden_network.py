"""The golden cases of pop.md 7.2 about training and the network: G12 schedule, G14 freezing, G15 sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anyshot.engine import schedules
from anyshot.nets.backbones import build_backbone
from anyshot.nets.pspnet import PspNet
from anyshot.options import BackboneOptions
from anyshot.pop.head import PrototypeHead
from anyshot.pop.heads import OnFrozen
from anyshot.pop.networks import PopNet, build_pop_net, parameter_groups
from anyshot.pop.options import BaseOptimiser, NovelUpdate
from anyshot.pop.update import update_loss


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 1e-3), (1, 9.990999549835e-4), (500, 5.358867312681e-4), (999, 1.995262314969e-6)]
)
def test_schedule(step: int, rate: float) -> None:
    """G12, with the published options; the groups of the head have ten times the rate."""
    options = BaseOptimiser()
    assert options.learning_rate * schedules.schedule_of(options)(step, 1000) == pytest.approx(
        rate, rel=1e-12
    )
    scales = [group["scale"] for group in parameter_groups(small_net(), options)]
    assert [rate * scale for scale in scales] == pytest.approx([rate, 10 * rate, 10 * rate])


SMALL_NET = {
    "backbone": {"name": "test_resnet", "weights": "none", "output_stride": 8, "freeze_norm": False,
                 "frozen_stages": 0},
    "channels": 16,
    "base": 3,
    "novel": 0,
    "background": "residual",
}  # fmt: skip


def small_net() -> PopNet:
    torch.manual_seed(0)
    return build_pop_net(SMALL_NET)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_freezing() -> None:
    """G14: one step of stage 2 with weight decay and momentum, in training mode."""
    base = small_net()
    images = torch.randn(1, 2, 3, 64, 64)
    base.train()(images[0])  # running statistics that are not those of the start
    base.eval()
    head = base.head.with_novel(2, generator=torch.Generator().manual_seed(1))
    head.freeze_base()
    for name, value in head.classifier.state_dict().items():
        assert torch.equal(head.classifier_n.state_dict()[name], value)
    model = OnFrozen(head=head, encoder=base.decoder).train()
    with torch.no_grad():
        base_before, before, base_logits = state_of(base), state_of(head), base(images[0])[:, 1:]
    one_step(model, head, images)
    changed = {name for name, value in head.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"novel_emb", *(f"classifier_n.{index}.weight" for index in (0, 2, 4))}
    assert all(torch.equal(value, base_before[name]) for name, value in base.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model(images[0])[:, 1:4], base_logits)
        assert torch.equal(base(images[0])[:, 1:], base_logits)


def one_step(model: OnFrozen, head: PrototypeHead, images: Tensor) -> None:
    options = NovelUpdate()
    groups = [
        {"params": group["params"], "lr": options.optimiser.learning_rate * group["scale"]}
        for group in parameter_groups(model, options.optimiser)
        if group["params"]
    ]
    assert [(len(group["params"]), group["lr"]) for group in groups] == [(4, 1e-2)]
    optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-4)
    labels = torch.randint(0, 6, (1, 2, 64, 64), dtype=torch.uint8)
    update_loss(head, options)(model, {"image": images, "labels": labels}, 0)["loss"].backward()
    optimiser.step()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


PUBLISHED = BackboneOptions(name="resnet50_v2", freeze_norm=False, frozen_stages=0)


def test_parameter_counts() -> None:
    """G15: the numbers of 2.1."""
    with torch.device("meta"):
        decoder = PspNet(backbone=build_backbone(PUBLISHED))
        voc = PopNet(decoder=decoder, head=PrototypeHead(channels=512, base=15))
    assert count(decoder.backbone) == 23_631_808
    assert count(decoder.pyramid) == 23_336_448
    assert count(voc.head.classifier) == 524_800
    assert voc.head.base_emb.numel() == 512 * 15
    assert count(voc) == 47_500_736
    for classes, expected in (((15, 5), 527_360), ((60, 20), 535_040)):
        with torch.device("meta"):
            head = PrototypeHead(channels=512, base=classes[0], novel=classes[1])
        head.freeze_base()
        assert sum(value.numel() for value in head.parameters() if value.requires_grad) == expected


def test_output_shape() -> None:
    """G15, G8: a grid of 60 x 60 cells for 473 x 473 px."""
    with torch.device("meta"):
        decoder = PspNet(backbone=build_backbone(PUBLISHED)).eval()
        images = torch.zeros(2, 3, 473, 473)
        assert decoder(images).shape == (2, 512, 60, 60)
        for base, novel in ((15, 0), (15, 5), (60, 20)):
            model = PopNet(decoder=decoder, head=PrototypeHead(channels=512, base=base, novel=novel)).eval()
            assert model(images).shape == (2, 1 + base + novel, 60, 60)
