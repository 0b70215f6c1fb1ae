"""Checkpoints of MaskFormer and SimFormer (simformer.md 6.5): names map both ways, strictly, and the network
is the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anyshot.cli import main
from anyshot.engine.checkpoints import load_into, load_weights
from anyshot.errors import WeightsError
from anyshot.simformer import weights
from anyshot.simformer.networks import SimFormer, build_simformer
from anyshot.simformer.weights import Form, export_checkpoint, import_checkpoint, official_names

BACKBONE = {"name": "resnet18", "weights": "none", "output_stride": 32, "freeze_norm": True,
            "frozen_stages": 0, "width": 1.0}  # fmt: skip
NETWORK = {"width": 32, "queries": 7, "layers": 2, "heads": 8, "feedforward": 24, "dropout": 0.1}
FORMS: tuple[Form, ...] = ("detectron2", "transformers")
COUNT = 171


def network(classes: int = COUNT, similarity: dict[str, Any] | None = None) -> SimFormer:
    torch.manual_seed(0)
    model = build_simformer(
        {"backbone": BACKBONE, "classes": classes, "network": NETWORK, "similarity": similarity}
    )
    with torch.no_grad():  # at rest, two of them could be swapped unseen
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            if isinstance(module, nn.MultiheadAttention):
                module.in_proj_bias.normal_(std=0.3)
                module.out_proj.bias.normal_(std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> SimFormer:
    return network()


def same(one: SimFormer, other: SimFormer) -> bool:
    images = torch.randn(2, 3, 64, 72)
    with torch.no_grad():
        found, expected = one(images), other(images)
    return all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def older(state: Mapping[str, Tensor], form: Form) -> dict[str, Tensor]:
    """The names of older files: detectron2's without `pixel_decoder`, those that `transformers` writes."""
    if form == "detectron2":
        return {name.replace(".pixel_decoder.", "."): value for name, value in state.items()}
    renamed = [name.replace("o_proj.", "out_proj.").replace("mlp.fc", "fc") for name in state]
    return dict(zip(renamed, state.values(), strict=True))


def run(file: Path, output: Path, *more: str, backbone: str = "resnet18") -> int:
    words = ["import-weights", "simformer", str(file), "--output", str(output), "--backbone", backbone]
    return main([*words, *more])


def imported(folder: Path) -> tuple[SimFormer, dict[str, Any]]:
    state, card = load_weights(folder / "model.safetensors")
    found = build_simformer(card["network"]["options"])
    load_into(found, state)
    return found.eval(), card


