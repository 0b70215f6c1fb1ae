"""RAML's files of a run as the workflow would leave them, made up: for tests of the report."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyshot.data.manifest import shown_ids
from anyshot.data.split_tables import SplitTables
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import StoreWriter
from anyshot.ops.anomaly_metrics import AnomalyTally
from anyshot.raml.evaluation import PROTOCOL, scored_variants
from anyshot.raml.networks import OpenMaps
from anyshot.raml.pictures_data import add_shown, proposal_map
from tests.report.fabricated_run import FabricatedRun, Picture

VARIANTS = ("npm", "raml", "raml_reject_known")
SEEDS = (0, 1, 2)
STAGES = ("closed_set", "meta_channel", "metric")


def add_raml(run: FabricatedRun, split: str, novel: Sequence[int], *, shown: int = 2) -> None:
    """Add RAML on one split to a fabricated run: all that the report reads."""
    tables = SplitTables(run.table, tuple(novel), ())
    val = [picture for picture in run.pictures if picture.subset == "val"]
    for stage in STAGES:
        run.add_curve(f"{split}/{stage}", ("cross_entropy",), system="raml")
        run.add_json(
            "model_cards", f"raml/{split}/{stage}/model.json", {"stage": f"raml.{stage}", "anyshot": "1"}
        )
    stages = [*STAGES, "novel_bank.5shot_seed0", "novel_bank.5shot_seed1", "open_world.1of1", "evaluate"]
    run.add_benchmarks([f"raml/{split}/{stage}" for stage in stages])
    _miou(run, split, tables, len(val))
    _anomaly(run, split)
    _pictures(run, split, tables, val, shown)


def _miou(run: FabricatedRun, split: str, tables: SplitTables, images: int) -> None:
    classes = len(tables.eval_to_id)
    rng = np.random.default_rng(7)

    def matrix(novel_share: float) -> np.ndarray:
        counts = rng.integers(0, 40, (classes + 1, classes + 1))
        share = np.where(np.arange(classes) < tables.known, 1.0, novel_share)
        counts[np.arange(classes), np.arange(classes)] += (900 * share).astype(int)
        return counts

    totals = {("closed_set", 0, 0): matrix(0.0)}
    for rank, variant in enumerate(VARIANTS):
        for shots in (1, 5):
            totals |= {(variant, shots, seed): matrix(0.1 * rank + 0.1 * shots) for seed in SEEDS}
    variants = scored_variants(totals, tables)
    best = next(row for row in variants if (row["variant"], row["shots"]) == ("raml", 5))
    run.add_json("miou", f"raml/{split}/miou.json", {
        "system": "raml", "dataset": "toy", "split": split, "subset": "val", "variant": "raml", "shots": 5,
        "protocol": PROTOCOL, "images": images, "miou": best["mean"], "spread": best["spread"],
        "classes": best["classes"], "variants": variants, "seconds": 2.5, "seed": "0",
        "reference": {"raml_5shot": {"all": 0.61, "base": 0.62, "novel": 0.5321, "harmonic": 0.57},
                      "closed_set": {"base": 0.72}, "source": "table of RAML"},
    })  # fmt: skip


def _anomaly(run: FabricatedRun, split: str) -> None:
    rng = np.random.default_rng(3)
    tallies = {name: AnomalyTally() for name in ("max_softmax", "raml")}
    for number, tally in enumerate(tallies.values()):
        for _ in range(3):
            flags = rng.random((20, 20)) < 0.2
            tally.add(rng.normal(flags * (1.0 + number), 1), flags)
    scores = {name: tally.result() for name, tally in tallies.items()}
    content = {"system": "raml", "split": split, "protocol": "anomalous: the unseen", "scores": scores}
    run.add_json("anomaly", f"raml/{split}/anomaly.json", content)


def _pictures(
    run: FabricatedRun, split: str, tables: SplitTables, val: Sequence[Picture], shown: int
) -> None:
    chosen = shown_ids([run.samples[picture.id] for picture in val], tables.novel_ids, shown)
    folder = f"raml/{split}/open_world/1of1"
    novel, ids = tables.eval_names[tables.known :], list(tables.novel_ids)
    header = ["id", "region", "y0", "x0", "y1", "x1", "area", "decision", "rejected", "nearest_known"]
    rows: list[list[Any]] = []
    with (
        LabelMapWriter(run.path("predict", f"{folder}/labels.csv"), run.table) as labels,
        StoreWriter(
            run.path("shown", f"{folder}/shown.h5"), attributes={"stage": "raml.open_world"}
        ) as store,
    ):
        for picture in val:
            labels.add(picture.id, picture.mask)
            rows.append([picture.id, 1, 0, 0, 9, 9, 81, novel[0], False, "cat", "0.4000", "0.9123", "0.1000"])
            rows.append([picture.id, 2, 9, 9, 12, 12, 9, "closed set", False, "cat", "0.7000", "0.6", "0.2"])
            if picture.id in chosen:
                cells = (picture.mask.shape[0] // 4, picture.mask.shape[1] // 4)
                regions = np.zeros(cells, np.int32)
                regions[:9, :9], regions[9:12, 9:12] = 1, 2
                channels = torch.rand(1, tables.known + 3, *cells)
                maps = OpenMaps(
                    logits=channels[:, : tables.known], channels=channels, feature=torch.zeros(1, 2, *cells)
                )
                closed = np.where(np.isin(picture.mask, ids), 0, picture.mask)
                add_shown(
                    store, picture.id, proposal_map(maps, torch.tensor([True, False, True])), closed, regions
                )
    with run.path("regions", f"{folder}/regions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[*header, "cosine_known", *(f"cosine_{n}" for n in novel)], *rows])


def only(files: dict[str, list[Path]], system: str) -> dict[str, list[Path]]:
    """The inputs of a report on one system: its own files and the data's."""
    return {name: [p for p in paths if {system, "data"} & set(p.parts)] for name, paths in files.items()}
