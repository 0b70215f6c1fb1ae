"""Score CAMs, walks and pseudo labels against the masks of a training subset, with sweeps (retab.md 3.1)."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from anyshot.data.classes import ClassTable
from anyshot.data.images import read_mask
from anyshot.data.manifest import Sample
from anyshot.engine.artifacts import write_json, write_text
from anyshot.engine.label_maps import LabelMaps
from anyshot.engine.stores import Store
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.ops.crf import map_processes
from anyshot.retab import evaluation
from anyshot.retab.options import ScoreMaps
from anyshot.retab.reference import reference
from anyshot.retab.samples import index_map, read_data, roles_of

VARIANTS = {"cam": "cam", "psa_walk": "psa", "retab_walk": "retab", "pseudo_label": "pseudo_label"}
CHUNK = 32  # images per piece of work


class Scorer:
    """Counts of all variants over a few images; opens its inputs in the process that uses it."""

    def __init__(self, inputs: Mapping[str, Sequence[Path]], table: ClassTable, options: ScoreMaps) -> None:
        self.table = table
        self.scores = {name: Store(list(paths)) for name, paths in inputs.items() if name != "pseudo_label"}
        self.labels = LabelMaps(list(inputs["pseudo_label"]))
        self.thresholds = {
            name: evaluation.thresholds_of(options.cam_sweep if name == "cam" else options.walk_sweep)
            for name in self.scores
        }

    def __call__(self, samples: Sequence[Sample]) -> dict[str, evaluation.Tally]:
        tallies = {name: evaluation.Tally(len(self.table), grid) for name, grid in self.thresholds.items()}
        tallies["pseudo_label"] = evaluation.Tally(len(self.table), None)
        background = int(self.table.ids[0])
        for sample in samples:
            assert sample.mask is not None  # main() leaves the others out
            truth = index_map(read_mask(sample.mask), self.table)
            for name, store in self.scores.items():
                scores, tally = store[sample.id], tallies[name]
                best_class, best_score = evaluation.best_foreground(scores, self.table)
                assert tally.sweep is not None
                tally.sweep.add(truth, best_class, best_score)
                if (
                    name == "cam"
                ):  # a CAM has no background of its own: its maps are made at a usual threshold
                    prediction = (best_score > 0.2) * best_class
                else:
                    prediction = index_map(evaluation.label_map(scores, background=background), self.table)
                tally.add_labels(sample.id, truth, prediction)
            labels = index_map(self.labels[sample.id], self.table)
            labels[labels == 255] = len(self.table)  # void of a base mask: never where the truth is known
            tallies["pseudo_label"].add_labels(sample.id, truth, labels)
        return tallies


def images_csv(tallies: Mapping[str, evaluation.Tally], samples: Sequence[Sample]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *tallies])
    writer.writerows([s.id, *(f"{tally.images[s.id]:.6f}" for tally in tallies.values())] for s in samples)
    return text.getvalue()


def main(job: Job[ScoreMaps]) -> None:
    samples, table = read_data(job.input("manifest"), job.input("classes"), job.options.dataset.subsets)
    without = [sample.id for sample in samples if sample.mask is None]
    samples = [sample for sample in samples if sample.mask is not None]
    if not samples:
        raise DataError(f"none of the {len(without)} images has a mask, so nothing can be scored on them")
    if without:
        job.log.info("%d images without a mask are left out of the scores", len(without))
    split = json.loads(job.input("split").read_text(encoding="utf-8"))
    roles = roles_of(table, split)
    inputs = {variant: job.inputs(name) for variant, name in VARIANTS.items() if job.has_input(name)}
    chunks = [samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK)]
    total: dict[str, evaluation.Tally] = {}
    parts = map_processes(Scorer(inputs, table, job.options), chunks, processes=job.threads)
    for part in job.progress(parts, total=len(chunks), unit="chunk"):
        for name, tally in part.items():
            total.setdefault(name, evaluation.Tally(len(table), tally.thresholds)).merge(tally)

    variants: dict[str, dict[str, object]] = {}
    for name, tally in total.items():
        variants[name] = {} if tally.sweep is None else evaluation.sweep_result(tally.sweep, table, roles)
        if name != "cam":
            confusion = tally.labels
            variants[name]["png"] = evaluation.measured(confusion.iou(), confusion.truth_pixels, table, roles)
    content = {
        "system": "retab",
        "split": split["split"],
        "subset": " ".join(job.options.dataset.subsets),
        "images": len(samples),
        "protocol": evaluation.PROTOCOL,
        "variants": variants,
        "reference": reference(split["split"]) if job.options.published else {},
        **job.provenance(),
    }
    write_json(job.output("scores"), content)
    write_text(job.output("images"), images_csv(total, samples))


if __name__ == "__main__":
    run("retab.score_maps", ScoreMaps, main)
