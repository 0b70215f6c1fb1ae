"""Whether the network's features group the pixels of the first target's classes (larvseg.md 2.8)."""

from typing import Any

import torch

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import read_samples
from anyshot.engine.artifacts import write_json
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.larvseg.artifacts import load_network
from anyshot.larvseg.compactness import CompactnessCount, seeded_labels
from anyshot.larvseg.inference import see
from anyshot.larvseg.options import Compactness
from anyshot.larvseg.tables import read_tables
from anyshot.ops.pixel_taps import token_table
from anyshot.ops.postprocess import map_to_decide


def main(job: Job[Compactness]) -> None:
    options = job.options
    assert options.experiment is not None, "filled in by Larvseg.stage"
    target = options.experiment.target(str(options.target))
    tables = read_tables(
        options.experiment, classes=job.inputs("classes"), vocabulary=job.input("vocabulary")
    )
    model, card = load_network(job.input("network"), tables=tables, split=options.split)
    model.to(job.device)
    reading: dict[str, Any] = {
        "mean": card["input"]["mean"], "std": card["input"]["std"], "device": job.device
    }  # fmt: skip
    lut = tables.index_lut(target.name)
    samples = read_samples(job.input("manifest"), [target.subset])[: options.images]
    classes = len(tables.classes[target.name].ids)
    count = CompactnessCount(classes=classes, points=options.points, repeats=options.repeats)
    looked_at = 0
    with torch.inference_mode():
        for number, sample in enumerate(job.progress(samples)):
            if sample.mask is None:
                raise DataError(f"image {sample.id} has no mask: compactness is measured on masks")
            truth = lut[read_mask(sample.mask)]
            if not (truth >= 0).any():
                continue
            looked_at += 1
            seen = see(model, read_image(sample.image), view=options, **reading)
            units = model.head.units(token_table(seen.maps).T[None, :, :, None])[0]
            height, width = truth.shape
            pixels = map_to_decide(seen.pixels, height=height, width=width, postprocess="logit_bilinear")
            drawings = count.drawings(truth, seed=job.seed, image=number)
            labels = seeded_labels(units, pixels, drawings, classes=classes, absent=options.absent)
            count.add(truth, labels)
    entries = count.result(tables.roles(target.name))
    content = {
        "split": options.split,
        "target": target.name,
        "method": card["method"],
        "images": looked_at,
        "absent": options.absent,
        "repeats": options.repeats,
        "points": entries,
        **job.provenance(),
    }
    write_json(job.output("compactness"), content)
    for entry in entries:
        shown = {key: entry[key]["mean"] for key in ("all", "seen", "unseen")}
        job.log.info("%d points: mIoU %s", entry["points"], shown)


if __name__ == "__main__":
    run("larvseg.compactness", Compactness, main)
