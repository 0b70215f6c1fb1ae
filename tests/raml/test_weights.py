"""Official checkpoints (raml.md 6.6): names map both ways, strictly, and the imported network is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anyshot.cli import main
from anyshot.commands.segmenters import load
from anyshot.data.cityscapes_labels import cityscapes_table
from anyshot.data.open_splits import open_split
from anyshot.data.split_tables import SplitTables
from anyshot.raml.networks import MetricNet
from anyshot.raml.open_model import load_model
from anyshot.raml.options import OpenBackbone
from anyshot.raml.weights import export_checkpoint
from tests.raml.open_models import metric_net, network_options, open_net


@pytest.fixture(scope="module")
def split() -> SplitTables:
    found = open_split("cityscapes_open", "16_3")
    return SplitTables.make(cityscapes_table(), novel=found.novel, ignored=found.ignored)


@pytest.fixture(scope="module")
def network(split: SplitTables) -> MetricNet:
    model = metric_net(network_options(split))
    with torch.no_grad():  # norms at rest would hide that two of them are swapped
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
                module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model


def write(path: Path, fields: dict[str, Any]) -> Path:
    torch.save({"batch_idx": 10000, "optimizer_state": {"state": {}}, "scheduler_state": {}, **fields}, path)
    return path


def run(file: Path, output: Path, *more: str, split: str = "16_3", backbone: str = "resnet18") -> int:
    words = ["import-weights", "raml", str(file), "--output", str(output), "--split", split]
    return main([*words, "--backbone", backbone, *more])


def test_stage_3(
    network: MetricNet, split: SplitTables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "final.pth", export_checkpoint(network.state_dict()))
    assert run(file, tmp_path / "ours") == 0
    said = capsys.readouterr().out
    assert "16 known classes, 4 meta channels" in said
    assert "left out: batch_idx, optimizer_state, scheduler_state" in said
    assert "--reject-known cannot be used" in said
    imported = load_model(tmp_path / "ours", "cpu")
    assert imported.metric is not None
    assert imported.facts.tables == split
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, expected in zip(imported.metric(image), network(image), strict=True):
            assert torch.equal(found, expected)
        vectors = torch.randn(5, 16)
        for found, expected in zip(
            imported.metric(vectors, embed=True), network(vectors, embed=True), strict=True
        ):
            assert torch.equal(found, expected)
    assert not imported.metric.embedding.known_prototypes.any()


def test_stage_1_and_2(split: SplitTables, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = open_net(network_options(split))
    fields = export_checkpoint(model.state_dict())
    assert list(fields) == ["model_state"]
    assert run(write(tmp_path / "final.pth", fields), tmp_path / "ours") == 0
    assert "regions of novel classes need a file of stage 3" in capsys.readouterr().out
    imported = load_model(tmp_path / "ours", "cpu")
    assert imported.metric is None
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for found, expected in zip(imported.network(image), model(image), strict=True):
            assert torch.equal(found, expected)
    assert len(load(tmp_path / "ours", "cpu").table) == 16


def test_the_official_names(network: MetricNet) -> None:
    fields = export_checkpoint(network.state_dict())
    names = fields["model_state"]
    for name in (
        "backbone.conv1.weight", "backbone.bn1.running_mean", "backbone.layer4.1.conv2.weight",
        "classifier.project.0.weight", "classifier.project.1.bias", "classifier.aspp.convs.0.0.weight",
        "classifier.aspp.convs.3.1.running_var", "classifier.aspp.convs.4.1.weight",
        "classifier.aspp.convs.4.2.weight", "classifier.aspp.project.0.weight", "classifier.conv1.weight",
        "classifier.bn.weight", "classifier.conv2.weight", "classifier.conv2.bias", "classifier.conv3.bias",
    ):  # fmt: skip
        assert name in names
    assert sorted(fields["metric_model"]) == [
        "classifier.weight", "model.0.bias", "model.0.weight", "model.2.bias", "model.2.weight"
    ]  # fmt: skip
    body = {name.removeprefix("backbone.") for name in names if name.startswith("backbone.")}
    with torch.device("meta"):
        from torchvision.models import resnet18

        theirs = {name for name in resnet18().state_dict() if not name.startswith("fc.")}
    assert body == theirs


def test_the_published_backbone_has_torchvision_s_names_and_shapes() -> None:
    from torchvision.models import resnet101

    from anyshot.nets.backbones import build_backbone

    with torch.device("meta"):
        ours = build_backbone(OpenBackbone(weights="none"), load=False).state_dict()
        theirs = resnet101().state_dict()
    shapes = {name.removeprefix("body."): value.shape for name, value in ours.items()}
    assert shapes == {name: value.shape for name, value in theirs.items() if not name.startswith("fc.")}


def changed(fields: dict[str, dict[str, Tensor]], field: str, **tensors: Tensor | None) -> dict[str, Any]:
    state = dict(fields[field])
    for name, value in tensors.items():
        state.pop(name.replace("__", "."), None)
        if value is not None:
            state[name.replace("__", ".")] = value
    return {**fields, field: state}


def test_what_is_refused(network: MetricNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = export_checkpoint(network.state_dict())
    file = tmp_path / "final.pth"

    def message(content: Any, **words: Any) -> str:
        torch.save(content, file)
        assert run(file, tmp_path / "never", **words) == 1
        assert not (tmp_path / "never").exists()
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    assert "16 known classes (K, outputs of classifier.conv2), the split 12" in message(fields, split="12_7")
    assert "has no split '9_9'" in message(fields, split="9_9")
    without = changed(fields, "model_state", classifier__bn__weight=None)
    assert "1 missing: model_state/classifier.bn.weight" in message(without)
    more = changed(fields, "metric_model", model__4__weight=torch.zeros(2))
    assert "1 unexpected: metric_model/model.4.weight" in message(more)
    wrong = changed(fields, "metric_model", classifier__weight=torch.zeros(12, 6))
    assert "metric_model/classifier.weight (12, 6) instead of (16, 6)" in message(wrong)
    assert "missing: model_state/backbone.layer1.2.conv1.weight" in message(fields, backbone="resnet34")
    assert "no field `model_state`" in message(fields["model_state"])
    assert "fields that RAML's checkpoints have not: extra" in message({**fields, "extra": 1})
    assert "classifier.conv2.weight" in message({"model_state": {"a": torch.zeros(1)}})
    assert "was refused" in message({**fields, "batch_idx": Path("x")})


def test_weights_are_not_replaced_unasked(
    network: MetricNet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "final.pth", export_checkpoint(network.state_dict()))
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "model.safetensors").write_bytes(b"")
    assert run(file, tmp_path / "ours") == 1
    assert "--force" in capsys.readouterr().err
    assert run(file, tmp_path / "ours", "--force") == 0


def test_own_classes(network: MetricNet, tmp_path: Path) -> None:
    file = write(tmp_path / "final.pth", export_checkpoint(network.state_dict()))
    cityscapes_table().write(tmp_path / "classes.csv")
    words = ["--classes", str(tmp_path / "classes.csv"), "--novel", "car,truck,bus"]
    assert run(file, tmp_path / "ours", *words, split="mine") == 0
    card = load_model(tmp_path / "ours", "cpu").facts.card
    assert card.split == "mine"
