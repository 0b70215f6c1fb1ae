"""SimFormer's files of a run as the workflow would leave them, made up: for tests of the report."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from anyshot.data.manifest import shown_ids
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import StoreWriter
from anyshot.simformer.evaluation import PROTOCOL, scored_variants
from anyshot.simformer.tables import WeakTables
from tests.report.fabricated_run import FabricatedRun, Picture

VARIANTS = ("full", "no_extras", "oracle", "retrained")
SKILL = {"ignore_novel": 0.0, "no_extras": 0.4, "full": 0.6, "retrained": 0.65, "oracle": 0.8}
LOSSES = ("classification", "focal", "dice")
PAIR_LOSSES = ("complementary", "similarity", "distillation", "distilled", "similar_f1", "dissimilar_f1")
PROPOSALS = 4


def add_simformer(
    run: FabricatedRun,
    split: str,
    novel: Sequence[int],
    *,
    variants: Sequence[str] = VARIANTS,
    shown: int = 2,
) -> None:
    """Add SimFormer on one split to a fabricated run: all that the report reads."""
    tables = WeakTables(run.table, tuple(run.table.index_of[number] for number in novel))
    val = [picture for picture in run.pictures if picture.subset == "val"]
    for variant in variants:
        stage = "retrain" if variant == "retrained" else f"joint/{variant}"
        parts = (*LOSSES, *PAIR_LOSSES) if variant == "full" else LOSSES
        run.add_curve(f"{split}/{stage}", parts, system="simformer")
        card = {"stage": "simformer.joint", "anyshot": "1"}
        run.add_json("model_cards", f"simformer/{split}/{stage}/model.json", card)
        _pictures(run, split, variant, tables, val, shown)
    stages = ["pairs", *(f"joint.{one}" for one in variants), "retrain", "predict.full.1of1", "evaluate"]
    run.add_benchmarks([f"simformer/{split}/{stage}" for stage in stages])
    _miou(run, split, tables, variants, len(val))


def _miou(run: FabricatedRun, split: str, tables: WeakTables, variants: Sequence[str], images: int) -> None:
    classes = len(tables.table)
    rng = np.random.default_rng(len(split) + tables.novel[0])

    def matrix(skill: float) -> np.ndarray:
        counts = rng.integers(0, 40, (classes + 1, classes + 1))
        share = np.where(np.isin(np.arange(classes), tables.novel), skill, 0.9)
        counts[np.arange(classes), np.arange(classes)] += (900 * share).astype(int)
        return counts

    found = scored_variants({variant: matrix(SKILL[variant]) for variant in variants}, tables)
    shown = found[-1] if found[-1]["variant"] == "retrained" else found[0]
    run.add_json("miou", f"simformer/{split}/miou.json", {
        "system": "simformer", "dataset": "toy", "split": split, "subset": "val", "shots": 0,
        "variant": shown["variant"], "protocol": PROTOCOL, "images": images, "miou": shown["mean"],
        "spread": shown["spread"], "classes": shown["classes"], "variants": found, "reference": {},
        "seconds": 1.5, "seed": "0",
    })  # fmt: skip


def _pictures(
    run: FabricatedRun, split: str, variant: str, tables: WeakTables, val: Sequence[Picture], shown: int
) -> None:
    novel_ids = [run.table.ids[index] for index in tables.novel]
    chosen = shown_ids([run.samples[picture.id] for picture in val], novel_ids, shown)
    folder = f"simformer/{split}/predict/{variant}"
    shift = round(20 * (1 - SKILL[variant]))
    attributes = {"stage": "simformer.predict"}
    for number, part in enumerate((val[::2], val[1::2]), start=1):
        with (
            LabelMapWriter(run.path("predict", f"{folder}/{number}of2/labels.csv"), run.table) as labels,
            StoreWriter(run.path("shown", f"{folder}/{number}of2/shown.h5"), attributes=attributes) as store,
        ):
            for picture in part:
                labels.add(picture.id, np.roll(picture.mask, shift, axis=1))
                if picture.id in chosen:
                    height, width = picture.mask.shape
                    store.add(
                        picture.id, [], np.zeros((0, 1, 1), np.float32), height=height, width=width,
                        extra=_extra(picture, tables, similar=variant == "full"),
                    )  # fmt: skip


def _extra(picture: Picture, tables: WeakTables, *, similar: bool) -> dict[str, np.ndarray]:
    """What `simformer_predict` keeps of an image: at another size than the image's own."""
    height, width = picture.mask.shape
    size = (2 * width, 2 * height)
    indices = [0, *(tables.table.index_of[number] for number in picture.labels), 1, 1][:PROPOSALS]
    soft = [
        cv2.resize((picture.mask == tables.table.ids[index]).astype(np.float32), size) for index in indices
    ]
    extra: dict[str, np.ndarray] = {
        "proposal_classes": np.array(indices, np.uint8),
        "proposal_scores": np.array([0.9375 - 0.125 * rank for rank in range(len(indices))], np.float32),
        "proposal_masks": np.stack([(255 * one).round().astype(np.uint8) for one in soft]),
    }
    if not similar:
        return extra
    rows, columns = np.nonzero(picture.mask == picture.labels[0])
    points = [(0, 0), (int(rows[0]), int(columns[0]))]
    maps = [
        cv2.resize((picture.mask == picture.mask[point]).astype(np.float32), (width // 2, height // 2))
        for point in points
    ]
    return {
        **extra,
        "points": np.array(points, np.uint16),
        "similarities": np.stack([(255 * one).round().astype(np.uint8) for one in maps]),
    }
