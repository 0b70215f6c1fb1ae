"""`anyshot novel`: classes added, taken over, listed and removed, each without touching the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.cli import main
from anyshot.data.classes import voc_colour
from anyshot.data.images import read_image
from anyshot.engine.artifacts import write_json
from anyshot.engine.novel_folder import free_id
from anyshot.raml.bank import NovelClass, describe_support, load_class, save_class
from anyshot.raml.open_model import load_model
from tests.cli.conftest import photograph
from tests.raml.open_models import META, TABLE, write_model


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("raml"))


@pytest.fixture
def model(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture
def shots(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Two images and their masks: 1 = the class, 255 = ignored, 7 = something else in the second."""
    images, masks = [], []
    for number, size in enumerate([(64, 96), (80, 64)]):
        image, mask = tmp_path / f"shot{number}.png", tmp_path / f"shot{number}_mask.png"
        Image.fromarray(photograph(*size, seed=number)).save(image)
        values = np.zeros(size, np.uint8)
        values[8:40, 8:40] = 1
        values[50:] = 255
        Image.fromarray(values).save(mask)
        images.append(image)
        masks.append(mask)
    return images, masks


def novel(action: str, model: Path, *more: object) -> int:
    return main(["novel", action, "--model", str(model), *map(str, more)])


def add(model: Path, name: str, shots: tuple[list[Path], list[Path]], *more: object) -> int:
    return novel("add", model, "--name", name, "--images", *shots[0], "--masks", *shots[1], *more)


def contents(model: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (model / "novel").iterdir()}


def test_add(model: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]) -> None:
    assert add(model, "tram", shots, "--min-area", 12, "--hit-ratio", "0.01") == 0
    assert "tram, id 28, 2 images, meta channels" in capsys.readouterr().out
    assert sorted(contents(model)) == ["settings.json", "tram.json", "tram.safetensors"]
    stored = load_class(model / "novel" / "tram.safetensors")
    loaded = load_model(model, "cpu")
    assert loaded.metric is not None
    for number, path in enumerate(shots[0]):
        image = read_image(path)
        mask = np.zeros(image.shape[:2], bool)
        mask[8:40, 8:40] = True
        expected = describe_support(
            loaded.metric, loaded.maps(image), mask, hit_threshold=0.5, what="a support"
        )
        assert np.array_equal(stored.embeddings[number], expected.embedding)
        assert np.array_equal(stored.hits[number], expected.hits)
    facts = json.loads((model / "novel" / "tram.json").read_text())
    assert facts["supports"] == ["shot0.png", "shot1.png"]
    assert facts["colour"] == list(voc_colour(28))
    settings = json.loads((model / "novel" / "settings.json").read_text())
    assert settings == {
        "threshold": 0.8, "hit_ratio": 0.01, "channel_threshold": 0.5,
        "closing": 5, "min_area": 12, "reject_known": False,
    }  # fmt: skip


def test_adding_and_removing_leaves_the_others_as_they_are(
    model: Path, shots: tuple[list[Path], list[Path]]
) -> None:
    assert add(model, "tram", shots) == 0
    assert add(model, "car", shots) == 0
    before = contents(model)
    assert add(model, "big wheel", (shots[0][:1], shots[1][:1])) == 0
    after = contents(model)
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == ["big_wheel.json", "big_wheel.safetensors"]
    assert novel("remove", model, "--name", "big wheel") == 0
    assert contents(model) == before
    ids = {name: load_class(model / "novel" / f"{name}.safetensors").id for name in ("tram", "car")}
    assert ids == {"tram": 28, "car": 26}


