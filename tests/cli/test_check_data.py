"""`anyshot check-data`: what is there, what is wrong, what is missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from anyshot.cli import main
from anyshot.data.classes import ClassTable

SCENES = {"reader": "scenes", "size": 64, "train": 3, "val": 2}


def write_config(path: Path, **data: dict[str, Any]) -> Path:
    first = next(iter(data), "scenes")
    retab = {"data": first, "scheme": None, "novel_classes": {"own": ["dog"]}, "folds": ["own"]}
    path.write_text(yaml.safe_dump({"data": data, "retab": retab}))
    return path


def run(config: Path, *more: str) -> int:
    return main(["check-data", "--config", str(config), "--threads", "1", *more])


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """Three images in two subsets, in the folder layout."""
    root = tmp_path / "own"
    for subset, stem in (("train", "a"), ("train", "b"), ("val", "c")):
        for kind in ("images", "masks"):
            (root / kind / subset).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 12, 3), 90, np.uint8)).save(root / "images" / subset / f"{stem}.jpg")
        mask = np.zeros((9, 12), np.uint8)
        mask[2:5, 3:8] = 1
        mask[0] = 255
        Image.fromarray(mask).save(root / "masks" / subset / f"{stem}.png")
    ClassTable.of(["background", "dog", "cat"]).write(root / "classes.csv")
    return root


def test_sound_data(own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(
        tmp_path / "config.yaml", own={"reader": "folder", "root": str(own_data)}, scenes=SCENES
    )
    before = sorted(tmp_path.rglob("*"))
    assert run(config) == 0
    said = capsys.readouterr().out
    assert "train: 2 images, 2 masks (2 with ignored pixels, 11.1% of the pixels ignored)" in said
    assert "train: no image of cat" in said
    assert "data set 'scenes'" in said
    assert "2 of 2 data sets are ready" in said
    assert sorted(tmp_path.rglob("*")) == before, "check-data writes nothing"


def test_problems_are_counted_and_listed(
    own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.full((9, 12), 77, np.uint8)).save(own_data / "masks/train/a.png")
    source = {"reader": "folder", "root": str(own_data)}
    config = write_config(tmp_path / "config.yaml", own=source)
    assert run(config) == 1
    said = capsys.readouterr().out
    assert "1 problems in 1 samples (ids outside the table: 1)" in said
    assert "a.png" in said
    assert "not ready: own" in said
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"data": {"own": {"on_bad_sample": "skip"}}}))
    assert run(config, "--configfile", str(overlay)) == 0


def test_missing_data_come_with_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(
        tmp_path / "config.yaml",
        voc={"reader": "voc", "root": str(tmp_path / "nowhere")},
        scenes=SCENES,
    )
    assert run(config) == 1
    said = capsys.readouterr().out
    assert "does not exist" in said
    assert "VOCtrainval_11-May-2012.tar" in said
    assert "1 of 2 data sets are ready; not ready: voc" in said
    assert run(config, "--data", "scenes") == 0


def test_wrong_configurations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(config: Path, *more: str) -> str:
        assert run(config, *more) == 1
        said = capsys.readouterr().err
        assert said.startswith("anyshot check-data: ")
        assert "Traceback" not in said
        return said

    assert "does not exist" in message(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("data: [")
    assert "not valid YAML" in message(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("data: {a: {reader: vco, root: x}}")
    assert "vco" in message(tmp_path / "config.yaml")
    config = write_config(tmp_path / "config.yaml", scenes=SCENES)
    assert "has: scenes" in message(config, "--data", "voc")


def test_real_data(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (shared_data / "msrc21").is_dir():
        pytest.skip(f"no msrc21 in {shared_data}")
    source = {"reader": "folder", "root": str(shared_data / "msrc21"), "decode": False}
    config = write_config(tmp_path / "config.yaml", msrc21=source)
    assert run(config) in (0, 1)
    assert "train: 354 images" in capsys.readouterr().out
