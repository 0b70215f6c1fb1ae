"""Segment the evaluation images with the base model and every head of a split (pop.md 2.5, 4.1).

The network runs once per image whatever the number of heads. Label maps are written for POP with the most
shots and its first draw; every head's confusion matrix goes into `counts`, and the cosines between the
prototypes of the base model and of that head. What the report draws of a few images goes into `shown`.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import read_samples, shown_ids
from anyshot.engine.artifacts import write_json
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import StoreWriter
from anyshot.job import Job, run
from anyshot.ops.metrics import confusion_counts
from anyshot.pop.artifacts import load_base, load_head
from anyshot.pop.datasets import mask_of, whole_image
from anyshot.pop.head import PrototypeHead
from anyshot.pop.inference import decide
from anyshot.pop.options import Predict
from anyshot.pop.scores import prototype_cosines
from anyshot.pop.tables import FoldTables, read_tables

Head = tuple[str, int, int]  # method, shots, support seed
BASE: Head = ("base", 0, 0)


def updated_heads(job: Job[Predict], tables: FoldTables) -> dict[Head, nn.Module]:
    """The heads of stage 2 on the job's device."""
    heads: dict[Head, nn.Module] = {}
    for path in job.inputs("heads"):
        head, facts = load_head(path, tables=tables, split=job.options.dataset.split)
        heads[facts["method"], facts["shots"], facts["support_seed"]] = head.to(job.device)
    return heads


def cosines(base: PrototypeHead, head: nn.Module, name: Head, tables: FoldTables) -> dict[str, Any]:
    """Cosines between the prototypes of the base model, `before`, and between those of a head, `after`;
    `names` are those of the prototypes, base classes first."""
    found: dict[str, Any] = {
        "names": list(tables.names[1:]),
        "before": prototype_cosines(base.base_emb.detach().cpu().numpy()),
    }
    if isinstance(head, PrototypeHead) and head.novel:
        variant, shots, seed = name
        every = torch.cat([head.base_emb, head.novel_emb]).detach().cpu().numpy()
        drawn = {"variant": variant, "shots": shots, "support_seed": seed}
        found |= {**drawn, "after": prototype_cosines(every)}
    return found


def main(job: Job[Predict]) -> None:
    options = job.options
    split = options.dataset.split
    tables = read_tables(job.input("classes"), options.dataset)
    base, card = load_base(job.input("base"), tables=tables, split=split)
    base.to(job.device)
    mean, std = card["input"]["mean"], card["input"]["std"]
    heads = {BASE: base.head, **updated_heads(job, tables)}
    every = read_samples(job.input("manifest"), options.dataset.subsets)
    samples, kept = job.mine(every), shown_ids(every, tables.novel_ids, options.shown_images)
    classes = len(tables.names)
    counts = {name: np.zeros((classes + 1, classes + 1), dtype=np.int64) for name in heads}
    written = max(heads, key=lambda name: (name[0] == "pop", name[1], -name[2]))
    pictures_of = [name for name in heads if name in (BASE, written) or name[1:] == written[1:]]

    with (
        LabelMapWriter(job.output("labels"), tables.table) as out,
        StoreWriter(job.output("shown"), attributes=job.provenance()) as pictures,
        torch.inference_mode(),
    ):
        for sample in job.progress(samples):
            image = read_image(sample.image)
            truth = tables.labels(read_mask(mask_of(sample)), novel=True)
            pixels, _ = whole_image(image, options.size, mean=mean, std=std)
            features = base.features(pixels[None].to(job.device))
            found = {name: decide(head(features)[0], *truth.shape) for name, head in heads.items()}
            for name, prediction in found.items():
                counts[name] += confusion_counts(truth, prediction, classes)
            out.add(sample.id, tables.index_to_id[found[written]])
            if sample.id in kept:
                maps = {name[0]: tables.index_to_id[found[name]] for name in pictures_of}
                pictures.add(
                    sample.id, [], np.zeros((0, 1, 1), np.float32), height=truth.shape[0],
                    width=truth.shape[1], extra=maps,
                )  # fmt: skip

    scored = [
        {"variant": method, "shots": shots, "support_seed": seed, "matrix": matrix.tolist()}
        for (method, shots, seed), matrix in counts.items()
    ]
    content = {
        "split": split,
        "images": len(samples),
        "scored": scored,
        "cosines": cosines(base.head, heads[written], written, tables),
        **job.provenance(),
    }
    write_json(job.output("counts"), content)


if __name__ == "__main__":
    run("pop.predict", Predict, main)