def test_list_and_set(
    model: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert novel("list", model) == 0
    assert "has no novel classes" in capsys.readouterr().out
    assert add(model, "tram", shots) == 0
    assert add(model, "truck", shots) == 0
    assert novel("set", model, "--threshold", "0.6", "--reject-known") == 0
    capsys.readouterr()
    assert novel("list", model) == 0
    said = capsys.readouterr().out
    assert "tram, id 28, 2 images" in said
    assert "truck, id 27, 2 images" in said
    assert "threshold 0.6" in said
    assert "reject_known True" in said
    assert novel("set", model, "--no-reject-known") == 0
    assert not json.loads((model / "novel" / "settings.json").read_text())["reject_known"]


def test_replace_keeps_the_id(model: Path, shots: tuple[list[Path], list[Path]]) -> None:
    assert add(model, "tram", shots) == 0
    assert add(model, "bridge", shots) == 0
    assert add(model, "tram", (shots[0][:1], shots[1][:1]), "--replace") == 0
    stored = load_class(model / "novel" / "tram.safetensors")
    assert (stored.id, len(stored.supports)) == (28, 1)
    assert load_class(model / "novel" / "bridge.safetensors").id == 29


def test_mask_values(
    model: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    black_and_white = np.zeros((64, 96), np.uint8)
    black_and_white[8:40, 8:40] = 255
    Image.fromarray(black_and_white).save(shots[1][0])
    one = (shots[0][:1], shots[1][:1])
    assert add(model, "tram", one) == 1
    said = capsys.readouterr().err
    assert "it has 0, 255" in said
    assert "--mask-value" in said
    assert add(model, "tram", one, "--mask-value", 255) == 0
    ids = black_and_white // 255 * 7
    ids[0, 0] = 3
    Image.fromarray(ids).save(shots[1][0])
    assert add(model, "bridge", one, "--mask-value", 7) == 0
    tram, bridge = (load_class(model / "novel" / f"{name}.safetensors") for name in ("tram", "bridge"))
    assert np.array_equal(tram.embeddings, bridge.embeddings)


def test_what_stops_add(
    model: Path,
    shots: tuple[list[Path], list[Path]],
    tmp_path: Path,
    model_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, masks = shots

    def message(status: int) -> str:
        assert status == 1
        said = capsys.readouterr().err
        assert said.startswith("anyshot novel: ")
        assert "Traceback" not in said
        return said

    assert "2 --images but 1 --masks" in message(add(model, "tram", (images, masks[:1])))
    assert "of the images' sizes" in message(add(model, "tram", (images, masks[::-1])))
    assert "no such image" in message(add(model, "tram", ([tmp_path / "no.png"], masks[:1])))
    assert "'road' is a known class" in message(add(model, "road", shots))
    assert "cannot be called 'settings'" in message(add(model, "settings", shots))
    assert "cannot be called ' '" in message(add(model, " ", shots))
    assert "no pixel of the class" in message(add(model, "tram", shots, "--mask-value", 9))
    assert "closing: " in message(add(model, "tram", shots, "--closing", 4))
    assert "min_area" in message(add(model, "tram", shots, "--min-area", 0))
    assert "--device" in message(add(model, "tram", shots, "--device", "tpu"))
    assert "nothing to set" in message(novel("set", model))
    assert not (model / "novel").exists()
    assert add(model, "big wheel", shots) == 0
    capsys.readouterr()
    assert "already: --replace" in message(add(model, "big wheel", shots))
    assert "which is 'big wheel'" in message(add(model, "big:wheel", shots))
    assert "no novel class 'tram'; it has: big wheel" in message(novel("remove", model, "--name", "tram"))
    assert "is no RAML model" in message(add(model_folder, "tram", shots))
    assert "does not exist" in message(add(tmp_path / "nowhere", "tram", shots))
    early = write_model(tmp_path / "early", network="raml_open")
    assert "need raml_metric" in message(add(early, "tram", shots))


def write_bank(folder: Path, model: Path, shots: tuple[list[Path], list[Path]], **changes: object) -> Path:
    """A bank as raml_novel_bank writes it, with one class, car."""
    assert add(model, "car", shots) == 0
    stored = load_class(model / "novel" / "car.safetensors")
    assert novel("remove", model, "--name", "car") == 0
    (model / "novel" / "settings.json").unlink()
    folder.mkdir()
    facts: dict[str, object] = {"split": "16_1", "classes_digest": TABLE.digest(), **changes}
    save_class(folder, stored, **facts)
    weights = json.loads((model / "model.json").read_text())["weights_sha256"]
    entry = {"id": 26, "name": "car", "supports": [], "channels": [], "file": "car.safetensors"}
    bank = {"split": "16_1", "hit_ratio": 0.1, "classes": [entry]}
    write_json(folder / "bank.json", {**bank, "input_hashes": json.dumps({"metric": [weights]})})
    return folder / "bank.json"


def test_copy(
    model: Path,
    shots: tuple[list[Path], list[Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bank = write_bank(tmp_path / "bank", model, shots)
    assert novel("copy", model, "--bank", bank, "--min-area", 9) == 0
    assert "car, id 26, 2 images" in capsys.readouterr().out
    taken = load_class(model / "novel" / "car.safetensors")
    given = load_class(bank.with_name("car.safetensors"))
    assert np.array_equal(taken.embeddings, given.embeddings)
    settings = json.loads((model / "novel" / "settings.json").read_text())
    assert (settings["hit_ratio"], settings["min_area"]) == (0.1, 9)
    assert novel("copy", model, "--bank", bank) == 1
    assert "already" in capsys.readouterr().err
    assert novel("copy", model, "--bank", bank, "--replace") == 0


def test_a_bank_of_another_model_is_refused(
    model: Path,
    shots: tuple[list[Path], list[Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bank = write_bank(tmp_path / "bank", model, shots)

    def message(target: Path, file: Path) -> str:
        assert novel("copy", target, "--bank", file) == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert not (target / "novel" / "car.json").exists()
        return said

    other = write_model(tmp_path / "other", seed=1)
    assert "built with other weights" in message(other, bank)
    without = {**json.loads(bank.read_text()), "input_hashes": "{}"}
    write_json(bank, without)
    narrow = write_model(tmp_path / "narrow", embedding=5)
    assert "embeddings have the shape (2, 6), the model needs (shots, 5)" in message(narrow, bank)
    split = write_model(tmp_path / "split", split="14_5")
    assert "its split is '16_1', the model's is '14_5'" in message(split, bank)
    assert "is no novel bank" in message(model, tmp_path / "nowhere.json")
    assert novel("copy", other, "--bank", bank) == 0, "nothing says that the weights differ"


def test_a_class_does_not_outlive_the_weights_it_was_made_with(
    model: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(model, "tram", shots) == 0
    write_model(model, seed=1)
    assert novel("list", model) == 0
    assert "DOES NOT FIT the model: it was made with other weights" in capsys.readouterr().out
    words = ["predict", "--model", str(model), "--images", str(shots[0][0]), "--output", str(model / "out")]
    assert main(words) == 1
    assert "made with other weights" in capsys.readouterr().err
    assert add(model, "tram", shots, "--replace") == 0
    assert main(words) == 0


def test_damaged_settings(
    model: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(model, "tram", shots) == 0
    (model / "novel" / "settings.json").write_text('{"min_area": "many"}')
    assert novel("list", model) == 1
    assert "min_area" in capsys.readouterr().err
    (model / "novel" / "settings.json").unlink()
    assert novel("list", model) == 0


def test_reject_known_needs_prototypes(
    tmp_path: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    from anyshot.engine.checkpoints import save_weights

    folder = write_model(tmp_path / "imported")
    card = json.loads((folder / "model.json").read_text())
    state = load_file(folder / "model.safetensors")
    state["embedding.known_prototypes"].zero_()
    save_weights(folder / "model.safetensors", state, card)
    assert add(folder, "tram", shots, "--reject-known") == 1
    assert "has no prototypes" in capsys.readouterr().err
    assert add(folder, "tram", shots) == 0


def test_free_ids() -> None:
    assert free_id([7, 23]) == 24
    assert free_id([254]) == 1
    assert free_id(range(255)) == 256
    assert free_id([*range(1, 255), 300]) == 256


def test_a_class_of_no_channel_is_told(
    model: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(model, "tram", shots, "--hit-ratio", 1) == 0
    assert "no meta channel covers more than 100%" in capsys.readouterr().out
    stored = load_class(model / "novel" / "tram.safetensors")
    assert isinstance(stored, NovelClass)
    assert stored.hits.shape == (2, META)
