"""`anyshot export`: the graph gives our logits, names its classes, and is refused when it differs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anyshot.cli import main
from anyshot.commands import export
from anyshot.commands.prediction import load
from anyshot.data.classes import ClassTable
from anyshot.engine.inference import multi_scale_logits
from anyshot.errors import AnyshotError
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD

pytest.importorskip("onnx", reason="the package onnx is not installed")
pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")


def run(model: Path, output: Path, size: str) -> int:
    return main(
        ["export", "--model", str(model), "--format", "onnx", "--output", str(output), "--size", size]
    )


def test_the_graph_gives_our_logits(
    make_model: Callable[..., Path],
    table: ClassTable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, file = make_model(table, size_divisor=32), tmp_path / "out" / "segmenter.onnx"
    assert run(folder, file, "50x70") == 0
    assert "largest difference" in capsys.readouterr().out
    assert [path.name for path in file.parent.iterdir()] == ["segmenter.onnx"]
    image = np.random.default_rng(3).integers(0, 256, (50, 70, 3), np.uint8)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"image": image.transpose(2, 0, 1)[None].astype(np.float32)})[0]
    network = load(folder, "cpu").network
    expected = multi_scale_logits(
        network,
        image,
        scales=[1.0],
        flip=False,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        device="cpu",
        size_divisor=32,
    )
    assert found.shape == (1, 4, 50, 70)
    assert np.abs(found[0] - expected.numpy()).max() < 1e-3
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    assert [row["name"] for row in classes] == list(table.names)
    assert [row["id"] for row in classes] == list(table.ids)


def test_a_graph_that_differs_is_not_written(model_folder: Path, tmp_path: Path) -> None:
    from anyshot.commands.onnx_export import export_onnx

    with pytest.raises(AnyshotError, match=r"differs from ours by \d\.\d+e-0[4-9]"):
        export_onnx(load(model_folder, "cpu"), tmp_path / "never.onnx", size=(32, 32), tolerance=-1.0)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(export, "PACKAGES", ("torch", "no_such_package"))
    assert run(model_folder, tmp_path / "x.onnx", "32x32") == 1
    assert "pip install no_such_package" in capsys.readouterr().err
    assert torch.__version__


def test_folders_of_other_networks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tmp_path / "x.onnx", "32x32") == 1
    assert "incomplete" in capsys.readouterr().err
