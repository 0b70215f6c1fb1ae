"""Our MaskFormer gives what Hugging Face's gives, through the converter (simformer.md 6.5)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from anyshot.simformer.networks import SimFormer, build_simformer
from anyshot.simformer.weights import import_checkpoint

transformers = pytest.importorskip("transformers", reason="needs the extra `hf`: pip install 'anyshot[hf]'")

CLASSES, QUERIES = 5, 7
RESNETS = {
    "resnet18": {"hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
    "resnet26": {"hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck"},
}


def theirs(name: str) -> nn.Module:
    """A small MaskFormer with random weights, none of them at rest, in evaluation mode."""
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=64,
        depths=[2, 2, 2, 2],
        out_features=["stage1", "stage2", "stage3", "stage4"],
        **RESNETS[name],
    )
    decoder = transformers.DetrConfig(
        d_model=64,
        encoder_layers=0,
        decoder_layers=3,
        decoder_attention_heads=8,
        decoder_ffn_dim=48,
        num_queries=QUERIES,
        dropout=0.0,
    )
    model = transformers.MaskFormerForInstanceSegmentation(
        transformers.MaskFormerConfig(
            backbone_config=backbone,
            decoder_config=decoder,
            fpn_feature_size=64,
            mask_feature_size=64,
            num_labels=CLASSES,
        )
    )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
            elif isinstance(module, nn.Conv2d):  # theirs start too small for a network of 26 layers
                nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, nn.Linear):
                module.bias.normal_(std=0.3)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model.eval()


def ours(path: Path, name: str) -> SimFormer:
    backbone = {"name": name, "weights": "none", "output_stride": 32, "freeze_norm": True,
                "frozen_stages": 0}  # fmt: skip
    state, report = import_checkpoint(path, classes=CLASSES, backbone=backbone)
    assert report.unused == ("criterion.empty_weight",)
    assert report.added == ()
    model = build_simformer(report.network["options"])  # type: ignore[arg-type]
    model.load_state_dict(state)
    return model.eval()


def close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("source", ["file", "memory"])
@pytest.mark.parametrize("name", RESNETS)
def test_same_proposals(name: str, source: str, tmp_path: Path) -> None:
    """From the file that `save_pretrained` writes, and from the state dict: their names differ."""
    other = theirs(name)
    if source == "file":
        other.save_pretrained(tmp_path)  # type: ignore[operator]
        path = tmp_path / "model.safetensors"
    else:
        path = tmp_path / "state.pth"
        torch.save(other.state_dict(), path)
    model = ours(path, name)
    for size in [(64, 96), (97, 130)]:
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            found = model(images, every_layer=False)
            expected = other(images, output_hidden_states=True)
        close(found.class_logits[0], expected.class_queries_logits)
        close(found.mask_logits[0], expected.masks_queries_logits)
        close(found.pixels, expected.pixel_decoder_last_hidden_state)
