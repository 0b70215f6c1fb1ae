"""`anyshot predict` with a RAML model folder: known classes, and regions of the novel ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyshot.cli import main
from anyshot.commands import prediction
from anyshot.data.classes import ClassTable
from anyshot.data.images import read_image, read_mask
from anyshot.engine.stores import Store
from anyshot.raml.inference import closed_prediction, decide, fuse
from anyshot.raml.novel_folder import read_classes
from anyshot.raml.open_model import load_model
from anyshot.raml.options import OpenWorld
from tests.cli.conftest import photograph
from tests.cli.test_predict import odd_images, predict
from tests.raml.open_models import KNOWN, TABLE, open_tables, write_model

EAGER = ["--threshold", "-1", "--min-area", "4", "--hit-ratio", "0", "--closing", "3"]
EAGER += ["--channel-threshold", "0.9"]


def add(model: Path, folder: Path, name: str, *more: str) -> None:
    """Add a class from one photograph."""
    image, mask = folder / f"{name}.png", folder / f"{name}_mask.png"
    Image.fromarray(photograph(64, 64, seed=len(name))).save(image)
    values = np.zeros((64, 64), np.uint8)
    values[10:50, 10:50] = 1
    Image.fromarray(values).save(mask)
    words = ["novel", "add", "--model", str(model), "--name", name, "--images", str(image)]
    assert main([*words, "--masks", str(mask), *more]) == 0


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("closed"))


@pytest.fixture(scope="module")
def opened(closed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With car, which the model's table has, and tram, which it has not."""
    folder = tmp_path_factory.mktemp("opened")
    model = Path(shutil.copytree(closed, folder / "model"))
    add(model, folder, "tram", *EAGER)
    add(model, folder, "car")
    return model


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return tmp_path / "masks"


@torch.inference_mode()
def expected(model: Path, image: np.ndarray, *, novel: bool) -> np.ndarray:
    """What the stage raml_open_world computes, in class ids."""
    loaded = load_model(model, "cpu")
    maps = loaded.maps(image)
    height, width = image.shape[:2]
    ids = np.array(KNOWN, np.uint8)[closed_prediction(maps, height, width)]
    if not novel:
        return ids
    bank = [one.novel for one in read_classes(loaded.facts)]
    options = OpenWorld(threshold=-1, min_area=4, closing=3, channel_threshold=0.9)
    assert loaded.metric is not None
    found = decide(loaded.metric, maps, bank, height=height, width=width, hit_ratio=0.0, options=options)
    return fuse(ids, found, [one.id for one in bank], reject_known=False)


def test_without_novel_classes(closed: Path, photos: Path, masks: Path) -> None:
    assert predict(closed, photos, masks) == 0
    assert ClassTable.read(masks / "classes.csv").ids == KNOWN
    assert ClassTable.read(masks / "classes.csv").names == ("road", "tree", "sky")
    seen: set[int] = set()
    for image in photos.iterdir():
        mask = read_mask(masks / f"{image.stem}.png")
        assert np.array_equal(mask, expected(closed, read_image(image), novel=False))
        seen |= set(np.unique(mask).tolist())
    assert len(seen) > 1, "the test model says the same everywhere: it would test nothing"


def test_with_novel_classes(opened: Path, photos: Path, masks: Path) -> None:
    assert predict(opened, photos, masks, "--overlay", "--batch", "2") == 0
    table = ClassTable.read(masks / "classes.csv")
    assert table.ids == (*KNOWN, 26, 28)
    assert table.names[3:] == ("car", "tram")
    assert table.colours[3] == TABLE.colours[3]
    assert len(set(table.colours)) == 5
    seen: set[int] = set()
    for image in photos.iterdir():
        mask = read_mask(masks / f"{image.stem}.png")
        assert np.array_equal(mask, expected(opened, read_image(image), novel=True))
        assert (masks / f"{image.stem}.overlay.jpg").exists()
        seen |= set(np.unique(mask).tolist())
    assert seen & {26, 28}
    assert seen & set(KNOWN)


def test_the_folder_s_settings_are_used(opened: Path, photos: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(opened, tmp_path / "model"))
    for words in (["--min-area", "100000"], ["--min-area", "4", "--threshold", "1.5"]):
        assert main(["novel", "set", "--model", str(model), *words]) == 0
        assert predict(model, photos, tmp_path / "masks", "--force") == 0
        for image in photos.iterdir():
            mask = read_mask(tmp_path / "masks" / f"{image.stem}.png")
            assert np.array_equal(mask, expected(opened, read_image(image), novel=False))


def test_odd_images(opened: Path, tmp_path: Path, masks: Path) -> None:
    odd_images(tmp_path / "odd")
    assert predict(opened, tmp_path / "odd", masks, "--overlay") == 0
    sizes = {path.stem: read_mask(path).shape for path in masks.glob("*.png")}
    assert sizes["one_pixel"] == (1, 1)
    assert sizes["turned"] == (47, 33)
    assert sizes["gray"] == (33, 47)
    assert len(sizes) == 10


