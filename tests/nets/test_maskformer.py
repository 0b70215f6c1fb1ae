"""MaskFormer: its parts as simformer.md 2.1 has them, over any backbone with a map of stride 4."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from reference import maskformer as plain
from torch import Tensor, nn

from anyshot.engine.parameter_groups import parameter_groups
from anyshot.engine.train import _optimiser
from anyshot.errors import ConfigError
from anyshot.nets.backbones import build_backbone
from anyshot.nets.contract import Backbone
from anyshot.nets.maskformer import MaskFormer, Proposals, sine_position
from anyshot.options import BackboneOptions
from anyshot.simformer.networks import UNDECAYED, SimFormer, build_simformer
from anyshot.simformer.options import JointOptimiser

SMALL = {"name": "test_resnet", "weights": "none", "output_stride": 32, "freeze_norm": False,
         "frozen_stages": 0}  # fmt: skip
SIZES = {"queries": 5, "width": 32, "layers": 2, "heads": 4, "feedforward": 12, "dropout": 0.1}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def network(*, classes: int = 3, backbone: dict[str, Any] | None = None, **changes: Any) -> MaskFormer:
    chosen = BackboneOptions.model_validate({**SMALL, **(backbone or {})})
    return MaskFormer(backbone=build_backbone(chosen), classes=classes, **{**SIZES, **changes})


def stirred(model: MaskFormer) -> MaskFormer:
    """No weight or bias at rest: zeros and ones would hide what they are multiplied with."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
            elif isinstance(module, nn.MultiheadAttention):
                module.in_proj_bias.normal_(std=0.3)
                module.out_proj.bias.normal_(std=0.3)
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.normal_(std=0.3)
    return model


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("classes", "numbers"), [(171, 10_264_748), (150, 10_259_351)])
def test_the_published_sizes(classes: int, numbers: int) -> None:
    """Case 7: parameter counts of 2.1; frozen norms leave 53,120 of ResNet-50's out."""
    options = {"backbone": {**SMALL, "name": "resnet50", "freeze_norm": True}, "classes": classes,
               "network": {}, "similarity": {"depth": 3, "norm": "batch", "window": 25}}  # fmt: skip
    model = build_simformer(options)
    backbone = model.maskformer.backbone
    assert count(backbone) == 23_508_032
    assert sum(p.numel() for p in backbone.parameters() if not p.requires_grad) == 53_120
    assert count(model.maskformer.pixel_decoder) == 7_540_480
    assert count(model.maskformer.predictor) == numbers
    assert round(count(model.maskformer) / 1e6, 2) == 41.31
    assert model.similarity is not None
    assert count(model.similarity) == 595_202


def test_sine_code() -> None:
    """Case 10."""
    code = sine_position(2, 3, channels=8)
    assert (code.shape, code.dtype) == ((8, 2, 3), torch.float32)
    expected = {
        (0, 1): [0.000002, -1, 0.031411, 0.999507, -0.866025, -0.500001, 0.041876, 0.999123],
        (1, 2): [-0.000003, 1, 0.062790, 0.998027, -0.000002, 1, 0.062790, 0.998027],
    }
    for (row, column), values in expected.items():
        torch.testing.assert_close(code[:, row, column], torch.tensor(values), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 4), (5, 3, 12), (20, 27, 256)])
def test_sine_code_number_by_number(height: int, width: int, channels: int) -> None:
    code = sine_position(height, width, channels=channels)
    expected = plain.sine_code(height, width, channels).float()
    torch.testing.assert_close(code, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (65, 90), (37, 130)])
