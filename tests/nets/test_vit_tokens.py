"""Vision transformers as tokens: position tables of any grid, the final norm, padding (larvseg.md 2.1)."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional

from anyshot.errors import WeightsError
from anyshot.nets.vit_tokens import VitTokens, build_vit, is_vision_transformer

TINY = "vit_tiny_patch16_224"


def tokens(grid: int = 14, **changes: object) -> VitTokens:
    torch.manual_seed(0)
    arguments = {"weights": "none", "drop_path": 0.1, "statistics": None, "load": True, **changes}
    made = build_vit(TINY, grid=grid, **arguments)  # type: ignore[arg-type]
    torch.nn.init.normal_(made.body.pos_embed)
    return made.eval()


def test_names() -> None:
    assert is_vision_transformer(TINY)
    assert is_vision_transformer("vit_base_patch16_384.augreg_in21k_ft_in1k")
    assert not is_vision_transformer("resnet18")
    assert not is_vision_transformer("no_such_network")


@torch.inference_mode()
def test_at_the_grid_of_the_table_it_is_the_transformer_itself() -> None:
    made = tokens()
    images = torch.randn(2, 3, 224, 224)
    (found,) = made(images)
    assert found.shape == (2, 192, 14, 14)
    expected = made.body.forward_features(images)[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    torch.testing.assert_close(found, expected)
    norm = made.body.norm
    torch.testing.assert_close(
        found.permute(0, 2, 3, 1).mean(dim=-1), torch.zeros(2, 14, 14), atol=1e-4, rtol=0
    )
    assert isinstance(norm, torch.nn.LayerNorm)
    assert norm.eps == 1e-6


@torch.inference_mode()
def test_the_table_is_resampled_bicubic_without_antialias_and_the_class_entry_stays() -> None:
    torch.manual_seed(1)
    body = timm.create_model(TINY, num_classes=0, dynamic_img_size=True)
    table = body.pos_embed.clone()
    made = VitTokens(body=body, grid=32, mean=[0.5] * 3, std=[0.5] * 3)
    assert made.body.pos_embed.shape == (1, 1 + 32 * 32, 192)
    assert torch.equal(made.body.pos_embed[:, 0], table[:, 0])
    plane = table[:, 1:].transpose(1, 2).unflatten(2, (14, 14))
    expected = functional.interpolate(plane, size=(32, 32), mode="bicubic", align_corners=False)
    assert torch.equal(made.body.pos_embed[:, 1:], expected.flatten(2).transpose(1, 2))


@torch.inference_mode()
def test_any_size_padded_right_and_below_with_zeros() -> None:
    made = tokens(grid=8)
    images = torch.randn(1, 3, 40, 70)
    (found,) = made(images)
    assert found.shape == (1, 192, 3, 5)
    padded = functional.pad(images, (0, 10, 0, 8))
    assert torch.equal(found, made(padded)[0])


def test_drop_path_grows_to_the_last_block() -> None:
    blocks = tokens().body.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.1)


def test_stages_can_be_frozen() -> None:
    made = tokens()
    made.freeze(norm=False, stages=2)
    names = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert "body.pos_embed" not in names
    assert not any(name.startswith(("body.patch_embed", "body.blocks.0.")) for name in names)
    assert "body.blocks.1.attn.qkv.weight" in names
    assert "body.norm.weight" in names


def test_weights_that_do_not_exist(tmp_path: object) -> None:
    with pytest.raises(WeightsError, match=r"takes `none`, `timm`, or the published \.npz file"):
        tokens(weights="somewhere.pth")
    with pytest.raises(WeightsError, match="cannot be read as weights of this transformer"):
        tokens(weights=f"{tmp_path}/missing.npz")
