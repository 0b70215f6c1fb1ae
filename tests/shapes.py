"""A data set of coloured shapes, small enough that every stage of a system can be trained in a test."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import anyshot
from anyshot.data.classes import ClassTable
from anyshot.data.images import write_mask
from anyshot.data.manifest import Manifest, Sample
from anyshot.job import Job

SIDE = 64  # px
NAMES = ("ground", "red", "green", "blue", "yellow", "cyan", "purple")
COLOURS = (
    (120, 120, 120), (220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 210, 30), (20, 220, 220),
    (200, 20, 200),
)  # fmt: skip
NOVEL = ["cyan", "purple"]
BACKBONE = {"name": "resnet18", "weights": "none", "output_stride": 16}
ADAM = {
    "optimiser": "adamw", "batch_size": 8, "learning_rate": 1e-3, "head_multiplier": 1.0, "workers": 0,
    "weight_decay": 1e-4, "gradient_clip": 5.0,
}  # fmt: skip
TABLE = ClassTable.of(NAMES, kinds=["background"] + ["thing"] * 6, colours=COLOURS)


def draw(folder: Path, number: int, rng: np.random.Generator) -> tuple[Path, Path, tuple[int, ...]]:
    """One image of three shapes on a noisy ground, and its mask."""
    image = np.full((SIDE, SIDE, 3), COLOURS[0], dtype=np.uint8)
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for label in rng.choice(np.arange(1, len(NAMES)), size=3, replace=False):
        centre = rng.integers(14, SIDE - 14, size=2)
        shape = np.zeros((SIDE, SIDE), dtype=np.uint8)
        radius = int(rng.integers(9, 14))
        if label % 2:
            cv2.circle(shape, tuple(map(int, centre)), radius, 1, -1)
        else:
            low, high = (tuple(map(int, centre + side * (radius - 2))) for side in (-1, 1))
            cv2.rectangle(shape, low, high, 1, -1)
        image[shape == 1], mask[shape == 1] = COLOURS[label], label
    noisy = image + rng.normal(0, 12, image.shape)
    paths = folder / f"{number:03d}.png", folder / f"{number:03d}_mask.png"
    cv2.imwrite(str(paths[0]), noisy.clip(0, 255).astype(np.uint8)[..., ::-1])
    write_mask(paths[1], mask, TABLE)
    return *paths, tuple(int(label) for label in np.unique(mask) if label)


class ShapesRun:
    """The stages of a system, called one after the other in one folder."""

    def __init__(self, folder: Path, repository: Path, system: str) -> None:
        self.folder, self.repository, self.system = folder, repository, system
        rng = np.random.default_rng(0)
        samples = []
        for number in range(64):
            image, mask, labels = draw(folder, number, rng)
            subset = "train" if number < 48 else "val"
            samples.append(Sample(f"{number:03d}", image, mask, subset, labels))
        Manifest(samples).write(folder / "manifest.csv")
        TABLE.write(folder / "classes.csv")
        self.data = {"manifest": folder / "manifest.csv", "classes": folder / "classes.csv"}

    def call(
        self, name: str, options: Any, inputs: dict[str, Any], outputs: dict[str, Path], **job: Any
    ) -> None:
        """Run the script of a stage in this process, the data among its inputs."""
        path = self.repository / "workflow" / "scripts" / self.system / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"{self.system}_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        stage = f"{self.system}.{name}"
        given = {**self.data, **inputs}
        module.main(Job.for_tests(stage, options, inputs=given, outputs=outputs, **job))

    def call_on_two_devices(
        self, name: str, options: Any, inputs: dict[str, Any], outputs: dict[str, Path]
    ) -> None:
        """Run a training stage in a process of its own that starts a second one; seed 0, one thread each."""
        words = [sys.executable, str(Path(__file__).with_name("two_devices.py"))]
        words += ["--options", options.canonical()]
        for key, path in {**self.data, **inputs}.items():
            words += ["--input", key, str(path)]
        for key, path in outputs.items():
            words += ["--output", key, str(path)]
        words += ["--seed", "0", "--threads", "1", "--log", str(self.folder / f"{name}.two.log")]
        source = Path(anyshot.__file__).parents[1]
        variables = {
            "STAGE": f"{self.system}.{name}", "PYTHONPATH": f"{source}{os.pathsep}{self.repository}"
        }  # fmt: skip
        done = subprocess.run(
            words, env={**os.environ, **variables}, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]

    def network(self, folder: str) -> dict[str, Path]:
        """Outputs of a training."""
        names = {"weights": "model.safetensors", "card": "model.json", "curve": "train.jsonl"}
        return {key: self.folder / folder / name for key, name in names.items()}