@pytest.mark.parametrize(
    "backbone",
    [{}, {"output_stride": 16}, {"output_stride": 8}, {"name": "tf_efficientnet_lite0"}],
    ids=["stride 32", "stride 16", "stride 8", "efficientnet"],
)
def test_same_as_in_words(backbone: dict[str, Any], size: tuple[int, int]) -> None:
    model = stirred(network(backbone=backbone)).eval()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        found = model(images)
        features = model.backbone(images)
        deepest = backbone.get("output_stride", 32)
        used = [max(index for index, step in enumerate(model.backbone.reductions) if step == stride)
                for stride in (4, 8, 16, 32) if stride <= deepest]  # fmt: skip
        for image in range(2):
            maps = [features[index][image] for index in used]
            classes, masks = plain.proposals(model, maps)
            torch.testing.assert_close(found.class_logits[:, image], classes, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found.mask_logits[:, image], masks, rtol=1e-4, atol=1e-4)
            pixels = plain.pixel_embeddings(model, maps)
            torch.testing.assert_close(found.pixels[image], pixels, rtol=1e-4, atol=1e-4)
    rows, columns = (math.ceil(side / 4) for side in size)
    assert found.class_logits.shape == (2, 2, 5, 4)
    assert found.mask_logits.shape == (2, 2, 5, rows, columns)
    assert found.pixels.shape == (2, 32, rows, columns)


def test_the_last_layer_alone() -> None:
    model = network(layers=3).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        every, last = model(images), model(images, every_layer=False)
    assert (len(every.class_logits), len(last.class_logits)) == (3, 1)
    torch.testing.assert_close(last.class_logits, every.class_logits[-1:])
    torch.testing.assert_close(last.mask_logits, every.mask_logits[-1:])
    assert torch.equal(last.pixels, every.pixels)
    assert not torch.allclose(every.class_logits[0], every.class_logits[2])


def test_images_do_not_touch_each_other() -> None:
    model = network().eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        together, alone = model(images), model(images[1:2])
    for one, other in zip(together, alone, strict=True):
        axis = 0 if one is together.pixels else 1
        torch.testing.assert_close(one.narrow(axis, 1, 1), other, rtol=1e-4, atol=1e-5)


def scalar(found: Proposals) -> Tensor:
    return torch.stack([(part * torch.randn_like(part)).sum() for part in found]).sum()


def test_gradients_reach_everything() -> None:
    """All but the first self-attention's projections: its state is zero, so all values are one bias."""
    model = stirred(network(dropout=0.0)).train().double()
    scalar(model(torch.randn(2, 3, 64, 64, dtype=torch.float64))).backward()
    slopes = {name: p.grad for name, p in model.named_parameters()}
    still = [name for name, grad in slopes.items() if grad is None or grad.abs().max() < 1e-9]
    assert still == ["predictor.layers.0.self_attention.in_proj_weight"]
    assert all(grad is not None and grad.isfinite().all() for grad in slopes.values())


def test_a_layer_is_reached_by_its_own_outputs_and_later_ones() -> None:
    model = stirred(network(dropout=0.0)).train()
    found = model(torch.randn(2, 3, 64, 64))
    weights = [layer.expand.weight for layer in model.predictor.layers]
    for index, reached in enumerate([[True, False], [True, True]]):
        slopes = torch.autograd.grad(found.class_logits[index].sum(), weights, retain_graph=True)
        assert [bool(slope.any()) for slope in slopes] == reached


def test_initialisation() -> None:
    """2.1: bounds of uniform weights, reached; N(0, 1) queries; zero biases of convolutions."""
    model = network(width=64, queries=200, feedforward=300)
    predictor = model.predictor
    for layer in [*model.pixel_decoder.modules(), predictor.memory]:
        if isinstance(layer, nn.Conv2d):  # kaiming-uniform, a = 1: sqrt(3 / inputs of a cell)
            bound = math.sqrt(3 / layer.weight[0].numel())
            assert 0.98 * bound < layer.weight.abs().max() <= bound
            assert layer.bias is None or not layer.bias.any()
    biased = [name for name, layer in model.pixel_decoder.named_modules()
              if isinstance(layer, nn.Conv2d) and layer.bias is not None]  # fmt: skip
    assert biased == ["embed"]
    for block in predictor.layers:
        for name, parameter in block.named_parameters():
            if parameter.ndim == 2:  # xavier-uniform; queries, keys and values are one matrix
                bound = math.sqrt(6 / sum(parameter.shape))
                assert 0.98 * bound < parameter.abs().max() <= bound, name
    weight = predictor.queries.weight.detach()
    assert weight.shape == (200, 64)
    assert abs(float(weight.mean())) < 0.03
    assert abs(float(weight.std()) - 1) < 0.03
    for head in [predictor.classify, *predictor.mask_embed]:
        if isinstance(head, nn.Linear):  # PyTorch's own
            assert 0.95 / 8 < head.weight.abs().max() <= 1 / 8
            assert 0 < head.bias.abs().max() <= 1 / 8
    assert [type(part).__name__ for part in predictor.mask_embed] == ["Linear", "ReLU", "Linear", "ReLU",
                                                                      "Linear"]  # fmt: skip
    assert all(norm.num_groups == 32 for norm in model.modules() if isinstance(norm, nn.GroupNorm))