@pytest.mark.parametrize("age", ["newer", "older"])
@pytest.mark.parametrize("form", FORMS)
def test_round_trip(
    form: Form, age: str, model: SimFormer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = export_checkpoint(model.state_dict(), form)
    state = older(state, form) if age == "older" else state
    assert all(not name.startswith("maskformer.") for name in state)
    extra = {"criterion.empty_weight": torch.ones(COUNT + 1), "criterion.ingore_th": torch.zeros(1),
             "criterion.cro_pixel_sim_net.0.weight": torch.zeros(4, 2)}  # fmt: skip
    content = {"model": state | extra, "iteration": 60000, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(content, tmp_path / "final_S1.pth")
    assert run(tmp_path / "final_S1.pth", tmp_path / "ours", "--split", "split1") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"names of {form}" in said
    assert "171 classes, 7 queries, 2 decoder layers of width 32; 8 attention heads are taken" in said
    assert "3 tensors for training left out: criterion.empty_weight, criterion.ingore_th" in said
    assert "batch counters were absent" in said
    found, card = imported(tmp_path / "ours")
    assert same(found, model)
    assert (card["system"], card["split"], card["network"]["name"]) == ("simformer", "split1", "simformer")
    assert card["network"]["options"] == {
        "backbone": BACKBONE, "classes": COUNT, "network": NETWORK, "similarity": None
    }  # fmt: skip
    assert (len(card["novel"]), card["novel"][0], card["novel"][-1]) == (43, "motorcycle", "window-other")
    assert card["input"]["size"] == 640
    assert json.loads((tmp_path / "ours" / "model.json").read_text())["imported"]["file"] == "final_S1.pth"


def test_a_half_precision_safetensors_file(model: SimFormer, tmp_path: Path) -> None:
    """A Hugging Face file without a split: no class is novel."""
    halved = network().half().float()
    state = {
        name: value.half().contiguous()
        for name, value in export_checkpoint(halved.state_dict(), "transformers").items()
    }
    save_file(state, tmp_path / "model.safetensors")
    assert run(tmp_path / "model.safetensors", tmp_path / "ours") == 0
    found, card = imported(tmp_path / "ours")
    assert {value.dtype for value in found.state_dict().values()} == {torch.float32, torch.int64}
    assert not same(found, model)
    assert same(found, halved)
    assert (card["split"], card["novel"]) == ("joint", [])


def test_other_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(export_checkpoint(network(150).state_dict(), "detectron2"), tmp_path / "ade.pth")
    assert run(tmp_path / "ade.pth", tmp_path / "ade") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "has 150 classes (K, outputs of its class head but `no object`), the class table 171: give" in said
    assert not (tmp_path / "ade").exists()
    assert run(tmp_path / "ade.pth", tmp_path / "ade", "--data-set", "ade20k", "--split", "split4") == 0
    card = imported(tmp_path / "ade")[1]
    assert (len(card["novel"]), card["input"]["size"]) == (38, 512)
    assert [(row["id"], row["name"]) for row in card["classes"]][:2] == [(1, "wall"), (2, "building")]
    assert run(tmp_path / "ade.pth", tmp_path / "ade", "--data-set", "ade20k") == 1
    assert "--force" in capsys.readouterr().err
    assert run(tmp_path / "ade.pth", tmp_path / "none", "--data-set", "ade20k", "--split", "split9") == 1
    assert "split1, split2, split3, split4" in capsys.readouterr().err

    torch.save(export_checkpoint(network(3).state_dict(), "detectron2"), tmp_path / "own.pth")
    (tmp_path / "classes.csv").write_text("id,name\n3,cup\n5,pen\n9,key\n")
    more = ("--classes", str(tmp_path / "classes.csv"), "--split", "own")
    assert run(tmp_path / "own.pth", tmp_path / "own", *more, "--novel", "pen") == 0
    card = imported(tmp_path / "own")[1]
    assert (card["split"], card["novel"], len(card["classes"])) == ("own", ["pen"], 3)
    assert run(tmp_path / "own.pth", tmp_path / "other", *more, "--novel", "pens") == 1
    assert "did you mean pen" in capsys.readouterr().err


def stack(*parts: str) -> str:
    return ".".join(("sem_seg_head", *parts))


ATTENTION = "model.transformer_module.decoder.layers.1.encoder_attn."
STAGES = "model.pixel_level_module.encoder.encoder.stages."


@pytest.mark.parametrize(
    ("form", "changes", "message"),
    [
        ("detectron2", {"backbone.res3.0.shortcut.weight": None}, r"1 missing: backbone\.res3\.0\.shortcut"),
        ("detectron2", {"backbone.stem.conv1.norm.running_var": None}, r"1 missing: backbone\.stem\.conv1"),
        ("detectron2", {"backbone.stem.fc.weight": torch.zeros(2)}, r"1 unexpected: backbone\.stem\.fc\.w"),
        ("detectron2", {stack("pixel_decoder", "layer_5", "weight"): torch.zeros(2)}, r"1 unexpected: sem_"),
        ("detectron2", {stack("pixel_decoder", "adapter_2", "norm", "bias"): torch.zeros(31)}, r"adapter_2\.n"
         r"orm\.bias \(31,\) instead of \(32,\)"),
        ("detectron2", {stack("predictor", "class_embed", "weight"): None}, r"no MaskFormer checkpoint: it ha"
         r"s no matrix sem_seg_head\.predictor\.class_embed\.weight"),
        ("detectron2", {stack("predictor", "query_embed", "weight"): torch.zeros(7, 24)}, r"sizes that our Ma"
         r"skFormer cannot have \(.*multiple of 32"),
        ("detectron2", {"pixel_mean": torch.zeros(3, 1, 1)}, r"1 unexpected: pixel_mean"),
        ("transformers", {f"{ATTENTION}k_proj.weight": None}, r"1 missing: model\.transformer_module\.decoder"
         r"\.layers\.1\.encoder_attn\.k_proj\.weight\)"),
        ("transformers", {f"{ATTENTION}q_proj.bias": torch.zeros(96)}, r"q_proj\.bias \(96,\) instead of \("),
        ("transformers", {f"{ATTENTION}in_proj.bias": torch.zeros(96)}, r"1 unexpected: model\.transf"),
        ("transformers", {f"{STAGES}3.layers.1.layer.1.normalization.bias": None}, r"1 missing: model\.pix"),
        ("transformers", {f"{STAGES}2.layers.2.layer.0.convolution.weight": torch.zeros(2)}, r"1 unexpected"),
        ("transformers", {"model.transformer_module.decoder.layers.2.mlp.fc1.bias": torch.zeros(24)},
         r"missing: .*layers\.2\."),
    ],
)  # fmt: skip
def test_anything_else_is_refused(
    form: Form, changes: dict[str, Tensor | None], message: str, model: SimFormer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    state = export_checkpoint(model.state_dict(), form)
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    monkeypatch.setattr(weights, "read_state", lambda path: state)
    with pytest.raises(WeightsError) as caught:
        import_checkpoint(Path("file.pth"), classes=COUNT, backbone=BACKBONE)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_other_backbones(model: SimFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    state = export_checkpoint(model.state_dict(), "detectron2")
    monkeypatch.setattr(weights, "read_state", lambda path: state)
    for name, message in {"resnet34": "missing: backbone.res2.2.conv1", "test_resnet": "for ResNets only",
                          "tf_efficientnet_lite0": "for ResNets only"}.items():  # fmt: skip
        with pytest.raises(WeightsError, match=message):
            import_checkpoint(Path("a.pth"), classes=COUNT, backbone={**BACKBONE, "name": name})


def test_heads_are_what_is_said(model: SimFormer, monkeypatch: pytest.MonkeyPatch) -> None:
    state = export_checkpoint(model.state_dict(), "detectron2")
    monkeypatch.setattr(weights, "read_state", lambda path: state)
    _, report = import_checkpoint(Path("a.pth"), classes=COUNT, backbone=BACKBONE, heads=4)
    assert report.network["options"]["network"]["heads"] == 4
    with pytest.raises(WeightsError, match="`heads` 5"):
        import_checkpoint(Path("a.pth"), classes=COUNT, backbone=BACKBONE, heads=5)


def test_files_that_are_no_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"module.conv1.weight": torch.zeros(2)}, tmp_path / "other.pth")
    assert run(tmp_path / "other.pth", tmp_path / "ours") == 1
    assert "no name in it begins with `sem_seg_head.`" in " ".join(capsys.readouterr().err.split())
    torch.save({"a": nn.Linear(2, 2)}, tmp_path / "code.pth")
    assert run(tmp_path / "code.pth", tmp_path / "ours") == 1
    assert "was refused" in capsys.readouterr().err
    assert run(tmp_path / "absent.pkl", tmp_path / "ours") == 1
    assert "does not exist" in capsys.readouterr().err


def test_pickles_are_not_opened(model: SimFormer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model zoo of detectron2 has plain pickles of arrays; a torch file of that name is read."""
    np.zeros(3).dump(tmp_path / "model_final.pkl")
    assert run(tmp_path / "model_final.pkl", tmp_path / "ours") == 1
    assert "which can run code when it is opened: it was not" in " ".join(capsys.readouterr().err.split())
    torch.save({"model": export_checkpoint(model.state_dict(), "detectron2")}, tmp_path / "torch.pkl")
    assert run(tmp_path / "torch.pkl", tmp_path / "ours") == 0


def test_the_released_names() -> None:
    """The names that 6.5 states, for the published network."""
    with torch.device("meta"):
        model = build_simformer(
            {"backbone": {**BACKBONE, "name": "resnet50", "freeze_norm": False}, "classes": COUNT,
             "network": {}, "similarity": None}
        )  # fmt: skip
    state = export_checkpoint(model.state_dict(), "detectron2")
    backbone = {name for name in state if name.startswith("backbone.")}
    assert len(backbone) == 53 * 5  # convolutions: weight, and weight, bias, mean, variance of the norm
    norm = [f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    layers = ["stem.conv1", *(f"res{stage}.0.shortcut" for stage in (2, 3, 4, 5)),
              *(f"res4.{block}.conv{number}" for block in range(6) for number in (1, 2, 3))]  # fmt: skip
    assert {f"backbone.{layer}.{part}" for layer in layers for part in ["weight", *norm]} < backbone
    shapes = {
        "backbone.res2.0.conv1.weight": (64, 64, 1, 1), "backbone.res5.0.shortcut.weight": (2048, 1024, 1, 1),
        "sem_seg_head.pixel_decoder.layer_4.weight": (256, 2048, 3, 3),
        "sem_seg_head.pixel_decoder.layer_4.norm.bias": (256,),
        "sem_seg_head.pixel_decoder.adapter_1.weight": (256, 256, 1, 1),
        "sem_seg_head.pixel_decoder.adapter_3.weight": (256, 1024, 1, 1),
        "sem_seg_head.pixel_decoder.layer_1.norm.weight": (256,),
        "sem_seg_head.pixel_decoder.mask_features.weight": (256, 256, 3, 3),
        "sem_seg_head.predictor.input_proj.weight": (256, 2048, 1, 1),
        "sem_seg_head.predictor.query_embed.weight": (100, 256),
        "sem_seg_head.predictor.transformer.decoder.layers.5.self_attn.in_proj_weight": (768, 256),
        "sem_seg_head.predictor.transformer.decoder.layers.0.multihead_attn.out_proj.bias": (256,),
        "sem_seg_head.predictor.transformer.decoder.layers.3.linear1.weight": (2048, 256),
        "sem_seg_head.predictor.transformer.decoder.layers.3.linear2.weight": (256, 2048),
        "sem_seg_head.predictor.transformer.decoder.layers.0.norm3.weight": (256,),
        "sem_seg_head.predictor.transformer.decoder.norm.weight": (256,),
        "sem_seg_head.predictor.class_embed.weight": (172, 256),
        "sem_seg_head.predictor.mask_embed.layers.2.bias": (256,),
    }  # fmt: skip
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    theirs = export_checkpoint(model.state_dict(), "transformers")
    assert len(theirs) == len(state) + 6 * 2 * 4  # q, k, v apart


def test_query_key_value_are_stacked_in_this_order(model: SimFormer) -> None:
    ours = model.state_dict()["maskformer.predictor.layers.1.cross_attention.in_proj_weight"]
    state = export_checkpoint(model.state_dict(), "transformers")
    for index, name in enumerate(("q", "k", "v")):
        assert torch.equal(state[f"{ATTENTION}{name}_proj.weight"], ours[32 * index : 32 * (index + 1)])


def test_names_of_other_tensors_have_no_place() -> None:
    for form in FORMS:
        for name in ("similarity.head.weight", "balance.rows", "maskformer.predictor.layers.0.other.weight"):
            with pytest.raises(KeyError):
                official_names(name, form)


def test_simnet_is_left_out_of_an_export(model: SimFormer) -> None:
    whole = network(similarity={"depth": 2, "norm": "batch", "window": 25})
    for form in FORMS:
        assert set(export_checkpoint(whole.state_dict(), form)) == set(
            export_checkpoint(model.state_dict(), form)
        )
