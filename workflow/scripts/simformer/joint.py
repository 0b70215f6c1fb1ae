"""Phase 1: MaskFormer and the similarity network, trained together on pairs of images (simformer.md 2.8)."""

from anyshot.data.manifest import read_samples
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.simformer.datasets import CropDataset, Crops, PairDataset, mask_labels
from anyshot.simformer.learning import supervision_of, variant_losses
from anyshot.simformer.options import Joint
from anyshot.simformer.pairing import Partners, read_image_labels
from anyshot.simformer.tables import read_tables
from anyshot.simformer.training import fit


def main(job: Job[Joint]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    by_id = {sample.id: sample for sample in read_samples(job.input("manifest"), options.dataset.subsets)}
    labels = read_image_labels(job.input("pairs"), split=options.dataset.split)
    unseen = options.variant == "ignore_novel"
    if unseen:  # an image without a base class would teach nothing
        labels = labels.with_a_base_class()
    samples = [by_id[one] for one in labels.ids]
    if not samples:
        raise DataError("no training image shows a base class: choose other novel classes")
    job.log.info("%s: %d training images", options.variant, len(samples))
    of_set, of_pairs = variant_losses(options)
    supervision = supervision_of(options)
    partners = Partners(labels, mode="random" if unseen else options.pairing, rare_share=options.rare_share)

    def dataset(crops: Crops) -> PairDataset:
        read = mask_labels(tables, supervision=supervision)
        images = CropDataset(samples=samples, read=read, tables=tables, supervision=supervision, crops=crops)
        return PairDataset(images=images, partners=partners)

    fit(
        job,
        options=options,
        tables=tables,
        of_set=of_set,
        of_pairs=of_pairs,
        dataset=dataset,
        variant=options.variant,
        novel_label_source=options.novel_label_source,
    )


if __name__ == "__main__":
    run("simformer.joint", Joint, main)
