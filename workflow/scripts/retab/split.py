"""Divide the training images into base samples (masks) and novel samples (image labels) (retab.md 1.2)."""

from anyshot.data.images import read_mask
from anyshot.data.splits import base_novel_split
from anyshot.engine.artifacts import write_json, write_text
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.retab.options import Split
from anyshot.retab.samples import read_data, supervision_csv


def main(job: Job[Split]) -> None:
    options = job.options
    samples, table = read_data(job.input("manifest"), job.input("classes"), options.dataset.subsets)
    novel_classes = table.ids_of(options.novel)
    base, novel = base_novel_split(samples, novel_classes, options.rule, read_mask, threads=job.threads)
    if not base or not novel:
        raise DataError(
            f"split {options.dataset.split}: {len(base)} base and {len(novel)} novel images of"
            f" {len(samples)} (rule"
            f" {options.rule}); both are needed: choose other novel classes ({', '.join(options.novel)})"
        )
    masked = {sample.id for sample in samples if sample.mask is not None}
    bare = [sample_id for sample_id in base if sample_id not in masked]
    if bare:
        raise DataError(
            f"{len(bare)} base images have no mask, the first is {bare[0]!r}: give them masks, or"
            " label them with a"
            " novel class"
        )
    job.log.info("%s: %d base and %d novel images", options.dataset.split, len(base), len(novel))

    write_text(job.output("samples"), supervision_csv(split=options.dataset.split, base=base, novel=novel))
    content = {
        "split": options.dataset.split,
        "rule": options.rule,
        "novel": novel_classes,
        "base": [class_id for class_id in table.foreground_ids if class_id not in novel_classes],
        "background": table.background_id,
        "names": dict(zip(map(str, table.ids), table.names, strict=True)),
        "images": {"base": len(base), "novel": len(novel)},
        **job.provenance(),
    }
    write_json(job.output("split"), content)


if __name__ == "__main__":
    run("retab.split", Split, main)
