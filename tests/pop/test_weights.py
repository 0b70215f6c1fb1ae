"""Released checkpoints (pop.md 2.1, 6.2-b): names map both ways, strictly, and the network is the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anyshot.cli import main
from anyshot.commands.segmenters import load
from anyshot.engine.checkpoints import load_into, load_weights
from anyshot.nets.weight_files import read_state
from anyshot.pop.networks import PopNet, build_pop_net
from anyshot.pop.tables import FoldTables
from anyshot.pop.weights import export_checkpoint, official_name

SMALL = "test_resnet"  # a tiny one of timm; any backbone will do: its names stay as they are


def network(base: int, novel: int, channels: int = 8) -> PopNet:
    torch.manual_seed(0)
    backbone = {"name": SMALL, "weights": "none", "output_stride": 8, "freeze_norm": False,
                "frozen_stages": 0}  # fmt: skip
    model = build_pop_net(
        {"backbone": backbone, "channels": channels, "base": base, "novel": novel, "background": "residual"}
    )
    with torch.no_grad():  # norms at rest would hide that two of them are swapped
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
                module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model.eval()


def official(model: PopNet) -> dict[str, Tensor]:
    return export_checkpoint(model.state_dict(), backbone=SMALL)


def write(path: Path, state: dict[str, Tensor]) -> Path:
    """As the official code writes it: the legacy format."""
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def run(file: Path, output: Path, *more: str, split: str = "fold0") -> int:
    words = ["import-weights", "pop", str(file), "--output", str(output), "--split", split]
    return main([*words, "--backbone", SMALL, *more])


def imported(folder: Path) -> tuple[PopNet, dict[str, Any]]:
    state, card = load_weights(folder / "model.safetensors")
    model = build_pop_net(card["network"]["options"])
    load_into(model, state)
    return model.eval(), card


def same(one: PopNet, other: PopNet) -> bool:
    images = torch.randn(2, 3, 64, 72)
    with torch.no_grad():
        return torch.equal(one(images), other(images))


def test_stage_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network(15, 0)
    assert run(write(tmp_path / "best.pth", official(model)), tmp_path / "ours") == 0
    said = capsys.readouterr().out
    assert "a file of stage 1: background and 15 base classes" in said
    assert "nothing else" in said
    found, card = imported(tmp_path / "ours")
    assert same(found, model)
    assert card["network"]["name"] == "pop_segmenter"
    assert {key: value for key, value in card["network"]["options"].items() if key != "backbone"} == {
        "channels": 8, "base": 15, "novel": 0, "background": "residual"
    }  # fmt: skip
    assert card["network"]["options"]["backbone"]["name"] == SMALL
    assert (card["system"], card["split"]) == ("pop", "fold0")
    tables = FoldTables.from_json(card["tables"])
    assert tables.names[1] == "bus"
    assert tables.names[16:] == ("aeroplane", "bicycle", "bird", "boat", "bottle")


def test_stage_2_of_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = network(60, 20)
    file = write(tmp_path / "best_123.pth", official(model))
    assert run(file, tmp_path / "ours", "--data-set", "coco", split="fold3") == 0
    assert "a file of stage 2: background and 60 base classes, 20 novel classes" in capsys.readouterr().out
    found, card = imported(tmp_path / "ours")
    assert found.head.novel == 20
    assert same(found, model)
    tables = FoldTables.from_json(card["tables"])
    assert (len(tables.table), tables.table.name_of(1), tables.table.name_of(80)) == (
        81, "person", "toothbrush"
    )  # fmt: skip
    assert [tables.id_to_index[number] for number in (1, 5, 79, 4, 80)] == [1, 4, 60, 61, 80]  # G11
    assert json.loads((tmp_path / "ours" / "model.json").read_text())["imported"]["file"] == "best_123.pth"


@pytest.mark.parametrize("novel", [0, 5])
def test_a_folder_can_predict(novel: int, tmp_path: Path) -> None:
    file = write(tmp_path / "best.pth", official(network(15, novel)))
    assert run(file, tmp_path / "ours", split="fold1") == 0
    model = load(tmp_path / "ours", "cpu")
    assert len(model.table) == 16 + novel
    ((ids, _),) = model.predict([np.zeros((40, 61, 3), dtype=np.uint8)], scores=False)
    assert ids.shape == (40, 61)
    assert set(np.unique(ids)) <= set(model.table.ids)


def test_joint_training_and_own_classes(tmp_path: Path) -> None:
    model = network(20, 0)
    file = write(tmp_path / "best.pth", official(model))
    assert run(file, tmp_path / "joint", split="joint") == 0
    assert imported(tmp_path / "joint")[1]["network"]["options"]["base"] == 20
    assert run(file, tmp_path / "own", "--novel", "cat,dog", split="own") == 1
    (tmp_path / "classes.csv").write_text("id,name\n0,background\n3,cup\n5,pen\n9,key\n")
    file = write(tmp_path / "own.pth", official(network(2, 1)))
    more = ("--classes", str(tmp_path / "classes.csv"), "--novel", "cup")
    assert run(file, tmp_path / "own", *more, split="own") == 0
    assert FoldTables.from_json(imported(tmp_path / "own")[1]["tables"]).names == (
        "background", "pen", "key", "cup"
    )  # fmt: skip


@pytest.mark.parametrize("form", ["no prefix", "some prefixes", "half precision", "counters", "safetensors"])
def test_forms_of_files(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """6.2-b: names without `module.` once loaded nothing; here they load everything."""
    model = network(15, 5)
    state, path = official(model), tmp_path / "best.pth"
    if form == "no prefix":
        state = {name.removeprefix("module."): value for name, value in state.items()}
    if form == "some prefixes":
        state["base_emb"] = state.pop("module.base_emb")
    if form == "half precision":
        model = model.half().float()
        state = {k: v.half() if v.is_floating_point() else v for k, v in official(model).items()}
    if form == "counters":
        state = {name: value for name, value in state.items() if "num_batches" not in name}
        state["module.backbone.fc.bias"] = torch.zeros(1000)
    if form == "safetensors":
        path = tmp_path / "best.safetensors"
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        write(path, state)
    assert run(path, tmp_path / "ours") == 0
    said = capsys.readouterr().out
    assert ("batch counters were absent" in said) == (form == "counters")
    assert ("left out: backbone.fc.bias" in said) == (form == "counters")
    found = imported(tmp_path / "ours")[0]
    assert same(found, model)
    assert {value.dtype for value in found.state_dict().values()} == {torch.float32, torch.int64}


def changed(state: dict[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    result = dict(state)
    for name, value in changes.items():
        key = "module." + name.replace("__", ".")
        if value is None:
            del result[key]
        else:
            result[key] = value
    return result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_emb": torch.zeros(60, 8)}, "60 base classes .*, the split 15: give the --split and"),
        ({"novel_emb": torch.zeros(4, 8)}, "4 novel classes .*, the split 5"),
        ({"base_emb": None}, "no POP checkpoint: it has no matrix `base_emb`"),
        ({"classifier__2__weight": None}, r"1 missing: classifier\.2\.weight"),
        ({"novel_emb": None}, r"3 unexpected: classifier_n\.0\.weight"),
        ({"classifier_n__4__weight": None}, r"1 missing: classifier_n\.4\.weight"),
        ({"classifier__0__bias": torch.zeros(8)}, r"1 unexpected: classifier\.0\.bias"),
        ({"decoder__stages__1__1__weight": torch.zeros(8, 4, 1, 1)}, r"decoder\.stages\.1\.1\.weight \(8, 4"),
        ({"base_emb": torch.zeros(15, 9)}, "with another shape"),
        ({"cls__0__weight": torch.zeros(2)}, r"1 unexpected: cls\.0\.weight"),
    ],
)
def test_anything_else_is_refused(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "best.pth", changed(official(network(15, 5)), **changes))
    assert run(file, tmp_path / "ours") == 1
    assert not (tmp_path / "ours").exists()
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_files_that_are_no_state_dicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": nn.Linear(2, 2)}, tmp_path / "code.pth")
    assert run(tmp_path / "code.pth", tmp_path / "ours") == 1
    assert "was refused" in capsys.readouterr().err
    assert run(tmp_path / "absent.pth", tmp_path / "ours") == 1
    assert "does not exist" in capsys.readouterr().err
    file = write(tmp_path / "best.pth", official(network(15, 0)))
    assert run(file, tmp_path / "ours") == 0
    assert run(file, tmp_path / "ours") == 1
    assert "--force" in capsys.readouterr().err
    assert run(file, tmp_path / "ours", "--force") == 0
    assert run(file, tmp_path / "other", split="fold9") == 1
    assert "fold0, fold1, fold2, fold3" in capsys.readouterr().err


def test_the_released_names() -> None:
    """The names of 2.1, for the published backbone."""
    with torch.device("meta"):
        model = build_pop_net(
            {"backbone": {"name": "resnet50_v2", "freeze_norm": False, "frozen_stages": 0}, "channels": 512,
             "base": 15, "novel": 5, "background": "residual"}
        )  # fmt: skip
    state = export_checkpoint(model.state_dict())
    layers = {name.rpartition(".")[0] for name in state if name.count(".") > 1}
    assert {f"module.backbone.{kind}{number}" for kind in ("conv", "bn") for number in (1, 2, 3)} < layers
    assert {f"module.backbone.layer{number}.0.downsample.{part}" for number in (1, 2, 3, 4)
            for part in (0, 1)} < layers  # fmt: skip
    assert {f"module.decoder.stages.{index}.{part}" for index in range(4) for part in (1, 2)} < layers
    assert {name for name in layers if "bottleneck" in name} == {
        f"module.decoder.bottleneck.{part}" for part in (0, 1, 3)
    }
    assert {f"module.{name}.{part}" for name in ("classifier", "classifier_n") for part in (0, 2, 4)} < layers
    assert {name for name in state if name.count(".") == 1} == {"module.base_emb", "module.novel_emb"}
    assert state["module.classifier.4.weight"].shape == (1, 512, 1, 1)
    assert state["module.backbone.conv3.weight"].shape == (128, 64, 3, 3)
    assert not any(".body." in name or ".fc." in name for name in state)
    assert len(state) == len(model.state_dict())


def test_names_of_other_networks_have_no_place() -> None:
    with pytest.raises(KeyError, match=r"closed\.weight"):
        official_name("closed.weight")


def test_an_own_file_is_read_like_any_other(tmp_path: Path) -> None:
    model = network(15, 0)
    state = read_state(write(tmp_path / "a.pth", official(model)))
    assert set(state) == {official_name(name, backbone=SMALL) for name in model.state_dict()}
