"""A model folder with a tiny RETAB segmenter, and photographs of every kind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyshot.data.classes import ClassTable
from anyshot.engine.model_folder import model_card, save_model_folder
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD
from anyshot.options import BackboneOptions
from anyshot.retab.networks import build_segmentation

NAMES = ("background", "cat", "dog", "tree, fir")
IDS = (0, 3, 7, 9)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 of coloured patches."""
    coarse = np.random.default_rng(seed).integers(0, 256, (1 + height // 8, 1 + width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only lose by threads, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def table() -> ClassTable:
    return ClassTable.of(NAMES, ids=IDS)


def write_model(folder: Path, table: ClassTable | None = None, **infer: object) -> Path:
    """A model folder of RETAB; `infer` goes to `model_card` (scales, flip, crf, tile, size_divisor)."""
    table = ClassTable.of(NAMES, ids=IDS) if table is None else table
    backbone = BackboneOptions(name="resnet38", weights="none", width=0.02).model_dump()
    options = {
        "backbone": {**backbone, "weights": "no/such/file.params"},
        "classes": len(table),
        "head_channels": 8,
        "head_dilation": 2,
        "skip_channels": 0,
    }
    torch.manual_seed(1)
    network = build_segmentation({**options, "backbone": backbone})
    # Untrained logits are nearly equal: make the classes differ from place to place.
    with torch.no_grad():
        network.classifier.weight.normal_(std=3.0)
    card = model_card(
        system="retab",
        split="fold0",
        network="retab_segmentation",
        network_options=options,
        table=table,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        trained_on="nothing",
        **infer,
    )
    save_model_folder(folder, state_dict=network.state_dict(), card=card)
    return folder


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a model folder; what it is given goes to `write_model`."""
    return lambda table, **infer: write_model(tmp_path_factory.mktemp("model"), table, **infer)


@pytest.fixture(scope="session")
def model_folder(make_model: Callable[..., Path], table: ClassTable) -> Path:
    return make_model(table, scales=[1.0, 0.5], flip=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs of two sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in enumerate([(40, 56), (40, 56), (64, 48)]):
        Image.fromarray(photograph(*size, seed=number)).save(folder / f"photo{number}.png")
    return folder
