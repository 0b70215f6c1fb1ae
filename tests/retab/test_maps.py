"""The stages that turn images into maps, run on a tiny network: CAMs (retab.md 2.4), boundaries (2.7)."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from anyshot.data.classes import ClassTable
from anyshot.data.images import read_image, write_image
from anyshot.data.manifest import Manifest, Sample
from anyshot.engine.checkpoints import save_weights
from anyshot.engine.model_folder import model_card
from anyshot.engine.stores import Store
from anyshot.job import Job
from anyshot.retab.networks import build_network, upsample_boundary
from anyshot.retab.options import BoundaryMap, Cam, Dataset
from tests.reference.cam import multi_scale_cam

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TABLE = ClassTable.of(("background", "cat", "car", "boat"), ids=(0, 7, 30, 12))
BACKBONE = {"name": "resnet38", "width": 0.0625}
SIZES = {"wide": (45, 62), "odd": (37, 33), "unlabelled": (24, 24)}
LABELS = {"wide": (7, 12), "odd": (30,), "unlabelled": ()}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """A manifest of three images of different sizes, and its class table."""
    rng = np.random.default_rng(0)
    samples = []
    for name, (height, width) in SIZES.items():
        path = tmp_path / f"{name}.png"
        small = rng.integers(0, 256, size=(height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
        write_image(path, small.repeat(6, axis=0).repeat(6, axis=1)[:height, :width])
        samples.append(Sample(name, path, None, "train", LABELS[name]))
    Manifest(samples).write(tmp_path / "manifest.csv")
    TABLE.write(tmp_path / "classes.csv")
    return {"manifest": tmp_path / "manifest.csv", "classes": tmp_path / "classes.csv"}


def stage(repository: Path, name: str) -> ModuleType:
    path = repository / "workflow" / "scripts" / "retab" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"retab_stage_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def saved_network(folder: Path, name: str, options: dict[str, Any]) -> nn.Module:
    torch.manual_seed(1)
    network = build_network({"name": name, "options": {"backbone": BACKBONE, **options}}, load=False).eval()
    card = model_card(
        system="retab",
        split="shared",
        network=name,
        network_options={"backbone": BACKBONE, **options},
        table=TABLE,
        mean=MEAN,
        std=STD,
        classes_digest=TABLE.digest(),
    )
    save_weights(folder / "model.safetensors", network.state_dict(), card)
    return network


def image_of(inputs: dict[str, Path], name: str) -> np.ndarray:
    return read_image(inputs["manifest"].with_name(f"{name}.png"))


def test_cams_equal_the_plain_version(repository: Path, tmp_path: Path, inputs: dict[str, Path]) -> None:
    """Four scales and the mirror, summed, divided by the maximum; labelled classes only; K = 0 is empty."""
    network = saved_network(tmp_path, "retab_classifier", {"classes": 3, "dropout": 0.5})
    job = Job.for_tests(
        "retab.cam",
        Cam(dataset=Dataset(subsets=["train"])),
        inputs={**inputs, "classifier": tmp_path / "model.safetensors"},
        outputs={"store": tmp_path / "cam.h5"},
    )
    stage(repository, "cam").main(job)
    store = Store([tmp_path / "cam.h5"])
    for name, labels in LABELS.items():
        found = store[name]
        assert tuple(found.classes.tolist()) == labels
        assert found.scores.shape == (len(labels), *SIZES[name])
        if not labels:
            continue
        channels = [TABLE.foreground_ids.index(class_id) for class_id in labels]
        with torch.inference_mode():
            expected = multi_scale_cam(
                network.activation_maps,  # type: ignore[arg-type]
                image_of(inputs, name),
                channels,
                scales=[1, 0.5, 1.5, 2],
                mean=MEAN,
                std=STD,
            )
        assert found.scores == pytest.approx(expected, abs=1e-4)
        # a maximum of m in the summed maps becomes m / (m + 1e-5)
        assert (found.scores.max(axis=(1, 2)) < 1).all()
        assert (found.scores.max(axis=(1, 2)) > 0.999).all()
        assert found.scores.min() >= 0


def test_boundary_maps(repository: Path, tmp_path: Path, inputs: dict[str, Path]) -> None:
    """1 = open where the probability is below the threshold, at the image's own size; no mask is needed."""
    network = saved_network(tmp_path, "retab_boundary", {"branch_channels": [4, 4, 8], "initial_gain": 4.0})
    job = Job.for_tests(
        "retab.boundary_map",
        BoundaryMap(dataset=Dataset(subsets=["train"])),
        inputs={**inputs, "boundary": tmp_path / "model.safetensors"},
        outputs={"store": tmp_path / "open.h5"},
    )
    stage(repository, "boundary_map").main(job)
    store = Store([tmp_path / "open.h5"])
    for name, size in SIZES.items():
        pixels = torch.from_numpy((image_of(inputs, name) / 255 - MEAN) / STD).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            logits = upsample_boundary(network(pixels), size)[0].numpy()
        opened = store[name].scores[0]
        assert opened.shape == size
        decided = np.abs(logits) > 1e-4
        assert ((opened == 1) == (logits < 0))[decided].all()
        assert set(np.unique(opened)) <= {0, 1}


@pytest.mark.parametrize("kernel", [0, 1, 3, 5])
def test_erosion_of_the_open_region(repository: Path, kernel: int) -> None:
    """retab.md 2.7: the mean over the kernel, edge pixels repeated, must reach .99; 0 is off."""
    open_pixels = stage(repository, "boundary_map").open_pixels
    probability = np.random.default_rng(kernel).random((12, 15)) * 0.51
    probability[:, :6] *= 0.5
    eroded = open_pixels(probability, BoundaryMap(erosion=kernel, threshold=0.5))
    opened = (probability < 0.5).astype(float)
    margin = max(kernel // 2, 0)
    padded = np.pad(opened, margin, mode="edge")
    expected = np.zeros(opened.shape, dtype=bool)
    for y in range(12):
        for x in range(15):
            expected[y, x] = padded[y : y + max(kernel, 1), x : x + max(kernel, 1)].mean() >= 0.99
    assert eroded.tolist() == expected.tolist()
    if kernel < 2:
        assert (eroded == (opened == 1)).all()


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or odd"):
        BoundaryMap(erosion=4)
