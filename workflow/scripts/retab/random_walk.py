"""Propagate the CAMs over the affinity graph, gated by boundaries in two stages (retab.md 2.9, 2.10)."""

from pathlib import Path

import numpy as np
import torch

from anyshot.engine.stores import ScoreMap, Store, StoreWriter
from anyshot.errors import ArtifactError
from anyshot.job import Job, run
from anyshot.ops.crf import map_processes
from anyshot.retab.options import RandomWalk
from anyshot.retab.propagation import propagate
from anyshot.retab.samples import read_data


class Walker:
    """One image's walk; opens the stores in the process that uses it."""

    def __init__(self, job: Job[RandomWalk]) -> None:
        self.cams, self.affinities = Store(job.inputs("cam")), Store(job.inputs("affinity_map"))
        self.boundaries = Store(job.inputs("boundary_map")) if job.options.boundary else None
        self.options = job.options

    def __call__(self, sample_id: str) -> tuple[np.ndarray, ScoreMap]:
        torch.set_num_threads(1)  # the processes are as many as the job's threads
        cam, affinity = self.cams[sample_id], self.affinities[sample_id]
        opened = None if self.boundaries is None else self.boundaries[sample_id].scores[0] != 0
        radius = int(self.affinities.extra(sample_id, "radius"))
        grid = propagate(cam, affinity.scores, opened, radius=radius, options=self.options)
        return grid, cam


def check_split(paths: dict[str, list[Path]]) -> str:
    """The split that all stores belong to; ArtifactError when they differ."""
    splits = {name: Store(files).attributes.get("split", "shared") for name, files in paths.items() if files}
    found = {split for split in splits.values() if split != "shared"}
    if len(found) > 1:
        raise ArtifactError(f"the inputs belong to different splits: {splits}; give those of one split")
    return found.pop() if found else "shared"


def main(job: Job[RandomWalk]) -> None:
    samples, table = read_data(job.input("manifest"), job.input("classes"), job.options.dataset.subsets)
    ids = [sample.id for sample in job.mine(samples)]
    gates = job.inputs("boundary_map") if job.options.boundary else []
    split = check_split({"affinity_map": job.inputs("affinity_map"), "boundary_map": gates})

    with StoreWriter(job.output("store"), attributes={**job.provenance(), "split": split}) as out:
        results = map_processes(Walker(job), ids, processes=job.threads)
        for sample_id, (grid, cam) in job.progress(zip(ids, results, strict=True), total=len(ids)):
            classes = [table.background_id, *cam.classes.tolist()]
            stride = 8
            out.add(sample_id, classes, grid, height=cam.height, width=cam.width, stride=stride)


if __name__ == "__main__":
    run("retab.random_walk", RandomWalk, main)
