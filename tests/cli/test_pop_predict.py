"""`anyshot predict` with a POP model folder: its own classes, and the novel ones of its sessions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from anyshot.cli import main
from anyshot.commands import prediction
from anyshot.data.classes import ClassTable
from anyshot.data.images import read_image, read_mask
from anyshot.engine.checkpoints import load_into, load_weights
from anyshot.engine.stores import Store
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD
from anyshot.pop.artifacts import load_head
from anyshot.pop.datasets import whole_image
from anyshot.pop.networks import PopNet, build_pop_net
from anyshot.pop.weights import export_checkpoint
from tests.cli.conftest import photograph
from tests.cli.test_predict import odd_images, predict
from tests.pop.pop_models import (
    BASE,
    NOVEL,
    SIZE,
    TABLE,
    fold_tables,
    network_options,
    write_head,
    write_model,
)

KNOWN = (0, *BASE)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def head(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_head(tmp_path_factory.mktemp("head"), base)


@pytest.fixture(scope="module")
def grown(base: Path, head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model with the classes of the head."""
    model = Path(shutil.copytree(base, tmp_path_factory.mktemp("grown") / "model"))
    assert main(["novel", "copy", "--model", str(model), "--head", str(head)]) == 0
    return model


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return tmp_path / "masks"


def network_of(folder: Path, *, novel: int = 0) -> PopNet:
    network = build_pop_net(network_options(fold_tables(), novel=novel))
    load_into(network, load_weights(folder / "model.safetensors")[0])
    return network.eval()


@torch.inference_mode()
def probabilities(network: PopNet, image: np.ndarray, head: nn.Module | None = None) -> np.ndarray:
    """As pop.md 2.5 words it: softmax of the logits, upsampled to a square and cropped, (C, H, W)."""
    pixels, _ = whole_image(image, SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    logits = (head or network.head)(network.features(pixels[None]))
    height, width = image.shape[:2]
    side = max(height, width)
    large = F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=True)
    return large[0, :, :height, :width].softmax(dim=0).numpy()


def agrees(mask: np.ndarray, scores: np.ndarray, ids: tuple[int, ...]) -> bool:
    """The mask has the class of the largest score, or one of a score that differs by rounding only."""
    rows = np.searchsorted(np.sort(ids), mask)
    rows = np.argsort(ids)[rows]
    own = np.take_along_axis(scores, rows[None], axis=0)[0]
    return bool(np.isin(mask, ids).all() and (own >= scores.max(axis=0) - 1e-5).all())


def test_base_classes(base: Path, photos: Path, masks: Path) -> None:
    assert predict(base, photos, masks, "--overlay", "--batch", "2") == 0
    table = ClassTable.read(masks / "classes.csv")
    assert table.ids == KNOWN
    assert table.names == ("background", "cat", "dog", "tree")
    network, seen = network_of(base), set[int]()
    for image in photos.iterdir():
        mask = read_mask(masks / f"{image.stem}.png")
        assert agrees(mask, probabilities(network, read_image(image)), KNOWN)
        assert (masks / f"{image.stem}.overlay.jpg").exists()
        seen |= set(np.unique(mask).tolist())
    assert len(seen) > 2, "the test model says the same everywhere: it would test nothing"


def test_classes_of_a_head_as_the_head_itself(
    base: Path, head: Path, grown: Path, photos: Path, masks: Path
) -> None:
    assert predict(grown, photos, masks, "--scores") == 0
    table = ClassTable.read(masks / "classes.csv")
    assert table.ids == (*KNOWN, *NOVEL)
    assert table.names[4:] == ("bus", "car")
    assert table.colours[4] == TABLE.colours[TABLE.index_of[4]]
    applied, _ = load_head(head / "model.safetensors", tables=fold_tables(), split="fold0")
    network, store, seen = network_of(base), Store(sorted(masks.glob("scores_*.h5"))), set[int]()
    for image in photos.iterdir():
        expected = probabilities(network, read_image(image), applied)
        mask = read_mask(masks / f"{image.stem}.png")
        assert agrees(mask, expected, table.ids)
        found = store[image.stem]
        assert tuple(found.classes) == table.ids
        assert np.allclose(found.scores, expected, atol=2e-3)
        seen |= set(np.unique(mask).tolist())
    assert seen & set(NOVEL)
    assert seen & set(BASE)
    pixels = torch.rand(1, 12, 6, 6)
    assert torch.equal(prediction.load(grown, "cpu").head(pixels), applied(pixels))  # type: ignore[attr-defined]


