"""`anyshot predict` and `export` with a LarvSeg model folder; classes by id, name, synonym and group."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from anyshot.cli import main
from anyshot.commands.segmenters import load, load_plain
from anyshot.data.classes import ClassTable
from anyshot.data.images import read_image, read_mask
from anyshot.engine.model_folder import model_card, save_model_folder
from anyshot.engine.stores import Store
from anyshot.errors import ConfigError
from anyshot.larvseg.artifacts import vocabulary_table
from anyshot.larvseg.head import ActiveClasses
from anyshot.larvseg.inference import Classifier, see
from anyshot.larvseg.networks import NETWORK, build_larvseg
from anyshot.larvseg.options import View
from anyshot.larvseg.segmenter import VocabularySegmenter
from anyshot.larvseg.vocabulary import Vocabulary
from anyshot.larvseg.words import rows_of_words
from tests.larvseg.small_networks import picture

WORDS = Vocabulary(
    ids=("n1", "n2", "n3", "sky", "traffic_light", "n6"),
    names=("crane", "crane", "streetcar", "sky", "traffic_light", "Indian_pipe"),
    synonyms=(("bird",), (), ("tram", "trolley car"), (), (), ()),
)
GROUPS = {"vehicle": ["n3", "n2"]}
VIEW = {"short_side": 48, "long_side": 192}
MEAN, STD = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)


def write_model(folder: Path, vocabulary: Vocabulary = WORDS, **card: Any) -> Path:
    """Write a model folder as `larvseg_attentive` does, with random weights."""
    options = {
        "backbone": {"name": "test_efficientnet", "weights": "none", "output_stride": 16},
        "neck": {"kind": "none"},
        "rows": len(vocabulary),
        "bank": {"slots": 1, "tokens": 2},
    }
    torch.manual_seed(5)
    network = build_larvseg(options)
    content = model_card(
        system="larvseg",
        split="tiny",
        network=NETWORK,
        network_options={**options, "backbone": {**options["backbone"], "weights": "no/such/file.pth"}},  # type: ignore[dict-item]
        table=vocabulary_table(vocabulary),
        mean=MEAN,
        std=STD,
        **{"vocabulary": vocabulary.to_json(), "view": VIEW, "groups": GROUPS, **card},
    )
    save_model_folder(folder, state_dict=network.state_dict(), card=content)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, size in enumerate([(60, 80), (60, 80), (70, 33)]):
        Image.fromarray(picture(*size, seed=number)).save(folder / f"photo{number}.png")
    return folder


def predict(model: Path, photos: Path, masks: Path, *words: str) -> int:
    line = ["predict", "--model", str(model), "--images", str(photos), "--output", str(masks)]
    return main([*line, "--device", "cpu", "--threads", "1", *words])


def expected(folder: Path, image: np.ndarray, **view: Any) -> np.ndarray:
    loaded = load(folder, "cpu")
    assert isinstance(loaded, VocabularySegmenter)
    seen = see(
        loaded.network, image, view=View(**{**VIEW, "window": None, **view}), mean=MEAN, std=STD, device="cpu"
    )
    every = ActiveClasses(rows=torch.arange(len(loaded.table)))
    return Classifier(loaded.network.head, every).decide(seen, postprocess="label_nearest", memory_mib=32)


def test_masks_of_the_whole_vocabulary(model: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(model, photos, tmp_path, "--overlay", "--batch", "2") == 0
    table = ClassTable.read(tmp_path / "classes.csv")
    assert table.names == (
        "crane (n1)", "crane (n2)", "streetcar", "sky", "traffic_light", "Indian_pipe",
    )  # fmt: skip
    seen = set()
    for path in photos.iterdir():
        mask = read_mask(tmp_path / f"{path.stem}.png")
        assert np.array_equal(mask, expected(model, read_image(path)))
        seen |= set(np.unique(mask).tolist())
    assert len(seen) > 2, "the test model says the same everywhere: it would test nothing"


def test_chosen_classes_are_what_all_classes_leave_them(model: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(model, photos, tmp_path / "all") == 0
    asked = {
        "one": ("--classes", "tram,n1", [2, 0]),
        "two": ("--classes", "traffic light,Indian pipe, SKY", [4, 5, 3]),
        "three": ("--classes", "vehicle", [1, 2]),
    }
    for name, (flag, words, rows) in asked.items():
        assert predict(model, photos, tmp_path / name, flag, words) == 0
        for path in photos.iterdir():
            whole, some = (read_mask(tmp_path / part / f"{path.stem}.png") for part in ("all", name))
            assert np.array_equal(some, np.where(np.isin(whole, rows), whole, 255))
    record = json.loads((tmp_path / "three" / "predict.json").read_text())
    assert record["classes"] == ["crane (n2)", "streetcar"]


def test_words() -> None:
    assert rows_of_words(WORDS, ["n2", "trolley_car", "streetcar", "crane (n1)"]) == [1, 2, 0]
    assert rows_of_words(WORDS, ["indian pipe", "Traffic Light"]) == [5, 4]
    assert rows_of_words(WORDS, ["Vehicle", "tram"], groups=GROUPS) == [2, 1]
    with pytest.raises(ConfigError, match=r"did you mean streetcar\?"):
        rows_of_words(WORDS, ["streetcat"])
    with pytest.raises(ConfigError, match=r"several rows .* 'crane' \(one of n1, n2\); give the id"):
        rows_of_words(WORDS, ["crane"])
    # what is written exactly comes before what only reads the same
    both = Vocabulary(("a b", "a_b", "A B"), ("a b", "a_b", "A B"), ((), (), ()))
    assert rows_of_words(both, ["a_b", "A B", "a b"]) == [1, 2, 0]


def test_wrong_words_stop_before_anything_is_written(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (("skyy", "did you mean sky?"), ("crane", "one of n1, n2"), (" , ", "is empty")):
        assert predict(model, photos, tmp_path / "masks", "--classes", words) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


def test_scores_are_probabilities_of_every_class(model: Path, photos: Path, tmp_path: Path) -> None:
    assert predict(model, photos, tmp_path / "plain") == 0
    assert predict(model, photos, tmp_path / "scored", "--scores") == 0
    assert predict(model, photos, tmp_path / "some", "--scores", "--classes", "tram") == 0
    store = Store(sorted((tmp_path / "scored").glob("scores_*.h5")))
    for path in photos.iterdir():
        found = store[path.stem]
        assert list(found.classes) == list(range(6))
        assert np.allclose(found.scores.astype(np.float32).sum(axis=0), 1, atol=5e-3)
        plain, scored = (read_mask(tmp_path / part / f"{path.stem}.png") for part in ("plain", "scored"))
        assert np.array_equal(plain, scored)
    some = Store(sorted((tmp_path / "some").glob("scores_*.h5")))["photo2"]
    assert list(some.classes) == [2]
    assert np.array_equal(some.scores[0], store["photo2"].scores[2])


def test_tiles_and_scale(model: Path, photos: Path, tmp_path: Path) -> None:
    image = read_image(photos / "photo0.png")
    assert predict(model, photos, tmp_path / "tiled", "--tile", "64") == 0
    tiled = expected(model, image, window=64, window_stride=64)
    assert np.array_equal(read_mask(tmp_path / "tiled" / "photo0.png"), tiled)
    assert predict(model, photos, tmp_path / "double", "--scales", "2") == 0
    double = expected(model, image, short_side=96, long_side=384)
    assert np.array_equal(read_mask(tmp_path / "double" / "photo0.png"), double)
    assert not np.array_equal(double, expected(model, image))
    loaded = load(model, "cpu")
    assert loaded.tile_for(image) is None
    assert loaded.with_infer(tile=64).tile_for(image) is None  # 48 x 64 px go through whole
    assert loaded.with_infer(tile=63).tile_for(image) == 63


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--flip",), "--flip: the mirrored image is not added with LarvSeg"),
        (("--crf",), "--crf: masks are not refined with LarvSeg"),
        (("--scales", "1,2"), "--scales: LarvSeg looks at one size of an image, 2 are given"),
    ],
)
def test_what_larvseg_has_not(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    assert predict(model, photos, tmp_path / "masks", *words) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()


def test_more_classes_than_8_bits(photos: Path, tmp_path: Path) -> None:
    words = tuple(f"class {number}" for number in range(300))
    many = write_model(tmp_path / "many", Vocabulary(words, words, ((),) * 300), groups={})
    assert predict(many, photos, tmp_path / "masks", "--classes", "class 299,class 7") == 0
    mask = read_mask(tmp_path / "masks" / "photo0.png")
    assert mask.dtype == np.uint16
    assert set(np.unique(mask).tolist()) <= {7, 299, 65535}


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

    assert "has no `view`" in message("a", view=None)
    assert "`view`: " in message("b", view={"short_side": "far"})
    assert "has no readable `vocabulary`" in message("c", vocabulary={"rows": 3})
    other = Vocabulary(("x", "y"), ("x", "y"), ((), ()))
    assert "its vocabulary has 2 rows, its network 6, and 6 classes" in message(
        "d", vocabulary=other.to_json()
    )


def test_exported_graph_gives_the_logits(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")
    file = tmp_path / "larvseg.onnx"
    assert main(["export", "--model", str(model), "--output", str(file), "--size", "48x72"]) == 0
    assert "6 classes" in capsys.readouterr().out
    image = picture(48, 72, seed=2)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"image": image.transpose(2, 0, 1)[None].astype(np.float32)})[0]
    loaded = load(model, "cpu")
    assert isinstance(loaded, VocabularySegmenter)
    x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.2
    with torch.no_grad():
        small = loaded.network.head(
            loaded.network.tokens(F.pad(x, (0, 8))), ActiveClasses(rows=torch.arange(6))
        )
    whole = F.interpolate(small, size=(48, 80), mode="bilinear", align_corners=False)[..., :72]
    assert np.allclose(logits, whole.numpy(), atol=1e-3)


def test_too_many_classes_to_export(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyshot.larvseg.segmenter.MOST_EXPORTED", 5)
    with pytest.raises(ConfigError, match="has 6 classes: a graph whose logits all exist"):
        load_plain(model, "cpu")
