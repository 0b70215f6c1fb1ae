"""A results folder as the workflow would leave it, made up in a second: for tests of the report.

Scores, walks and masks are the truth with errors that grow from the last stage back to the CAM.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Manifest, Sample
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import StoreWriter
from anyshot.retab.options import Cam, RandomWalk

NAMES = ["background", "cat", '"; rm -rf ~"', "<b>bold</b>", "沙发", "$x^2$ & co"]
VOID = 255
QUALITY = {"cam": 0.45, "psa_walk": 0.58, "retab_walk": 0.7, "pseudo_label": 0.72, "segmentation": 0.68}


@dataclass(frozen=True)
class Picture:
    """A sample with its arrays: image (H, W, 3) uint8 RGB, mask (H, W) uint8."""

    id: str
    subset: str
    image: np.ndarray
    mask: np.ndarray

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(int(value) for value in np.unique(self.mask) if value not in (0, VOID))


def drawn_pictures(count: int, *, seed: int = 0, classes: int = len(NAMES)) -> list[Picture]:
    """Discs of the classes on noise, half for training and half for evaluation."""
    rng = np.random.default_rng(seed)
    pictures = []
    for number in range(count):
        height, width = int(rng.integers(70, 100)), int(rng.integers(90, 130))
        mask = np.zeros((height, width), np.uint8)
        for identity in {1 + number % (classes - 1), int(rng.integers(1, classes))}:
            centre = (int(rng.integers(20, width - 20)), int(rng.integers(20, height - 20)))
            cv2.circle(mask, centre, 19, VOID, -1)
            cv2.circle(mask, centre, 17, int(identity), -1)
        image = np.clip(rng.normal(90, 20, (height, width, 3)) + 20 * (mask % 8)[..., None], 0, 255)
        subset = "train" if number % 2 == 0 else "val"
        pictures.append(Picture(f"2007_{number:06d}", subset, image.astype(np.uint8), mask))
    return pictures


class FabricatedRun:
    """Writes the files of a run below `folder` and lists them by the report's input names."""

    def __init__(
        self, folder: Path, pictures: Sequence[Picture], table: ClassTable, novel: Mapping[str, Sequence[int]]
    ):
        self.folder, self.pictures, self.table, self.novel = folder, pictures, table, novel
        self.rng = np.random.default_rng(1)
        self.files: dict[str, list[Path]] = {}
        self._data()
        train = [picture for picture in pictures if picture.subset == "train"]
        self._store("cam", folder / "retab/shared/cam/1of2.h5", train[::2])
        self._store("cam", folder / "retab/shared/cam/2of2.h5", train[1::2])
        self._store("psa_walk", folder / "retab/shared/random_walk/psa/1of1.h5", train)
        self.add_curve("shared/classifier", ("classification",))
        self.add_curve("shared/affinity/crf_only", ("background", "foreground", "negative"))
        for split in novel:
            self._split(split, train, [picture for picture in pictures if picture.subset == "val"])
        self._benchmarks()

    def path(self, name: str, relative: str) -> Path:
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        if path not in self.files.setdefault(name, []):
            self.files[name].append(path)
        return path

    def add_json(self, name: str, relative: str, content: Mapping[str, Any]) -> None:
        self.path(name, relative).write_text(json.dumps(content), encoding="utf-8")

    def _data(self) -> None:
        samples, subsets = [], {}
        for picture in self.pictures:
            image = self.folder / f"data/toy/images/{picture.id}.png"
            mask = self.folder / f"data/toy/masks/{picture.id}.png"
            for path, array in ((image, picture.image), (mask, picture.mask)):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
            samples.append(Sample(picture.id, image, mask, picture.subset, picture.labels))
        self.samples = {sample.id: sample for sample in samples}
        Manifest(samples).write(self.path("manifest", "data/toy/manifest.csv"))
        self.table.write(self.path("classes", "data/toy/classes.csv"))
        for subset in dict.fromkeys(picture.subset for picture in self.pictures):
            subsets[subset] = self._subset_card([p for p in self.pictures if p.subset == subset])
        problems = {"count": 0, "dropped_samples": 0, "kinds": {}, "listed": []}
        card = {"name": "toy", "reader": "folder", "root": "toy", "images": len(samples), "subsets": subsets}
        self.add_json("card", "data/toy/card.json", {**card, "problems": problems})

    def _subset_card(self, pictures: Sequence[Picture]) -> dict[str, Any]:
        counts = sum(np.bincount(p.mask.ravel(), minlength=256) for p in pictures)
        sizes = sorted({p.mask.shape for p in pictures}, key=lambda size: size[0] * size[1])
        return {
            "images": len(pictures),
            "masks": len(pictures),
            "images_with_void": sum(bool((p.mask == VOID).any()) for p in pictures),
            "void_share": float(counts[VOID] / counts.sum()),
            "background_only": 0,
            "labels_per_image": float(np.mean([len(p.labels) for p in pictures])),
            "sha256_of_ids": "ab" * 32,
            "sizes": {"smallest": list(sizes[0]), "largest": list(sizes[-1])},
            "classes": [
                {"id": i, "name": n, "images": sum(i in p.labels for p in pictures), "pixels": int(counts[i])}
                for i, n in zip(self.table.ids, self.table.names, strict=True)
            ],
        }

    def _attributes(self, stage: str, options: str) -> dict[str, str]:
        return {
            "stage": stage,
            "options": options,
            "seed": "0",
            "fingerprint": "0123456789abcdef" * 4,
            "anyshot": "0.1.0",
            "torch": "2.11",
            "commit": "c0ffee" * 6 + "c0ff-dirty",
            "seconds": "12.5",
        }

    def _store(self, variant: str, path: Path, pictures: Sequence[Picture], split: str = "shared") -> None:
        self.path(variant, str(path.relative_to(self.folder)))
        options = Cam() if variant == "cam" else RandomWalk(boundary=variant == "retab_walk")
        attributes = {**self._attributes(f"retab.{variant}", options.canonical()), "split": split}
        with StoreWriter(path, attributes=attributes) as out:
            for picture in pictures:
                height, width = picture.mask.shape
                classes = list(picture.labels) if variant == "cam" else [0, *picture.labels]
                maps = [self._blurred(picture.mask == i, QUALITY[variant]) for i in classes]
                stride = 1 if variant == "cam" else 8
                scores = np.stack(maps) if maps else np.zeros((0, height, width), np.float32)
                if stride > 1:
                    cells = (-(-width // stride), -(-height // stride))
                    scores = np.stack(
                        [cv2.resize(one, cells, interpolation=cv2.INTER_AREA) for one in scores]
                    )
                out.add(picture.id, classes, scores, height=height, width=width, stride=stride)

    def _blurred(self, mask: np.ndarray, quality: float) -> np.ndarray:
        """A soft, displaced version of a mask, float32 (H, W) in [0, 1)."""
        soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1 + 14 * (1 - quality))
        shift = self.rng.normal(0, 14 * (1 - quality), 2)
        moved = cv2.warpAffine(soft, np.float32([[1, 0, shift[0]], [0, 1, shift[1]]]), mask.shape[::-1])
        return (moved / (moved.max() + 1e-5)).astype(np.float32)

    def _labels(self, picture: Picture, quality: float) -> np.ndarray:
        ids = np.asarray([0, *picture.labels])
        maps = [self._blurred(picture.mask == i, quality) * (0.8 if i == 0 else 1) for i in ids]
        return ids[np.argmax(maps, axis=0)].astype(np.uint8)

    def _split(self, split: str, train: Sequence[Picture], val: Sequence[Picture]) -> None:
        novel = set(self.novel[split])
        roles = [[p.id, "novel" if novel & set(p.labels) else "base"] for p in train]
        self._csv("samples", f"retab/{split}/split/samples.csv", ["id", "role"], roles)
        self._store("retab_walk", self.folder / f"retab/{split}/random_walk/retab/1of1.h5", train, split)
        for name, variant, pictures in (
            ("pseudo_label", "pseudo_label", train),
            ("predict", "segmentation", val),
        ):
            with LabelMapWriter(self.path(name, f"retab/{split}/{name}/1of1/labels.csv"), self.table) as out:
                for picture in pictures:
                    out.add(picture.id, self._labels(picture, QUALITY[variant]))
        for stage in ("boundary", "affinity/mixed", "segmentation"):
            self.add_curve(f"{split}/{stage}", ("positive", "negative"))
        self._scores(split, train, val)

    def _csv(self, name: str, relative: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        with self.path(name, relative).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *rows])

    def miou(self, variant: str, split: str) -> dict[str, Any]:
        """A MIOU object of the contract with made-up numbers around the variant's quality."""
        iou = np.clip(self.rng.normal(QUALITY[variant], 0.08, len(self.table)), 0, 1)
        role = ["novel" if i in self.novel[split] else "base" for i in self.table.ids]
        pixels = self.rng.integers(1000, 9000, len(self.table))
        base = float(np.mean([v for v, r in zip(iou, role, strict=True) if r == "base"]))
        novel = float(np.mean([v for v, r in zip(iou, role, strict=True) if r == "novel"]) - 0.06)
        classes = [
            {"id": i, "name": n, "role": r, "iou": float(v), "pixels": int(p)}
            for i, n, r, v, p in zip(self.table.ids, self.table.names, role, iou, pixels, strict=True)
        ]
        harmonic = 2 * base * novel / (base + novel)
        return {
            "all": float(iou.mean()),
            "base": base,
            "novel": novel,
            "harmonic": harmonic,
            "classes": classes,
        }

    def _scores(self, split: str, train: Sequence[Picture], val: Sequence[Picture]) -> None:
        common = {
            "system": "retab",
            "split": split,
            "protocol": "pixels that are not void; background is a base class",
            "reference": {
                "cam": {"all": 0.48, "base": 0.514, "novel": 0.374},
                "retab_walk": {"all": 0.712, "base": 0.74, "novel": 0.625},
                "source": "table of the paper",
            },
        }
        variants = {name: self._swept(name, split) for name in ("cam", "psa_walk", "retab_walk")}
        variants["pseudo_label"] = {"png": self.miou("pseudo_label", split)}
        scores = {"subset": "train", "images": len(train), "variants": variants, "seconds": 3.5}
        self.add_json("scores", f"retab/{split}/score_maps/scores.json", {**common, **scores})
        final = self.miou("segmentation", split)
        confusion = self.rng.integers(0, 60, (len(self.table) + 1,) * 2)
        confusion[np.diag_indices(len(self.table))] += 900
        miou = {
            "dataset": "toy",
            "subset": "val",
            "images": len(val),
            "classes": final.pop("classes"),
            "miou": final,
            "confusion": confusion.tolist(),
            "options_hash": "feed" * 16,
            "seconds": 4.25,
            "versions": {"anyshot": "0.1.0", "torch": "2.11"},
        }
        self.add_json("miou", f"retab/{split}/miou.json", {**common, **miou})
        shown = ("cam", "psa_walk", "retab_walk", "pseudo_label")
        rows = [[p.id, *(f"{self._image_score(v):.6f}" for v in shown)] for p in train]
        self._csv("images", f"retab/{split}/score_maps/images.csv", ["id", *shown], rows)
        rows = [[p.id, f"{self._image_score('segmentation'):.6f}"] for p in val]
        self._csv("images", f"retab/{split}/evaluate/images.csv", ["id", "segmentation"], rows)

    def _swept(self, variant: str, split: str) -> dict[str, Any]:
        grid = np.arange(0, 0.6 if variant == "cam" else 0.42, 0.01)
        best = 0.0 if variant == "psa_walk" else 0.21  # at the sweep's edge: the report must warn
        curve = {
            key: (QUALITY[variant] - drop - 2 * (grid - best) ** 2).tolist()
            for key, drop in (("all", 0.02), ("base", 0.0), ("novel", 0.07))
        }
        content = {
            "threshold": best,
            "best": self.miou(variant, split),
            "best_novel_threshold": 0.19,
            "sweep": {"thresholds": grid.tolist(), **curve},
        }
        return content if variant == "cam" else {**content, "png": self.miou(variant, split)}

    def _image_score(self, variant: str) -> float:
        return float(np.clip(self.rng.normal(QUALITY[variant], 0.12), 0, 1))

    def add_curve(self, stage: str, parts: Sequence[str], *, system: str = "retab") -> None:
        lines = []
        for step in range(20, 1001, 20):
            loss = {part: float(0.7 * np.exp(-step / 300) + self.rng.uniform(0.1, 0.15)) for part in parts}
            lines.append(
                json.dumps(
                    {
                        "step": step,
                        "steps": 1000,
                        "epoch": step // 125,
                        "loss": sum(loss.values()),
                        **loss,
                        "learning_rate": 0.01 * (1 - step / 1001) ** 0.9,
                        "images_per_second": 31.5,
                        "milliseconds_per_step": 254.0,
                        "peak_mib": 1834.0,
                        "eta_seconds": 0.0,
                    }
                )
            )
        self.path("curves", f"{system}/{stage}/train.jsonl").write_text(
            "\n".join(lines) + "\n", encoding="utf-8"
        )

    def _benchmarks(self) -> None:
        stages = ["shared/classifier", "shared/cam.1of2", "shared/cam.2of2", "shared/random_walk.psa.1of1"]
        for split in self.novel:
            stages += [
                f"{split}/{s}"
                for s in ("boundary", "affinity.mixed", "random_walk.retab.1of1", "segmentation")
            ]
        self.add_benchmarks([f"retab/{stage}" for stage in stages])

    def add_benchmarks(self, stages: Sequence[str]) -> None:
        head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time"
        for number, stage in enumerate(stages):
            memory = "-" if number == 1 else f"{300 + 50 * number}.25"
            row = f"{20.5 * (1 + number % 5):.4f}\t0:00:20\t{memory}\t1\t1\t1\t0\t0\t99.0\t20.0"
            self.path("benchmarks", f"benchmarks/{stage}.tsv").write_text(
                f"{head}\n{row}\n", encoding="utf-8"
            )
