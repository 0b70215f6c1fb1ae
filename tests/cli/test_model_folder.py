"""Model folders: written, read back, and refused with a reason."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from anyshot.commands import NETWORKS
from anyshot.data.classes import ClassTable
from anyshot.engine.inference import multi_scale_logits
from anyshot.engine.model_folder import SegmentationModel, load_model_folder
from anyshot.errors import ArtifactError, WeightsError
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD


def load(folder: Path) -> SegmentationModel:
    return load_model_folder(folder, "cpu", builders=NETWORKS)


def image(height: int = 41, width: int = 57) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_folder_is_read_back_whole(model_folder: Path, table: ClassTable) -> None:
    model = load(model_folder)
    assert model.table == table == ClassTable.read(model_folder / "classes.csv")
    assert model.card.infer.scales == [1.0, 0.5]
    assert model.card.infer.flip
    assert model.card.model_dump()["trained_on"] == "nothing"
    assert not model.network.training


def test_segment_gives_ids_of_the_most_probable_class(model_folder: Path, table: ClassTable) -> None:
    model = load(model_folder)
    ids, scores = model.segment(image()), model.scores(image())
    assert scores.shape == (4, 41, 57)
    assert np.allclose(scores.sum(axis=0), 1, atol=1e-5)
    assert ids.dtype == np.uint8
    assert np.array_equal(ids, np.asarray(table.ids)[scores.argmax(axis=0)])
    assert len(np.unique(ids)) > 1, "the test model says the same everywhere: it would test nothing"
    expected = multi_scale_logits(
        model.network,
        image(),
        scales=[1.0, 0.5],
        flip=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        device="cpu",
    )
    assert np.allclose(scores, expected.softmax(0).numpy(), atol=1e-6)


def test_the_least_card_that_a_stage_writes_is_enough(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "least"
    shutil.copytree(model_folder, folder)
    (folder / "classes.csv").unlink()
    card = json.loads((folder / "model.json").read_text())
    least = {key: card[key] for key in ("system", "split", "network", "classes", "weights_sha256")}
    least["input"] = {"mean": card["input"]["mean"], "std": card["input"]["std"]}
    least["infer"] = {"scales": [1, 0.5], "flip": True, "crf": False}
    (folder / "model.json").write_text(json.dumps(least))
    assert np.array_equal(load(folder).segment(image()), load(model_folder).segment(image()))


def test_crf_of_the_card_is_applied(model_folder: Path) -> None:
    model = load(model_folder)
    plain = model.scores(image())
    for crf in (True, {"bilateral_sxy": 40.0, "steps": 2}):
        refined = model.with_infer(crf=crf).scores(image())
        assert np.allclose(refined.sum(axis=0), 1, atol=1e-3)
        assert not np.allclose(refined, plain, atol=1e-2)
    with pytest.raises(ArtifactError, match="no_such"):
        model.with_infer(crf={"no_such": 1.0}).scores(image())


def test_large_images_are_tiled_and_nearly_the_same(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(model_folder)
    assert model.tile_for(np.broadcast_to(np.uint8(0), (3000, 3000, 3))) == 1024
    large = image(300, 260)
    assert model.tile_for(large) is None
    tiled = model.with_infer(tile=256)
    assert tiled.tile_for(large) == 256
    assert (tiled.segment(large) == model.segment(large)).mean() > 0.95
    monkeypatch.setattr("anyshot.engine.model_folder.WHOLE_SCORES", 4 * 200 * 200)
    assert model.tile_for(large) == 128, "many classes make the tiles smaller"


def test_sixteen_bit_ids(make_model, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    wide = ClassTable.of(["sky", "sea", "sand"], ids=[1, 300, 4000])
    ids = load(make_model(wide)).segment(image())
    assert ids.dtype == np.uint16
    assert set(np.unique(ids)) <= {1, 300, 4000}


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_incomplete_folders_name_what_is_missing(model_folder: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(model_folder, folder)
    (folder / missing).unlink()
    with pytest.raises(ArtifactError, match=f"incomplete: {missing}"):
        load(folder)


def broken(model_folder: Path, folder: Path, **changes: object) -> Path:
    shutil.copytree(model_folder, folder)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, **changes}))
    return folder


def test_cards_that_do_not_describe_the_weights_are_refused(model_folder: Path, tmp_path: Path) -> None:
    card = json.loads((model_folder / "model.json").read_text())
    with pytest.raises(ArtifactError, match="does not exist"):
        load(tmp_path / "nowhere")
    unknown = {**card["network"], "name": "raml_unknown"}
    with pytest.raises(ArtifactError, match=r"raml_unknown.*known are: retab_segmentation"):
        load(broken(model_folder, tmp_path / "a", network=unknown))
    with pytest.raises(ArtifactError, match=r"input\.mean"):
        load(broken(model_folder, tmp_path / "b", input={"mean": [0.5], "std": [1, 1, 1]}))
    with pytest.raises(WeightsError, match="output channels"):
        load(broken(model_folder, tmp_path / "c", classes=card["classes"][:3]))
    wider = {**card["network"], "options": {**card["network"]["options"], "head_channels": 9}}
    with pytest.raises(WeightsError, match="head"):
        load(broken(model_folder, tmp_path / "d", network=wider))
    without = {name: value for name, value in card["network"]["options"].items() if name != "head_channels"}
    with pytest.raises(ArtifactError, match="head_channels"):
        load(broken(model_folder, tmp_path / "e", network={**card["network"], "options": without}))
    repeated = [card["classes"][0]] * 4
    with pytest.raises(ArtifactError, match="more than once"):
        load(broken(model_folder, tmp_path / "f", classes=repeated))
    folder = broken(model_folder, tmp_path / "g")
    (folder / "model.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(folder)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives(model_folder: Path) -> None:
    found = load_model_folder(model_folder, "cuda", builders=NETWORKS).scores(image())
    assert np.allclose(found, load(model_folder).scores(image()), atol=1e-2)
