"""Stage larvseg.images: index a folder of millions of image-labelled files, and pack them if wanted."""

from anyshot.engine.artifacts import write_json
from anyshot.job import Job, duration, run
from anyshot.larvseg.image_set_options import Images
from anyshot.larvseg.image_sets import build_image_set

LISTED = 10


def main(job: Job[Images]) -> None:
    """Outputs: classes (csv), images (json), in one folder, beside which `index/` and `pack/` are written.

    These two are no outputs of their own: the workflow would remove them when a run stops, and with them the
    shards that the next one can keep.
    """
    options = job.options.image_set
    assert options is not None, "filled in by Larvseg.stage"
    folder = job.output("images").parent
    job.log.info("%s: listing the files below %s", job.options.name, options.root)
    table, report = build_image_set(
        options,
        folder,
        processes=job.threads,
        progress=lambda shards, total: job.progress(shards, total=total, unit="shard"),
    )
    job.log.info(
        "%s: %d images of %d classes in %s",
        job.options.name, report["images"], report["classes"], duration(report["seconds"]),
    )  # fmt: skip
    for key, what in (
        ("empty", "classes without an image, never drawn"),
        ("skipped", "images that cannot be read, left out"),
        ("no_wnids", "folders that are no wnid, left out"),
    ):
        if report[key]:
            job.log.warning("%d %s: %s", len(report[key]), what, ", ".join(report[key][:LISTED]))
    table.write(job.output("classes"))
    write_json(job.output("images"), {**job.provenance(), "name": job.options.name, **report})


if __name__ == "__main__":
    run("larvseg.images", Images, main)
