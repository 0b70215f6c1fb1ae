"""LarvSeg's files of a run as the workflow would leave them, made up: for tests of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anyshot.data.class_lists import ClassList
from anyshot.engine import draws
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import StoreWriter
from anyshot.larvseg.mapping import base_novel_report, mapping_report
from anyshot.larvseg.vocabulary import union
from anyshot.ops.metrics import Roles
from tests.report.fabricated_run import NAMES, FabricatedRun, Picture

METHODS = ("attentive", "baseline", "oracle")
TARGETS = ("toy", "wide")
SKILL = {"pixel_only": 0.1, "baseline": 0.4, "attentive": 0.6, "oracle": 0.8}
# The source with masks; its rules made one of the last two names.
MASKED = ("cat", '"; rm -rf ~"', "traffic light", "traffic light")
ORIGINALS = ("cat", '"; rm -rf ~"', "traffic light", "signal")
WIDE = ["cat", "traffic-light", "沙发", "nowhere"]  # the second target: `nowhere` is in no source


def add_larvseg(run: FabricatedRun, split: str, *, methods: Sequence[str] = METHODS, shown: int = 2) -> None:
    """Add LarvSeg on one experiment with two targets to a fabricated run: all that the report reads."""
    val = [picture for picture in run.pictures if picture.subset == "val"]
    lists = [
        ClassList("masked", MASKED, (None,) * len(MASKED), ORIGINALS),
        *(ClassList.of(title, NAMES[1:]) for title in ("tagged", "toy")),
        ClassList.of("wide", WIDE),
    ]
    vocabulary = union(lists)
    for method in methods:
        stage = "attentive" if method == "attentive" else f"baseline/{method}"
        parts = ("masked_pixels", "tagged_labels", "tagged_attention", "tagged_warm")
        kept = parts if method == "attentive" else parts[:2]
        run.add_curve(f"{split}/{stage}", kept, system="larvseg")
        card = {"stage": f"larvseg.{stage.partition('/')[0]}", "anyshot": "1"}
        run.add_json("model_cards", f"larvseg/{split}/{stage}/model.json", card)
        _pictures(run, split, method, val, shown)
    splits = {target: vocabulary.base_novel(target, pixel=["masked"], image=["tagged"]) for target in TARGETS}
    report = mapping_report(vocabulary, lists)
    report["targets"] = {
        target: base_novel_report(vocabulary, one, splits[target])
        for target, one in zip(TARGETS, lists[2:], strict=True)
    }
    report["images"] = {"masked": [3, 4, 5, 0], "tagged": [7, 7, 7, 7, 7]}
    run.add_json("mapping", f"larvseg/{split}/vocabulary/mapping.json", report)
    entries: list[dict[str, Any]] = []
    for target, names in zip(TARGETS, (NAMES[1:], WIDE), strict=True):
        found = splits[target]
        roles = Roles(base=found.base, novel=found.novel)
        entries += [_entry(method, target, names, roles) for method in methods]
    run.add_json("miou", f"larvseg/{split}/miou.json", {
        "system": "larvseg", "dataset": "toy", "split": split, "subset": "val", "shots": 0,
        "variant": entries[0]["variant"], "protocol": "IoU over the pixels of the target's classes.",
        "images": len(val), "miou": entries[0]["mean"], "spread": entries[0]["spread"],
        "classes": entries[0]["classes"], "variants": entries, "reference": {}, "seconds": 1.5, "seed": "0",
    })  # fmt: skip
    stages = ["vocabulary", "attentive", "baseline.baseline", "predict.attentive.toy.1of2", "evaluate"]
    run.add_benchmarks([f"larvseg/{split}/{stage}" for stage in stages])


def _entry(method: str, target: str, names: Sequence[str], roles: Roles) -> dict[str, Any]:
    count = len(names)
    matrix = np.full((count + 1, count + 1), 20)
    matrix[-1] = 0
    share = np.where(np.isin(np.arange(count), roles.novel), SKILL[method], 0.9)
    matrix[np.arange(count), np.arange(count)] = (900 * share).astype(int) + np.arange(count)
    variant = method if target == TARGETS[0] else f"{method} on {target}"
    ids = range(1, count + 1) if target == TARGETS[0] else range(count)
    (found,) = draws.scored_variants({(variant, 0, 0): matrix}, list(zip(ids, names, strict=True)), roles)
    confused = [
        {"truth": names[1], "predicted": names[0], "share": 0.25},
        {"truth": names[0], "predicted": names[1], "share": 0.125},
    ]
    groups = {"covered": SKILL[method] - 0.05, "uncovered": None, "rare": None, "common": 0.3125}
    return {
        **found, "method": method, "target": target, "groups": {**groups, "frequent": 0.4375},
        "accuracy": {"pixels": 0.84375, "mean": 0.71875}, "confused": confused,
    }  # fmt: skip


def _pictures(run: FabricatedRun, split: str, method: str, val: Sequence[Picture], shown: int) -> None:
    folder = f"larvseg/{split}/predict/{method}/{TARGETS[0]}"
    shift = round(20 * (1 - SKILL[method]))
    chosen = {picture.id for picture in val[:shown]}
    attributes = {"stage": "larvseg.predict"}
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
                        extra=_extra(picture, with_bank=method == "attentive"),
                    )  # fmt: skip


def _extra(picture: Picture, *, with_bank: bool) -> dict[str, np.ndarray]:
    """Attention on a grid of 8 px tokens to each label; the last one's bank is not full."""
    labels = picture.labels if with_bank else ()
    grid = picture.mask[4::8, 4::8]
    maps = [np.where(grid == label, 0.875, 0.125) for label in labels]
    return {
        "attention": np.array(maps, np.float16).reshape(len(labels), *grid.shape),
        "labels": np.array([label - 1 for label in labels], np.int32),
        "warm": np.array([number + 1 < len(labels) for number in range(len(labels))], bool),
    }
