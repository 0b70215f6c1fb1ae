"""`anyshot predict` and `export` with a SimFormer model folder: images of any size, scaled to the card's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from anyshot.cli import main
from anyshot.commands import prediction
from anyshot.data.classes import ClassTable
from anyshot.data.images import read_image, read_mask
from anyshot.data.transforms import normalise
from anyshot.engine.checkpoints import load_into, load_weights
from anyshot.engine.inference import tile_spans
from anyshot.engine.model_folder import model_card, save_model_folder
from anyshot.engine.stores import Store
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD
from anyshot.simformer import segmenter
from anyshot.simformer.networks import NETWORK, SimFormer, build_simformer
from tests.cli.conftest import photograph
from tests.cli.test_predict import odd_images, predict

TABLE = ClassTable.of(["sky", "cat", "tree", "car", "bus"], ids=[1, 3, 4, 7, 9], kinds=["thing"] * 5)
SIDE = 64  # px of the shorter side


def network_options(table: ClassTable, *, similarity: bool) -> dict[str, Any]:
    return {
        "backbone": {"name": "test_efficientnet", "weights": "none", "output_stride": 32},
        "classes": len(table),
        "network": {
            "width": 32, "queries": 8, "layers": 2, "heads": 4, "feedforward": 32, "dropout": 0.0,
        },
        "similarity": {"depth": 1, "norm": "batch", "window": 3} if similarity else None,
    }  # fmt: skip


def write_model(folder: Path, *, table: ClassTable = TABLE, similarity: bool = True, **card: Any) -> Path:
    """Write a model folder as `simformer_joint` does, with random weights whose proposals differ."""
    options = network_options(table, similarity=similarity)
    torch.manual_seed(4)
    network = build_simformer(options)
    with torch.no_grad():
        network.maskformer.predictor.queries.weight.normal_(std=4)
        network.maskformer.predictor.classify.weight.normal_()
        network.maskformer.pixel_decoder.embed.weight.normal_(std=0.4)
        *_, weight, _ = network.maskformer.predictor.mask_embed.parameters()
        weight.normal_(std=0.5)
    content = model_card(
        system="simformer",
        split="split1",
        network=NETWORK,
        network_options={**options, "backbone": {**options["backbone"], "weights": "no/such/file.pth"}},
        table=table,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        **{"input_size": SIDE, "novel": ["car"], "variant": "full", **card},
    )
    save_model_folder(folder, state_dict=network.state_dict(), card=content)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    return tmp_path / "masks"


def network_of(folder: Path, *, similarity: bool = True) -> SimFormer:
    network = build_simformer(network_options(TABLE, similarity=similarity))
    load_into(network, load_weights(folder / "model.safetensors")[0])
    return network.eval()


@torch.inference_mode()
def one_look(network: SimFormer, image: np.ndarray, size: tuple[int, int], *, mirror: bool) -> Tensor:
    """As simformer.md 2.10 words it: the scores (K, H, W) of an image that is seen at `size`."""
    height, width = image.shape[:2]
    seen = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.asarray(seen).copy()).permute(2, 0, 1).float() / 255
    x = (values - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    x = x.flip(2) if mirror else x
    x = F.pad(x, (0, -size[1] % 32, 0, -size[0] % 32))
    found = network(x[None])
    masks = F.interpolate(found.mask_logits[-1], size=x.shape[1:], mode="bilinear", align_corners=False)
    masks = masks[0].sigmoid()[:, : size[0], : size[1]]
    classes = found.class_logits[-1, 0].softmax(dim=-1)[:, :-1]
    scores = torch.einsum("qc,qhw->chw", classes, masks.flip(2) if mirror else masks)
    return F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)[0]


def expected(
    network: SimFormer, image: np.ndarray, sides: Sequence[int] = (SIDE,), *, mirror: bool = False
) -> np.ndarray:
    """Mean scores (K, H, W) over the sizes, and over the mirrored images."""
    short = min(image.shape[:2])
    looks = []
    for side in sides:
        size = (round(image.shape[0] * side / short), round(image.shape[1] * side / short))
        looks += [one_look(network, image, size, mirror=flip) for flip in (False, True)[: 1 + mirror]]
    return torch.stack(looks).mean(dim=0).numpy()


def agrees(mask: np.ndarray, scores: np.ndarray) -> bool:
    """The mask has the class of the largest score, or one of a score that differs by rounding only."""
    rows = np.searchsorted(TABLE.ids, mask)
    own = np.take_along_axis(scores, rows[None], axis=0)[0]
    return bool(np.isin(mask, TABLE.ids).all() and (own >= scores.max(axis=0) - 1e-5).all())


def test_masks_are_those_of_the_specification(model: Path, photos: Path, masks: Path) -> None:
    assert predict(model, photos, masks, "--overlay", "--batch", "2") == 0
    assert ClassTable.read(masks / "classes.csv") == TABLE
    network, seen = network_of(model), set[int]()
    for image in photos.iterdir():
        mask = read_mask(masks / f"{image.stem}.png")
        assert agrees(mask, expected(network, read_image(image)))
        assert (masks / f"{image.stem}.overlay.jpg").exists()
        seen |= set(np.unique(mask).tolist())
    assert len(seen) > 2, "the test model says the same everywhere: it would test nothing"


def test_scores_are_fused_scores_of_every_class(model: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(model, photos, tmp_path / "plain") == 0
    assert predict(model, photos, tmp_path / "scored", "--scores") == 0
    store = Store(sorted((tmp_path / "scored").glob("scores_*.h5")))
    network = network_of(model)
    for image in photos.iterdir():
        found = store[image.stem]
        assert tuple(found.classes) == TABLE.ids
        assert np.allclose(found.scores, expected(network, read_image(image)), atol=2e-3)
        plain, scored = (read_mask(tmp_path / name / f"{image.stem}.png") for name in ("plain", "scored"))
        assert np.array_equal(plain, scored)


def test_scales_and_mirror(model: Path, photos: Path, masks: Path) -> None:
    assert predict(model, photos, masks, "--scales", "1,0.5", "--flip") == 0
    image = photos / "photo2.png"
    scores = expected(network_of(model), read_image(image), (64, 32), mirror=True)
    assert agrees(read_mask(masks / "photo2.png"), scores)
    assert not agrees(read_mask(masks / "photo2.png"), expected(network_of(model), read_image(image)))


def test_every_tile_is_scaled_like_an_image(model: Path, photos: Path, tmp_path: Path) -> None:
    large = photograph(300, 200, seed=5)
    for photo in photos.iterdir():
        photo.unlink()
    Image.fromarray(large).save(photos / "large.png")
    Image.fromarray(photograph(100, 128)).save(photos / "small.png")
    for name, words in {"tiled": [], "scored": ["--scores"]}.items():
        assert predict(model, photos, tmp_path / name, "--tile", "128", *words) == 0
    network, blended = network_of(model), np.zeros((len(TABLE), 300, 200))
    for row in tile_spans(300, 128):
        for column in tile_spans(200, 128):
            rows, columns = slice(row.start, row.stop), slice(column.start, column.stop)
            weights = row.weights[:, None] * column.weights
            blended[:, rows, columns] += weights * expected(network, large[rows, columns])
    tiled, scored = (read_mask(tmp_path / name / "large.png") for name in ("tiled", "scored"))
    assert agrees(tiled, blended)
    assert np.array_equal(tiled, scored)
    assert not agrees(tiled, expected(network, large))
    found = Store(sorted((tmp_path / "scored").glob("scores_*.h5")))["large"]
    assert np.allclose(found.scores, blended, atol=2e-3)
    small = expected(network, read_image(photos / "small.png"))
    assert agrees(read_mask(tmp_path / "tiled" / "small.png"), small)


def test_chosen_classes(model: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(model, photos, tmp_path / "all") == 0
    assert predict(model, photos, tmp_path / "some", "--classes", "tree,car", "--scores") == 0
    for image in photos.iterdir():
        whole, some = (read_mask(tmp_path / name / f"{image.stem}.png") for name in ("all", "some"))
        assert np.array_equal(some, np.where(np.isin(whole, [4, 7]), whole, 255))
    store = Store(sorted((tmp_path / "some").glob("scores_*.h5")))
    assert list(store["photo0"].classes) == [4, 7]


def test_odd_images(model: Path, tmp_path: Path, masks: Path) -> None:
    odd_images(tmp_path / "odd")
    Image.fromarray(photograph(1, 9000)).save(tmp_path / "odd" / "line.png")
    assert predict(model, tmp_path / "odd", masks, "--overlay", "--scores") == 0
    sizes = {path.stem: read_mask(path).shape for path in masks.glob("*.png")}
    assert sizes["one_pixel"] == (1, 1)
    assert sizes["turned"] == (47, 33)
    assert sizes["line"] == (1, 9000)
    assert len(sizes) == 11


def test_large_images_hold_few_scores_at_their_own_size(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert predict(model, photos, tmp_path / "first") == 0
    held = []
    fused = segmenter.fused_scores

    def watched(found: Any, height: int, width: int, indices: Tensor) -> Tensor:
        held.append(len(indices) * height * width)
        return fused(found, height, width, indices)

    monkeypatch.setattr("anyshot.simformer.inference.fused_scores", watched)
    monkeypatch.setattr(segmenter, "HELD", 2 * 40 * 56)
    assert predict(model, photos, tmp_path / "second") == 0
    assert max(held) == 2 * 40 * 56  # two of the five classes; of the larger image only one
    assert len(held) == 3 + 3 + 5
    for image in photos.iterdir():
        first, second = (read_mask(tmp_path / name / f"{image.stem}.png") for name in ("first", "second"))
        assert np.array_equal(first, second)


def test_too_little_memory_is_said(
    model: Path,
    photos: Path,
    masks: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(segmenter, "views", full)
    assert predict(model, photos, masks, "--batch", "2") == 1
    said = capsys.readouterr().err
    assert "3 images failed" in said
    assert "too little memory for one image with a shorter side of 64 px" in said


def test_what_simformer_has_not(
    model: Path, photos: Path, masks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, photos, masks, "--crf") == 1
    assert "--crf: SimFormer's masks are not refined by a CRF" in capsys.readouterr().err
    assert not masks.exists()
    assert predict(model, photos, masks, "--no-crf") == 0


def test_other_sizes_do_not_continue_old_masks(
    model: Path, photos: Path, masks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, photos, masks) == 0
    assert predict(model, photos, masks, "--scales", "2") == 1
    assert "other settings (sizes" in capsys.readouterr().err


def test_without_similarity_and_with_sizes_of_the_card(tmp_path: Path, photos: Path, masks: Path) -> None:
    folder = write_model(
        tmp_path / "again", similarity=False, variant="retrained", short_sides=[32, 64], longest=80
    )
    assert predict(folder, photos, masks) == 0
    network = network_of(folder, similarity=False)
    scores = expected(network, read_image(photos / "photo2.png"), (32, 60))  # 64 x 48 px: at most 80 x 60
    assert agrees(read_mask(masks / "photo2.png"), scores)
    assert prediction.load(folder, "cpu").sizes.longest == 80  # type: ignore[attr-defined]
    assert prediction.load(write_model(tmp_path / "b"), "cpu").sizes.longest == 256  # type: ignore[attr-defined]


def test_sixteen_bit_ids(tmp_path: Path, photos: Path, masks: Path) -> None:
    wide = ClassTable.of(TABLE.names, ids=[1, 2, 3, 300, 301], kinds=["thing"] * 5)
    assert predict(write_model(tmp_path / "wide", table=wide), photos, masks) == 0
    mask = read_mask(masks / "photo0.png")
    assert mask.dtype == np.uint16
    assert set(np.unique(mask).tolist()) <= set(wide.ids)


def test_damaged_folders(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = json.loads((model / "model.json").read_text())

    def message(name: str, **card: object) -> str:
        folder = Path(shutil.copytree(model, tmp_path / name))
        (folder / "model.json").write_text(json.dumps({**given, **card}))
        assert predict(folder, photos, tmp_path / "out") == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    assert given["input"]["size"] == SIDE
    assert "has no `size` under `input`" in message("a", input={**given["input"], "size": None})
    assert "expected whole numbers of px" in message("b", longest="far")
    assert "contradicts itself: its network has 5 classes, 4 are listed" in message(
        "c", classes=given["classes"][:4]
    )
    options = {**given["network"]["options"], "network": {"width": 33}}
    assert "cannot be built" in message("d", network={"name": NETWORK, "options": options})


def test_exported_graph_gives_the_same_scores(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")
    file = tmp_path / "simformer.onnx"
    assert main(["export", "--model", str(model), "--output", str(file), "--size", "64x96"]) == 0
    assert "5 classes" in capsys.readouterr().out
    image = photograph(64, 96, seed=2)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"image": image.transpose(2, 0, 1)[None].astype(np.float32)})[0]
    assert logits.shape == (1, 5, 64, 96)
    assert np.allclose(np.exp(logits[0]) - 0.001, expected(network_of(model), image), atol=1e-4)
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    assert [row["id"] for row in classes] == list(TABLE.ids)


@torch.inference_mode()
def test_what_is_exported_scales_the_image_as_predict_does(model: Path) -> None:
    plain, image = segmenter.load_plain(model, "cpu"), photograph(48, 40, seed=2)
    x = normalise(image, mean=IMAGENET_MEAN, std=IMAGENET_STD)[None]
    scores = plain.network(x)[0].exp().numpy() - 0.001
    seen_as_it_is = one_look(network_of(model), image, (48, 40), mirror=False).numpy()
    difference = np.abs(scores - expected(network_of(model), image)).mean()
    assert difference < 0.02  # `predict` rounds the scaled image to whole grey levels
    assert np.abs(scores - seen_as_it_is).mean() > 10 * difference
