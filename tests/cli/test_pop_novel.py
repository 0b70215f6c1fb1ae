"""`anyshot novel` with POP model folders: classes learnt, taken over, listed and removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyshot.cli import main
from anyshot.data.classes import voc_colour
from anyshot.data.images import read_mask
from anyshot.engine.checkpoints import load_weights
from anyshot.ops.projections import unit_prototypes
from anyshot.pop.novel_folder import NovelClass, read_class, read_classes, session_head
from anyshot.pop.open_model import load_model, read_facts
from tests.cli.conftest import photograph
from tests.cli.test_predict import predict
from tests.pop.pop_models import (
    BLUE,
    CHANNELS,
    SQUARES,
    fold_tables,
    squares,
    trained_on_squares,
    write_head,
    write_model,
)
from tests.raml import open_models

FEW = ("--steps", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("pop"))


@pytest.fixture
def model(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture
def shots(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Two images of unlike sizes and their masks: 1 = the class, 255 = ignored."""
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
    return novel("add", model, "--name", name, "--images", *shots[0], "--masks", *shots[1], *(more or FEW))


def contents(model: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (model / "novel").iterdir()}


def stored(model: Path, name: str) -> NovelClass:
    return read_class(model / "novel" / f"{name}.safetensors").novel


def test_add(model: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]) -> None:
    before = (model / "model.safetensors").read_bytes()
    assert add(model, "tram", shots) == 0
    said = capsys.readouterr()
    assert "tram, id 13, 2 images, session 1 (" in said.out
    assert "on its own images it gets" in said.out
    assert "novel add: step 4/4" in said.err
    assert sorted(contents(model)) == ["tram.json", "tram.safetensors"]
    assert (model / "model.safetensors").read_bytes() == before
    tram = stored(model, "tram")
    assert tram.prototype.shape == (CHANNELS,)
    assert float(tram.prototype.norm()) == pytest.approx(1, abs=1e-6)
    base, _ = load_weights(model / "model.safetensors")
    assert not torch.equal(tram.classifier[0].weight, base["head.classifier.0.weight"])
    facts = json.loads((model / "novel" / "tram.json").read_text())
    assert (facts["system"], facts["seed"], facts["steps"]) == ("pop", 0, 4)
    assert facts["supports"] == ["shot0.png", "shot1.png"]
    assert facts["colour"] == list(voc_colour(13))
    assert facts["session"]["number"] == 1
    assert facts["model"] == json.loads((model / "model.json").read_text())["weights_sha256"]


def test_the_seed_decides(model: Path, shots: tuple[list[Path], list[Path]]) -> None:
    found = []
    for seed in ("1", "1", "2"):
        assert add(model, "tram", shots, "--replace", "--seed", seed, *FEW) == 0
        found.append((model / "novel" / "tram.safetensors").read_bytes())
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_a_class_starts_from_the_background_so_far(model: Path, shots: tuple[list[Path], list[Path]]) -> None:
    """Before any step g is f in the first session, and the g before in the second."""
    assert add(model, "tram", shots) == 0
    assert add(model, "wheel", shots, "--steps", "0") == 0
    for mine, before in zip(
        stored(model, "wheel").classifier.parameters(),
        stored(model, "tram").classifier.parameters(),
        strict=True,
    ):
        assert torch.equal(mine, before)
    assert (stored(model, "tram").session, stored(model, "wheel").session) == (1, 2)


def test_sessions(model: Path, shots: tuple[list[Path], list[Path]]) -> None:
    """A class's logit comes from its own session, the background's from the newest, after all projections."""
    for name in ("tram", "wheel"):
        assert add(model, name, shots) == 0
    facts, loaded = read_facts(model), load_model(model, "cpu")
    head = session_head(loaded, read_classes(facts))
    q = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(0))
    found = head(q[None, :, None, None]).flatten()
    units = unit_prototypes(loaded.network.head.base_emb)
    rest = q - sum((unit @ q) * unit for unit in units)
    tram, wheel = stored(model, "tram"), stored(model, "wheel")
    for number, one in enumerate((tram, wheel), start=4):
        part = (one.prototype @ q) * one.prototype
        torch.testing.assert_close(found[number], one.classifier(part[None])[0, 0])
        rest = rest - part
    torch.testing.assert_close(found[0], wheel.classifier(rest[None])[0, 0])
    for number, unit in enumerate(units, start=1):
        f = loaded.network.head.classifier
        torch.testing.assert_close(found[number], f(((unit @ q) * unit)[None])[0, 0])
    plus, minus = tram.slopes
    assert plus == pytest.approx(float(tram.classifier(tram.prototype[None])), rel=1e-5)
    assert minus == pytest.approx(float(tram.classifier(-tram.prototype[None])), rel=1e-5)