def test_a_network_with_novel_classes_of_its_own(tmp_path: Path, photos: Path, masks: Path) -> None:
    model = write_model(tmp_path / "imported", novel=True)
    assert predict(model, photos, masks) == 0
    assert ClassTable.read(masks / "classes.csv").ids == (*KNOWN, *NOVEL)
    image = photos / "photo0.png"
    expected = probabilities(network_of(model, novel=2), read_image(image))
    assert agrees(read_mask(masks / "photo0.png"), expected, (*KNOWN, *NOVEL))


def test_odd_images(grown: Path, tmp_path: Path, masks: Path) -> None:
    odd_images(tmp_path / "odd")
    Image.fromarray(photograph(1, 9000)).save(tmp_path / "odd" / "line.png")
    assert predict(grown, tmp_path / "odd", masks, "--overlay", "--scores") == 0
    sizes = {path.stem: read_mask(path).shape for path in masks.glob("*.png")}
    assert sizes["one_pixel"] == (1, 1)
    assert sizes["turned"] == (47, 33)
    assert sizes["line"] == (1, 9000)
    assert len(sizes) == 11


@pytest.mark.parametrize("words", [["--scales", "1,0.5"], ["--flip"], ["--crf"], ["--tile", "256"]])
def test_what_pop_has_not(
    base: Path, photos: Path, masks: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(base, photos, masks, *words) == 1
    assert f"{words[0]}: POP looks at an image once, scaled to 48 px" in capsys.readouterr().err
    assert not masks.exists()


def test_what_is_nothing_special_is_allowed(base: Path, photos: Path, masks: Path) -> None:
    assert predict(base, photos, masks, "--scales", "1", "--no-flip", "--no-crf", "--classes", "cat") == 0
    for path in masks.glob("*.png"):
        assert set(np.unique(read_mask(path)).tolist()) <= {0, 3}


def test_new_classes_do_not_continue_old_masks(
    base: Path, head: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(base, tmp_path / "model"))
    assert predict(model, photos, tmp_path / "masks") == 0
    assert main(["novel", "copy", "--model", str(model), "--head", str(head)]) == 0
    assert predict(model, photos, tmp_path / "masks") == 1
    assert "other settings (novel" in capsys.readouterr().err


def test_damaged_folders(
    base: Path, grown: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def message(model: Path) -> str:
        assert predict(model, photos, tmp_path / "out") == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    def changed(name: str, **card: object) -> Path:
        model = Path(shutil.copytree(base, tmp_path / name))
        content = json.loads((model / "model.json").read_text())
        (model / "model.json").write_text(json.dumps({**content, **card}))
        return model

    given = json.loads((base / "model.json").read_text())
    assert given["input"]["size"] == SIZE
    assert "has no `tables`" in message(changed("a", tables=None))
    assert "has no `size` under `input`" in message(changed("b", input={**given["input"], "size": None}))
    wrong = fold_tables(novel=("bus",)).to_json()
    assert "contradicts itself" in message(changed("c", tables=wrong))
    model = Path(shutil.copytree(grown, tmp_path / "d"))
    (model / "novel" / "bus.json").unlink()
    assert "bus.json do not exist" in message(model)
    model = Path(shutil.copytree(grown, tmp_path / "e"))
    facts = json.loads((model / "novel" / "bus.json").read_text())
    (model / "novel" / "bus.json").write_text(json.dumps({**facts, "session": None}))
    assert "is no novel class of POP" in message(model)


def test_export_says_why_not(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    assert main(["export", "--model", str(base), "--output", str(tmp_path / "x.onnx")]) == 1
    assert "pop_segmenter" in capsys.readouterr().err


def test_imported_networks_have_the_published_size(tmp_path: Path) -> None:
    options = {
        "backbone": {"name": "resnet18", "weights": "none"}, "channels": 8, "base": 15, "novel": 0,
        "background": "residual",
    }  # fmt: skip
    state = build_pop_net(options).state_dict()
    torch.save(export_checkpoint(state, backbone="resnet18"), tmp_path / "best.pth")
    words = ["import-weights", "pop", str(tmp_path / "best.pth"), "--split", "fold0"]
    assert main([*words, "--backbone", "resnet18", "--output", str(tmp_path / "ours")]) == 0
    model = prediction.load(tmp_path / "ours", "cpu")
    assert model.card.input.size == 473
    assert len(model.table) == 16
