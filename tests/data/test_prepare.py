"""The card's numbers on a data set small enough to count by hand, and the stage script."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from anyshot.data.classes import ClassTable
from anyshot.data.images import write_image, write_mask
from anyshot.data.manifest import Manifest
from anyshot.data.options import FolderData, ScenesData
from anyshot.data.prepare import check_samples, map_samples, prepare, sha256_of_ids
from anyshot.data.readers import read

from .layouts import mask_of, options, picture


def test_card_counts_images_pixels_and_void(folder: Path) -> None:
    _, table, card = prepare(options(FolderData(root=str(folder))), folder=folder)
    train = card["subsets"]["train"]
    half, whole = 12 * 32, 24 * 32
    assert [(c["images"], c["pixels"]) for c in train["classes"]] == [(1, half), (2, 2 * half), (1, whole)]
    assert train["void_share"] == pytest.approx(1 / 6)
    assert train["images_with_void"] == 1
    assert train["labels_per_image"] == pytest.approx(4 / 3)
    assert train["sizes"] == {
        "distinct": 1, "smallest": [24, 32], "largest": [24, 32], "mean": [24.0, 32.0],
        "most_frequent": [[24, 32, 3]],
    }  # fmt: skip
    expected = hashlib.sha256(b"train 0\ntrain 1\ntrain 2\n").hexdigest()
    assert train["sha256_of_ids"] == expected == sha256_of_ids(["train 0", "train 1", "train 2"])
    assert card["class_table"] == table.digest()
    assert json.loads(json.dumps(card)) == card


def test_progress_sees_every_check(folder: Path) -> None:
    seen = []

    def progress(checks, total):  # type: ignore[no-untyped-def]
        assert total == 5
        for check in checks:
            seen.append(check.id)
            yield check

    prepare(options(FolderData(root=str(folder))), folder=folder, progress=progress)
    assert len(seen) == 5


@pytest.mark.slow
def test_result_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    table = ClassTable.of(("road", "car"))
    table.write(tmp_path / "classes.csv")
    for number in range(420):
        write_image(tmp_path / "images" / "train" / f"{number}.png", picture(6, 8, number))
        write_mask(
            tmp_path / "masks" / "train" / f"{number}.png", mask_of(number % 2, height=6, width=8), table
        )
    data = read("folder", FolderData(root=str(tmp_path)))
    assert check_samples(data, threads=2) == check_samples(data, threads=1)
    assert list(map_samples(str, data.samples, threads=2)) == [str(sample) for sample in data.samples]


def test_script_writes_manifest_classes_and_card(repository: Path, tmp_path: Path) -> None:
    outputs = {name: tmp_path / "scenes" / f"{name}.{kind}" for name, kind in
               (("manifest", "csv"), ("classes", "csv"), ("card", "json"))}  # fmt: skip
    source = options(ScenesData(size=64, train=4, val=2)).canonical()
    arguments = [part for name, path in outputs.items() for part in ("--output", name, str(path))]
    script = repository / "workflow" / "scripts" / "data" / "prepare.py"
    command = [sys.executable, str(script), "--options", source, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest = Manifest.read(outputs["manifest"])
    assert manifest.counts() == {"train": 4, "val": 2}
    assert manifest.samples()[0].image == tmp_path / "scenes" / "JPEGImages" / "train_0000.jpg"
    assert len(ClassTable.read(outputs["classes"])) == 21
    assert json.loads(outputs["card"].read_text())["images"] == 6
    assert "train_0000,JPEGImages/" in outputs["manifest"].read_text()


def test_script_prints_the_message_without_a_traceback(repository: Path, tmp_path: Path) -> None:
    script = repository / "workflow" / "scripts" / "data" / "prepare.py"
    source = options(FolderData(root=str(tmp_path / "nowhere"))).canonical()
    outputs = [
        part for name in ("manifest", "classes", "card") for part in ("--output", name, str(tmp_path / name))
    ]
    done = subprocess.run(
        [sys.executable, str(script), "--options", source, *outputs],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nowhere does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "manifest").exists()
