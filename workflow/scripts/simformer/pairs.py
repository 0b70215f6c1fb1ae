"""Image-level classes of every training image: who can be paired with whom (simformer.md 2.7)."""

from anyshot.data.manifest import read_samples
from anyshot.engine.artifacts import write_json
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.simformer.options import Pairs
from anyshot.simformer.pairing import ImageLabels
from anyshot.simformer.tables import read_tables


def main(job: Job[Pairs]) -> None:
    dataset = job.options.dataset
    tables = read_tables(job.input("classes"), dataset)
    samples = read_samples(job.input("manifest"), dataset.subsets)
    kept = [sample for sample in samples if sample.labels]
    if not kept:
        raise DataError(
            f"none of the {len(samples)} training images names a class: give them masks or labels"
        )
    dropped = [sample.id for sample in samples if not sample.labels]
    if dropped:
        job.log.warning(
            "%d images have no class (all void) and are left out, the first is %s", len(dropped), dropped[0]
        )
    labels = ImageLabels.of((sample.id, *tables.labels_of(sample)) for sample in kept)
    alone = sum(
        1
        for number, bits in enumerate(labels.novel)
        if bits and not any(labels.deconfounded(number, index) for index in tables.novel)
    )
    job.log.info(
        "%d images, %d with a novel class, %d of these without a partner that shares exactly one",
        len(kept),
        sum(bits != 0 for bits in labels.novel),
        alone,
    )
    for index in tables.novel:
        if not labels.with_novel.get(index):
            job.log.warning("no training image shows the novel class %s", tables.table.names[index])
    content = labels.to_json(split=dataset.split, dropped=dropped)
    write_json(job.output("pairs"), {**content, **job.provenance()})


if __name__ == "__main__":
    run("simformer.pairs", Pairs, main)