def test_where_dropout_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """2.1: on attention weights, both attention outputs, inside the feed-forward part and on its output."""
    model = network(layers=1)
    shapes: list[tuple[tuple[int, ...], float]] = []
    weights: list[float] = []
    attend = nn.functional.scaled_dot_product_attention

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        shapes.append((tuple(x.shape), p if training else 0.0))
        return x

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, p: float = 0.0, causal: bool = False,
                  **more: Any) -> Tensor:  # fmt: skip
        weights.append(p)
        return attend(q, k, v, mask, 0.0, causal, **more)

    monkeypatch.setattr(nn.functional, "dropout", dropout)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attention)
    images = torch.randn(2, 3, 64, 64)
    model.train()(images)
    assert [one for one in shapes if len(one[0]) == 3] == [
        ((2, 5, 32), 0.1), ((2, 5, 32), 0.1), ((2, 5, 12), 0.1), ((2, 5, 32), 0.1)
    ]  # fmt: skip
    assert weights == [0.1, 0.1]
    weights.clear()
    model.eval()(images)
    assert weights == [0.0, 0.0]


def test_random_in_training_and_repeatable_in_evaluation() -> None:
    model, images = network(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model.train()
        assert not torch.equal(model(images).class_logits, model(images).class_logits)
        model.eval()
        for one, other in zip(model(images), model(images), strict=True):
            assert torch.equal(one, other)


def test_float32_under_autocast() -> None:
    model, images = network().eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(images)
    assert [part.dtype for part in found] == [torch.float32] * 3
    assert not torch.equal(found.mask_logits, exact.mask_logits)
    torch.testing.assert_close(found.class_logits, exact.class_logits, rtol=0, atol=0.1)


def test_saved_and_loaded() -> None:
    model, again, images = network().eval(), network().eval(), torch.randn(1, 3, 64, 64)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        for one, other in zip(model(images), again(images), strict=True):
            assert torch.equal(one, other)


class Strides(Backbone):
    """A backbone that has maps of these strides."""

    def __init__(self, *reductions: int) -> None:
        super().__init__(channels=[3] * len(reductions), reductions=reductions)

    def maps(self, images: Tensor) -> list[Tensor]:
        return [images[..., ::step, ::step] for step in self.reductions]


def test_what_a_backbone_must_have() -> None:
    with pytest.raises(ConfigError, match=r"needs a feature map of stride 4, .* strides 8, 16: choose"):
        MaskFormer(backbone=Strides(8, 16), classes=3, **SIZES)
    model = MaskFormer(backbone=Strides(4, 4, 16, 64), classes=3, **SIZES)
    assert len(model.pixel_decoder.lateral) == 1
    assert model(torch.randn(1, 3, 64, 64)).mask_logits.shape == (2, 1, 5, 16, 16)
    alone = MaskFormer(backbone=Strides(4), classes=3, **SIZES)
    assert alone(torch.randn(1, 3, 20, 12)).mask_logits.shape == (2, 1, 5, 5, 3)


@pytest.mark.parametrize(("width", "heads"), [(48, 4), (64, 6)])
def test_widths_that_cannot_be(width: int, heads: int) -> None:
    with pytest.raises(
        ConfigError, match=f"width is {width}: it must be a multiple of 32 and of its {heads}"
    ):
        network(width=width, heads=heads)


def card(**changes: Any) -> dict[str, Any]:
    return {"backbone": {**SMALL, "freeze_norm": True}, "classes": 3, "network": SIZES,
            "similarity": {"depth": 2, "norm": "batch", "window": 7}, **changes}  # fmt: skip


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_groups(norm: str) -> None:
    """Case 7, last line: backbone at 1e-5, else 1e-4; norms and embeddings do not decay."""
    model = build_simformer(card(similarity={"depth": 2, "norm": norm, "window": 7}))
    options = JointOptimiser()
    optimiser = _optimiser(model, parameter_groups(model, options, undecayed=UNDECAYED), options)
    assert isinstance(optimiser, torch.optim.AdamW)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {
        (round(options.learning_rate * group["scale"], 9), group["weight_decay"]): {
            names[id(parameter)] for parameter in group["params"]
        }
        for group in optimiser.param_groups
    }
    assert set(groups) == {(1e-5, 1e-4), (1e-4, 1e-4), (1e-4, 0)}  # the backbone's norms are frozen
    assert sum(map(len, groups.values())) == sum(p.requires_grad for p in model.parameters())
    assert all(name.startswith("maskformer.backbone.") for name in groups[1e-5, 1e-4])
    still = groups[1e-4, 0]
    expected = {"maskformer.predictor.queries.weight"}
    for part in ("weight", "bias"):
        expected |= {f"maskformer.pixel_decoder.stem.1.{part}", f"maskformer.predictor.norm.{part}"}
        expected |= {f"maskformer.pixel_decoder.{kind}.{index}.1.{part}"
                     for kind in ("lateral", "output") for index in range(3)}  # fmt: skip
        expected |= {f"maskformer.predictor.layers.{layer}.norms.{index}.{part}"
                     for layer in range(2) for index in range(3)}  # fmt: skip
    assert {name for name in still if not name.startswith("similarity.")} == expected
    assert len(still) == len(expected) + 2 * 2 * 2  # SimNet: two blocks of two norms
    assert {"maskformer.predictor.classify.bias", "similarity.head.bias",
            "maskformer.predictor.layers.0.self_attention.in_proj_bias"} <= groups[1e-4, 1e-4]  # fmt: skip


def test_norms_that_are_trained_do_not_decay_either() -> None:
    model = build_simformer(card(backbone=SMALL, similarity=None))
    groups = parameter_groups(
        model, JointOptimiser(head_multiplier=3.0, weight_decay=0.5), undecayed=UNDECAYED
    )
    assert [(group["scale"], group["weight_decay"]) for group in groups] == [
        (1, 0.5), (1, 0), (3, 0.5), (3, 0)
    ]  # fmt: skip
    norms = [m for m in model.maskformer.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {id(p) for p in groups[1]["params"]} == {id(p) for norm in norms for p in norm.parameters()}


def test_the_parts_of_a_card() -> None:
    model = build_simformer(card())
    assert model.similarity is not None
    assert model.balance is not None
    assert len(model.similarity.further) == 1
    assert model.balance.rows.shape == (7, 2)
    plain_one = build_simformer(card(similarity=None))
    assert (plain_one.similarity, plain_one.balance) == (None, None)
    assert set(plain_one.state_dict()) < set(model.state_dict())
    images = torch.randn(1, 3, 64, 64)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(images).class_logits, model.maskformer(images).class_logits)
        assert len(model(images, every_layer=False).class_logits) == 1
    with pytest.raises(ValueError, match="together, or neither"):
        SimFormer(maskformer=model.maskformer, similarity=model.similarity)


def test_frozen_norms_stay_in_evaluation_mode() -> None:
    model = build_simformer(card()).train()
    layers = [m for m in model.maskformer.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert layers
    assert not any(layer.training or layer.weight.requires_grad for layer in layers)
    assert model.similarity is not None
    assert all(m.training for m in model.similarity.modules())
