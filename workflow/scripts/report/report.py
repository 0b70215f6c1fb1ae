"""The report: one HTML page of everything a run made, readable without a network.

Inputs, each of which may be absent and may be several files:
    manifest, classes, card          the data sets
    miou, scores, images, samples    what was measured, per split
    cam, psa_walk, retab_walk        score stores, all shards
    shown                            all but RETAB: kept of a few evaluation images, all shards
    regions, anomaly                 RAML: decisions on regions, scores of the unseen
    supports                         POP: draws of support images
    mapping, compactness             LarvSeg: what was unified with what; whether features group classes
    pseudo_label, predict            labels.csv of label maps, all shards
    curves, model_cards              train.jsonl and model.json of the networks
    benchmarks                       benchmark files of the jobs
    summary                          not read: asked for so that the page and the summary are of one run
Output: page.
"""

from __future__ import annotations

from anyshot.engine.artifacts import atomic_path
from anyshot.job import Job, run
from anyshot.page_options import Report
from anyshot.report.material import Material
from anyshot.report.page import build


def main(job: Job[Report]) -> None:
    job.log.info("%d input files", sum(len(paths) for paths in job.input_paths.values()))
    page = build(Material(paths=job.input_paths, options=job.options, provenance=job.provenance()))
    with atomic_path(job.output("page")) as temporary:
        temporary.write_text(page, encoding="utf-8")
    job.log.info("%.1f MB", len(page.encode("utf-8")) / 1e6)


if __name__ == "__main__":
    run("report.report", Report, main)