def test_large_images(opened: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for photo in photos.iterdir():
        photo.unlink()
    Image.fromarray(photograph(400, 300)).save(photos / "large.png")
    assert predict(opened, photos, tmp_path / "whole") == 0
    assert predict(opened, photos, tmp_path / "asked", "--tile", "256", "--scores") == 0
    monkeypatch.setattr("anyshot.engine.model_folder.WHOLE_PIXELS", 256 * 256)
    monkeypatch.setattr("anyshot.engine.model_folder.TILE", 256)
    assert predict(opened, photos, tmp_path / "alone") == 0
    masks = [read_mask(tmp_path / name / "large.png") for name in ("whole", "asked", "alone")]
    assert all(mask.shape == (400, 300) for mask in masks)
    assert np.array_equal(masks[1], masks[2])
    assert set(np.unique(masks[1])) & {26, 28}
    assert set(np.unique(masks[1])) <= {*KNOWN, 26, 28}


def test_scores_are_those_of_known_classes(
    opened: Path, photos: Path, masks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(opened, photos, masks, "--scores") == 0
    assert "car, tram have no probability" in capsys.readouterr().err
    store = Store(sorted(masks.glob("scores_*.h5")))
    for image in photos.iterdir():
        found = store[image.stem]
        assert list(found.classes) == list(KNOWN)
        assert np.allclose(found.scores.astype(np.float32).sum(axis=0), 1, atol=5e-3)
        mask = read_mask(masks / f"{image.stem}.png")
        assert np.array_equal(mask, expected(opened, read_image(image), novel=True))


def test_chosen_classes(
    opened: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(opened, photos, tmp_path / "tram", "--classes", "tram,car") == 0
    for image in photos.iterdir():
        mask = read_mask(tmp_path / "tram" / f"{image.stem}.png")
        whole = expected(opened, read_image(image), novel=True)
        assert np.array_equal(mask, np.where(whole >= 26, whole, 255))
    assert predict(opened, photos, tmp_path / "scored", "--classes", "tram", "--scores") == 1
    assert "no probability per pixel" in capsys.readouterr().err
    assert predict(opened, photos, tmp_path / "unknown", "--classes", "truck") == 1
    assert "'truck'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--scales", "1,0.5"], ["--flip"], ["--crf"]])
def test_what_raml_has_not(
    closed: Path, photos: Path, masks: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(closed, photos, masks, *words) == 1
    assert f"{words[0]}: RAML looks at an image once" in capsys.readouterr().err
    assert predict(closed, photos, masks, "--scales", "1", "--no-flip", "--no-crf") == 0


def test_a_new_class_does_not_continue_old_masks(
    closed: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(closed, tmp_path / "model"))
    assert predict(model, photos, tmp_path / "masks") == 0
    add(model, tmp_path, "tram")
    assert predict(model, photos, tmp_path / "masks") == 1
    assert "other settings (novel" in capsys.readouterr().err


def test_a_network_of_stage_1_or_2(tmp_path: Path, photos: Path, masks: Path, opened: Path) -> None:
    early = write_model(tmp_path / "early", network="raml_open")
    assert predict(early, photos, masks) == 0
    assert np.array_equal(
        read_mask(masks / "photo0.png"), expected(early, read_image(photos / "photo0.png"), novel=False)
    )


def test_sixteen_bit_ids(tmp_path: Path, photos: Path, masks: Path) -> None:
    """A novel class whose id needs 16 bits makes all masks 16-bit."""
    wide = ClassTable.of(TABLE.names, ids=[1, 2, 3, 300, 301])
    model = write_model(tmp_path / "wide", tables=open_tables(wide))
    add(model, tmp_path, "car", *EAGER)
    assert predict(model, photos, masks) == 0
    mask = read_mask(masks / "photo0.png")
    assert mask.dtype == np.uint16
    assert set(np.unique(mask)) <= {1, 2, 3, 300}


def test_damaged_folders(
    closed: Path, opened: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(closed, tmp_path / "a"))
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**card, "tables": None}))
    assert predict(model, photos, tmp_path / "out") == 1
    assert "has no `tables`" in capsys.readouterr().err
    model = Path(shutil.copytree(opened, tmp_path / "b"))
    (model / "novel" / "tram.json").unlink()
    assert predict(model, photos, tmp_path / "out") == 1
    assert "tram.json do not exist" in capsys.readouterr().err
    assert prediction.load(opened, "cpu").scored_ids == KNOWN


def test_export_says_why_not(closed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    assert main(["export", "--model", str(closed), "--output", str(tmp_path / "x.onnx")]) == 1
    assert "raml_metric" in capsys.readouterr().err
