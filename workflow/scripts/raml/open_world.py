"""Segment the evaluation images with every bank of a split, and with the baselines (raml.md 2.6, 2.9).

The network runs once per image whatever the number of banks. Label maps and regions are written for the
first bank; every bank's confusion matrices go into `counts`. What the report draws of a few images goes
into `shown`.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import read_samples, shown_ids
from anyshot.data.split_tables import SplitTables, read_tables
from anyshot.data.transforms import normalise
from anyshot.engine.artifacts import write_json, write_text
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import StoreWriter
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.ops.metrics import confusion_counts
from anyshot.raml.artifacts import load_network
from anyshot.raml.bank import load_bank, selected_channels
from anyshot.raml.inference import Decisions, closed_prediction, decide, fuse, nearest_prototype
from anyshot.raml.options import OpenWorld
from anyshot.raml.pictures_data import add_shown, proposal_map

VARIANTS = ("npm", "raml", "raml_reject_known")
HEADER = (
    "id", "region", "y0", "x0", "y1", "x1", "area", "decision", "rejected", "nearest_known", "cosine_known"
)  # fmt: skip


def region_rows(sample_id: str, found: Decisions, tables: SplitTables) -> list[list[Any]]:
    """Rows of regions.csv: what was proposed, its cosines, and what became of it."""
    names = tables.eval_names
    rows = []
    for number in range(found.regions.count):
        choice, rejected = int(found.choice[number]), bool(found.rejected[number])
        decision = "closed set" if choice < 0 else names[tables.known + choice]
        nearest = int(found.known_cosines[number].argmax())
        rows.append(
            [
                sample_id, number + 1, *found.regions.boxes[number].tolist(),
                int(found.regions.areas[number]), decision, rejected, names[nearest],
                f"{found.known_cosines[number, nearest]:.4f}",
                *(f"{value:.4f}" for value in found.cosines[number]),
            ]
        )  # fmt: skip
    return rows


def write_regions(path: Path, rows: list[list[Any]], novel_names: Sequence[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*HEADER, *(f"cosine_{name}" for name in novel_names)])
    writer.writerows(rows)
    write_text(path, text.getvalue())


def main(job: Job[OpenWorld]) -> None:
    options = job.options
    tables = read_tables(job.input("split"), job.input("classes"))
    every = read_samples(job.input("manifest"), options.dataset.subsets)
    samples, kept = job.mine(every), shown_ids(every, tables.novel_ids, options.shown_images)
    split = options.dataset.split
    model, card = load_network(job.input("metric"), network="raml_metric", tables=tables, split=split)
    model.to(job.device)
    mean, std = card["input"]["mean"], card["input"]["std"]
    banks = []
    for path in job.inputs("banks"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        banks.append((facts, load_bank(path, expect={"split": split})))
    classes = tables.known + len(tables.novel_ids)
    novel = list(range(tables.known, classes))
    empty = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    closed_counts = empty.copy()
    counts = {(number, name): empty.copy() for number in range(len(banks)) for name in VARIANTS}
    rows: list[list[Any]] = []

    with (
        LabelMapWriter(job.output("labels"), tables.table) as out,
        StoreWriter(job.output("shown"), attributes=job.provenance()) as pictures,
        torch.inference_mode(),
    ):
        for sample in job.progress(samples):
            if sample.mask is None:
                raise DataError(f"image {sample.id} has no mask, so nothing can be scored on it")
            image, truth = read_image(sample.image), tables.eval_lut[read_mask(sample.mask)]
            maps = model(normalise(image, mean=mean, std=std)[None].to(job.device))
            closed = closed_prediction(maps, *truth.shape)
            closed_counts += confusion_counts(truth, closed, classes)
            shown = closed
            for number, (facts, bank) in enumerate(banks):
                found = decide(
                    model, maps, bank, height=truth.shape[0], width=truth.shape[1],  # type: ignore[arg-type]
                    hit_ratio=facts["hit_ratio"], best_channel=facts.get("best_channel", False),
                    options=options,
                )  # fmt: skip
                results = {
                    "npm": nearest_prototype(maps, bank, closed, novel, threshold=options.npm_threshold),
                    "raml": fuse(closed, found, novel, reject_known=False),
                    "raml_reject_known": fuse(closed, found, novel, reject_known=True),
                }
                for name, prediction in results.items():
                    counts[number, name] += confusion_counts(truth, prediction, classes)
                if number == 0:
                    shown = results["raml_reject_known" if options.reject_known else "raml"]
                    rows += region_rows(sample.id, found, tables)
                    if sample.id in kept:
                        meta = maps.channels.shape[1] - maps.logits.shape[1]
                        chosen = selected_channels(
                            bank, facts["hit_ratio"], meta, best=facts.get("best_channel", False)
                        )
                        proposal = proposal_map(maps, chosen)
                        add_shown(
                            pictures, sample.id, proposal, tables.eval_to_id[closed], found.regions.labels
                        )
            out.add(sample.id, tables.eval_to_id[shown])

    write_regions(job.output("regions"), rows, tables.eval_names[tables.known :])
    scored = []
    for (number, name), matrix in counts.items():
        facts, _ = banks[number]
        draw = {"shots": facts["shots"], "support_seed": facts["support_seed"]}
        scored.append({**draw, "variant": name, "matrix": matrix.tolist()})
    content = {"split": split, "images": len(samples), "closed_set": closed_counts.tolist(), "banks": scored}
    write_json(job.output("counts"), {**content, **job.provenance()})


if __name__ == "__main__":
    run("raml.open_world", OpenWorld, main)
