"""Segment and score the images of one target: label maps, counts, attention maps (larvseg.md 2.9)."""

from typing import Any

import numpy as np
import torch

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Sample, read_samples, shown_ids
from anyshot.engine.artifacts import write_json
from anyshot.engine.label_maps import LabelMapWriter
from anyshot.engine.stores import StoreWriter
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.larvseg.artifacts import load_network
from anyshot.larvseg.inference import Classifier, see
from anyshot.larvseg.options import Predict
from anyshot.larvseg.shown import shown_attention
from anyshot.larvseg.tables import Tables, class_tables, read_tables
from anyshot.larvseg.training import active_classes
from anyshot.ops.metrics import confusion_counts


class Predictor:
    """One network on one target."""

    def __init__(self, job: Job[Predict], tables: Tables, target: str) -> None:
        self.options = job.options
        self.model, card = load_network(job.input("network"), tables=tables, split=job.options.split)
        self.model.to(job.device)
        self.reading: dict[str, Any] = {
            "view": job.options,
            "mean": card["input"]["mean"],
            "std": card["input"]["std"],
            "device": job.device,
        }
        self.member = tables.member(target)
        self.classifier = Classifier(self.model.head, active_classes(self.member))
        # a row that several classes share stands for the first of them, as the first of equal columns wins
        self.index_of = np.asarray([self.member.positions.index(p) for p in range(len(self.member.active))])
        self.lut = tables.index_lut(target)

    def pair(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """The image, and its truth as class indices. Raises DataError."""
        if sample.mask is None:
            raise DataError(f"image {sample.id} has no mask, so nothing can be scored on it")
        image, truth = read_image(sample.image), self.lut[read_mask(sample.mask)]
        if image.shape[:2] != truth.shape:
            raise DataError(f"image {sample.id} is {image.shape[:2]} px, its mask {truth.shape} px")
        return image, truth

    def segment(self, image: np.ndarray) -> np.ndarray:
        """Class index at every pixel."""
        options = self.options
        found = self.classifier.decide(
            see(self.model, image, **self.reading),
            postprocess=options.postprocess,
            memory_mib=options.memory_mib,
        )
        return np.asarray(self.index_of[found])

    def shown(self, image: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
        """What the report draws."""
        return shown_attention(
            self.model, self.classifier, image, truth, member=self.member, **self.reading
        )  # fmt: skip


def main(job: Job[Predict]) -> None:
    options = job.options
    assert options.experiment is not None, "filled in by Larvseg.stage"
    target = options.experiment.target(str(options.target))
    tables = read_tables(
        options.experiment, classes=job.inputs("classes"), vocabulary=job.input("vocabulary")
    )
    predictor = Predictor(job, tables, target.name)
    table = class_tables(job.inputs("classes"))[target.data]
    ids = np.asarray(tables.classes[target.name].ids, dtype=np.uint16)
    every = read_samples(job.input("manifest"), [target.subset])
    novel = [int(ids[index]) for index in tables.base_novel(target.name).novel]
    samples, kept = job.mine(every), shown_ids(every, novel, options.shown_images)
    matrix = np.zeros((len(ids) + 1, len(ids) + 1), dtype=np.int64)
    with (
        LabelMapWriter(job.output("labels"), table) as out,
        StoreWriter(job.output("shown"), attributes=job.provenance()) as pictures,
        torch.inference_mode(),
    ):
        for sample in job.progress(samples):
            image, truth = predictor.pair(sample)
            prediction = predictor.segment(image)
            matrix += confusion_counts(truth, prediction, len(ids))
            out.add(sample.id, ids[prediction])
            if sample.id in kept:
                height, width = truth.shape
                nothing, extra = np.zeros((0, 1, 1), np.float32), predictor.shown(image, truth)
                pictures.add(sample.id, [], nothing, height=height, width=width, extra=extra)
    content = {
        "split": options.split,
        "method": options.method,
        "target": target.name,
        "images": len(samples),
        "matrix": matrix.tolist(),
        **job.provenance(),
    }
    write_json(job.output("counts"), content)


if __name__ == "__main__":
    run("larvseg.predict", Predict, main)
