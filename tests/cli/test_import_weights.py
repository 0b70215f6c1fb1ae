"""`anyshot import-weights`: official checkpoints become folders of ours, and nothing else does."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anyshot.cli import main
from anyshot.commands import import_weights
from anyshot.commands.prediction import load
from anyshot.data.classes import ClassTable
from anyshot.data.readers.voc import voc_table
from anyshot.engine.checkpoints import load_into, load_weights
from anyshot.errors import ArtifactError
from anyshot.retab.networks import build_network
from anyshot.retab.training import load_network
from anyshot.retab.weights import Kind, expected_shapes

WIDTH = 0.02
OUTPUTS = {"classifier": 20, "segmentation": 21}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_weights, "WIDTH", WIDTH)


def official(kind: Kind, path: Path, *, outputs: int | None = None, **changes: Tensor | None) -> Path:
    """A file with the names and shapes of the released ones; `changes` replace (None: remove) tensors."""
    classes = outputs or OUTPUTS.get(kind, 0)
    state: dict[str, Tensor] = {}
    for name, shape in expected_shapes(kind, width=WIDTH).items():
        state[name] = torch.rand([classes if side == -1 else side for side in shape]) * 0.1
    for name, value in changes.items():
        state.pop(name.replace("__", "."))
        if value is not None:
            state[name.replace("__", ".")] = value
    torch.save(state, path)
    return path


def run(kind: str, file: Path, output: Path, *more: str) -> int:
    return main(["import-weights", "retab", str(file), "--kind", kind, "--output", str(output), *more])


def card_of(folder: Path) -> Mapping[str, object]:
    content: Mapping[str, object] = json.loads((folder / "model.json").read_text())
    return content


@pytest.mark.parametrize("kind", import_weights.KINDS)
def test_every_kind(kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = official(kind, tmp_path / "official.pth")
    assert run(kind, file, tmp_path / "ours") == 0
    said = capsys.readouterr().out
    assert "official.pth" in said
    assert "every name and shape" in said
    state, card = load_weights(tmp_path / "ours" / "model.safetensors")
    load_into(build_network(card["network"], load=False), state)
    assert card["system"] == "retab"
    assert card["imported"]["file"] == "official.pth"
    given = torch.load(file, weights_only=True)
    assert torch.equal(state["backbone.conv1a.weight"], given["conv1a.weight"])


def test_a_segmenter_can_predict(tmp_path: Path) -> None:
    assert run("segmentation", official("segmentation", tmp_path / "seg.pth"), tmp_path / "ours") == 0
    model = load(tmp_path / "ours", "cpu")
    assert model.table.names[:2] == ("background", "aeroplane")
    assert model.card.infer.scales == [1.0, 0.5, 0.75, 1.25, 1.5]
    assert model.card.infer.flip
    assert model.card.infer.crf == {
        "steps": 10, "gaussian_sxy": 3, "gaussian_weight": 3,
        "bilateral_sxy": 83, "bilateral_srgb": 5, "bilateral_weight": 4,
    }  # fmt: skip
    assert model.segment(np.zeros((20, 30, 3), np.uint8)).shape == (20, 30)


def test_own_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = official("segmentation", tmp_path / "seg.pth", outputs=3)
    assert run("segmentation", file, tmp_path / "ours") == 1
    assert "3 outputs, but PASCAL VOC has 21 classes" in capsys.readouterr().err
    ClassTable.of(["background", "weed", "crop"]).write(tmp_path / "classes.csv")
    assert run("segmentation", file, tmp_path / "ours", "--classes", str(tmp_path / "classes.csv")) == 0
    assert load(tmp_path / "ours", "cpu").table.names == ("background", "weed", "crop")


def test_a_stage_takes_imported_weights(tmp_path: Path) -> None:
    assert run("classifier", official("classifier", tmp_path / "cls.pth"), tmp_path / "cls") == 0
    weights = tmp_path / "cls" / "model.safetensors"
    network, card = load_network(weights, network="retab_classifier", table=voc_table(), split="shared")
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 20)
    assert card["input"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    affinity = official("affinity", tmp_path / "aff.pth")
    assert run("affinity", affinity, tmp_path / "aff", "--split", "fold0") == 0
    weights = tmp_path / "aff" / "model.safetensors"
    load_network(weights, network="retab_affinity", table=voc_table(), split="fold0")


def test_predict_refuses_networks_that_are_no_segmenters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("boundary", official("boundary", tmp_path / "boundary.pth"), tmp_path / "boundary") == 0
    with pytest.raises(ArtifactError, match=r"retab_boundary.*known are"):
        load(tmp_path / "boundary", "cpu")


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(kind: str, file: Path) -> str:
        assert run(kind, file, tmp_path / "never") == 1
        assert not (tmp_path / "never").exists()
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    assert "missing: fc8.weight" in message(
        "classifier", official("classifier", tmp_path / "a.pth", fc8__weight=None)
    )
    assert "shape: bn7.weight" in message(
        "affinity", official("affinity", tmp_path / "b.pth", bn7__weight=torch.zeros(5))
    )
    assert "no boundary network" in message("boundary", official("affinity", tmp_path / "c.pth"))
    assert "does not exist" in message("affinity", tmp_path / "nowhere.pth")
    (tmp_path / "d.pth").write_bytes(b"not a checkpoint")
    assert "d.pth" in message("affinity", tmp_path / "d.pth")


def test_weights_are_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = official("boundary", tmp_path / "official.pth")
    assert run("boundary", file, tmp_path / "ours") == 0
    assert run("boundary", file, tmp_path / "ours") == 1
    assert "--force" in capsys.readouterr().err
    assert run("boundary", file, tmp_path / "ours", "--force") == 0