def test_adding_and_removing_leaves_the_others_as_they_are(
    model: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert novel("list", model) == 0
    assert "has no novel classes" in capsys.readouterr().out
    assert add(model, "tram", shots) == 0
    assert add(model, "car", shots) == 0
    before = contents(model)
    assert add(model, "big wheel", (shots[0][:1], shots[1][:1])) == 0
    after = contents(model)
    assert {name: after[name] for name in before} == before
    capsys.readouterr()
    assert novel("list", model) == 0
    said = capsys.readouterr().out
    assert "tram, id 13, 2 images, session 1" in said
    assert "car, id 9, 2 images, session 2" in said
    assert "big wheel, id 14, 1 images, session 3" in said
    assert novel("remove", model, "--name", "big wheel") == 0
    assert contents(model) == before
    assert novel("remove", model, "--name", "big wheel") == 1
    assert "no novel class 'big wheel'; it has: car, tram" in capsys.readouterr().err


def test_replace_keeps_the_id_and_makes_a_session_of_its_own(
    model: Path, shots: tuple[list[Path], list[Path]]
) -> None:
    for name in ("tram", "wheel"):
        assert add(model, name, shots) == 0
    assert add(model, "tram", shots, "--replace", *FEW) == 0
    assert (stored(model, "tram").id, stored(model, "tram").session) == (13, 3)
    assert stored(model, "wheel").id == 14


def test_what_stops_add(
    model: Path, shots: tuple[list[Path], list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    assert "no pixel of the class" in message(add(model, "tram", shots, "--mask-value", 9, *FEW))
    assert "no such image" in message(add(model, "tram", ([tmp_path / "no.png"], masks[:1])))
    assert "'cat' is a known class" in message(add(model, "cat", shots))
    assert "'background' is a known class" in message(add(model, "background", shots))
    assert "cannot be called ' '" in message(add(model, " ", shots))
    assert "--threshold, --min-area: these are settings of RAML" in message(
        add(model, "tram", shots, "--threshold", "0.7", "--min-area", 3)
    )
    assert "for which nothing can be set" in message(novel("set", model, "--threshold", "0.7"))
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(masks[0])
    assert "saved through colour" in message(add(model, "tram", shots))
    tiny = np.zeros((900, 900), np.uint8)
    tiny[450, 451] = 1
    Image.fromarray(tiny).save(masks[0])
    Image.fromarray(photograph(900, 900)).save(images[0])
    assert "nothing is left of the class when the image is scaled to 48 px" in message(
        add(model, "tram", shots)
    )
    assert not (model / "novel").exists()


def test_palette_masks(
    model: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Indices count, not colours; of several ones somebody must say which is the class."""
    values = np.zeros((64, 96), np.uint8)
    values[8:40, 8:40] = 5
    palette = Image.fromarray(values)
    palette.putpalette([part for number in range(256) for part in voc_colour(number)])
    one = (shots[0][:1], shots[1][:1])
    assert add(model, "gray", one) == 0
    palette.save(one[1][0])
    values[:4] = 0
    assert add(model, "tram", one) == 0
    values[50:, 50:] = 15
    several = Image.fromarray(values)
    several.putpalette([part for number in range(256) for part in voc_colour(number)])
    several.save(one[1][0])
    capsys.readouterr()
    assert add(model, "bike", one) == 1
    assert "palette mask of 2 values (5, 15)" in capsys.readouterr().err
    assert add(model, "bike", one, "--mask-value", 5, *FEW) == 0


def test_folders_of_other_systems(
    model: Path,
    model_folder: Path,
    shots: tuple[list[Path], list[Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for action in ("list", "set"):
        assert novel(action, model_folder) == 1
        assert "is no RAML model and no POP model" in capsys.readouterr().err
    assert add(model_folder, "tram", shots) == 1
    assert "is no RAML model and no POP model" in capsys.readouterr().err
    raml = open_models.write_model(tmp_path / "raml")
    assert add(raml, "tram", shots) == 1
    assert "--steps: RAML describes a class without training" in capsys.readouterr().err
    assert novel("copy", raml, "--head", tmp_path) == 1
    assert "give its bank.json with --bank" in capsys.readouterr().err
    assert novel("copy", model, "--bank", tmp_path / "bank.json") == 1
    assert "give its folder with --head" in capsys.readouterr().err
    head = write_head(tmp_path / "head", model)
    assert add(head, "tram", shots) == 1
    assert "is no POP model: it holds pop_head" in capsys.readouterr().err


def test_copy(
    model: Path, shots: tuple[list[Path], list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(model, "tram", shots) == 0
    before = contents(model)
    head = write_head(tmp_path / "head", model)
    assert novel("copy", model, "--head", head) == 0
    said = capsys.readouterr().out
    assert "bus, id 4, 2 images, session 2" in said
    assert "car, id 9, 2 images, session 2" in said
    after = contents(model)
    assert {name: after[name] for name in before} == before
    state, _ = load_weights(head / "model.safetensors")
    units = unit_prototypes(state["head.novel_emb"])
    for name, unit in zip(("bus", "car"), units, strict=True):
        assert torch.equal(stored(model, name).prototype, unit)
        assert torch.equal(stored(model, name).classifier[4].weight, state["head.classifier_n.4.weight"])
    facts = json.loads((model / "novel" / "bus.json").read_text())
    assert facts["supports"] == ["4_a", "4_b"]
    assert facts["copied_from"] == str(head)
    assert novel("copy", model, "--head", head) == 1
    assert "already: --replace" in capsys.readouterr().err
    assert novel("copy", model, "--head", head, "--replace") == 0
    assert stored(model, "bus").session == 2
    assert novel("remove", model, "--name", "bus") == 0
    assert stored(model, "car").session == 2


def test_heads_that_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(head: Path) -> str:
        assert novel("copy", model, "--head", head) == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert not (model / "novel").exists()
        return said

    other = write_model(tmp_path / "other", seed=1)
    assert "trained on another base model" in message(write_head(tmp_path / "a", other))
    for method in ("finetune", "prototype", "no_residual"):
        head = write_head(tmp_path / method, model, method=method)
        assert f"made by the method {method}" in message(head)
    assert "split is 'fold1', expected 'fold0'" in message(write_head(tmp_path / "b", model, split="fold1"))
    narrow = fold_tables(novel=("bus", "dog"))
    assert "another fold" in message(write_head(tmp_path / "c", model, tables=narrow))
    assert "expected pop_head" in message(model)
    assert "do not exist" in message(tmp_path / "nowhere")
    assert novel("copy", model, "--head", write_head(tmp_path / "d", model, method="no_orthogonality")) == 0


def test_a_class_does_not_outlive_the_weights_it_was_made_with(
    model: Path, shots: tuple[list[Path], list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(model, "tram", shots) == 0
    write_model(model, seed=1)
    capsys.readouterr()
    assert novel("list", model) == 0
    assert "DOES NOT FIT the model: it was made with other weights" in capsys.readouterr().out
    assert predict(model, shots[0], tmp_path / "out") == 1
    assert "made with other weights" in capsys.readouterr().err
    assert add(model, "tram", shots, "--replace", *FEW) == 0
    assert predict(model, shots[0], tmp_path / "out") == 0


def test_two_sessions_of_one_number(
    model: Path, shots: tuple[list[Path], list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files brought over from another copy of the folder."""
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    assert add(model, "tram", shots) == 0
    assert add(copy, "car", shots, "--seed", "3", *FEW) == 0
    for path in (copy / "novel").iterdir():
        shutil.copy(path, model / "novel")
    assert predict(model, shots[0], tmp_path / "out") == 1
    assert "both say that they are of session 1, but their classifiers differ" in capsys.readouterr().err


def test_a_network_with_novel_classes_of_its_own(
    tmp_path: Path, shots: tuple[list[Path], list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "imported", novel=True)
    assert add(model, "bus", shots) == 1
    assert "'bus' is a known class" in capsys.readouterr().err
    assert add(model, "tram", shots, "--steps", "0") == 0
    base, _ = load_weights(model / "model.safetensors")
    assert torch.equal(stored(model, "tram").classifier[0].weight, base["head.classifier_n.0.weight"])
    assert novel("list", model) == 0
    assert "the network itself brings along: bus, car" in capsys.readouterr().out
    assert predict(model, shots[0], tmp_path / "out") == 0


def scenes(folder: Path, count: int, seed: int) -> dict[Path, np.ndarray]:
    """Images with blue squares in a folder, and their ids."""
    folder.mkdir()
    rng, found = np.random.default_rng(seed), {}
    for number in range(count):
        image, ids = squares(rng, blue=True)
        path = folder / f"{number}.png"
        Image.fromarray(image).save(path)
        found[path] = ids
    return found


def iou_by_class(model: Path, images: dict[Path, np.ndarray], folder: Path) -> np.ndarray:
    assert predict(model, list(images), folder) == 0
    counts = np.zeros((len(SQUARES), len(SQUARES)))
    for path, ids in images.items():
        np.add.at(counts, (ids.ravel(), read_mask(folder / path.name).ravel()), 1)
    hits = np.diag(counts)
    return hits / (counts.sum(axis=0) + counts.sum(axis=1) - hits)


@pytest.mark.slow
def test_a_colour_never_seen_before_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network of red and green squares learns blue from five images, and keeps red and green."""
    tables = fold_tables(SQUARES, ("blue",))
    model = write_model(tmp_path / "model", tables=tables, network=trained_on_squares(tables))
    unseen = scenes(tmp_path / "unseen", 12, seed=1)
    before = iou_by_class(model, unseen, tmp_path / "before")
    assert before[BLUE] == 0
    images, masks = list(scenes(tmp_path / "shots", 5, seed=2).items()), []
    for path, ids in images:
        masks.append(tmp_path / f"mask_{path.name}")
        Image.fromarray((ids == BLUE).astype(np.uint8)).save(masks[-1])
    shots = ([path for path, _ in images], masks)
    assert add(model, "blue", shots, "--device", "cpu") == 0
    assert "blue, id 3, 5 images" in capsys.readouterr().out
    after = iou_by_class(model, unseen, tmp_path / "after")
    assert after[BLUE] > 0.2
    assert (after[:BLUE] > before[:BLUE] - 0.1).all()
