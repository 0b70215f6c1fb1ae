"""Build the novel bank of one draw of support images (raml.md 2.5)."""

import torch

from anyshot.data.images import read_image, read_mask
from anyshot.data.manifest import Sample, read_samples
from anyshot.data.split_tables import read_tables
from anyshot.data.supports import class_areas, largest_supports, listed_supports, random_supports
from anyshot.data.transforms import normalise
from anyshot.engine.artifacts import write_json
from anyshot.engine.novel_folder import check_stems
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.raml.artifacts import load_network
from anyshot.raml.bank import describe_support, novel_class, save_class
from anyshot.raml.options import NovelBank


def choose_supports(
    options: NovelBank, samples: list[Sample], novel: dict[int, str], threads: int
) -> dict[int, list[str]]:
    """Ids of the support images by class id."""
    if options.supports is not None and options.supports != "largest":
        listed = listed_supports(options.supports, list(novel.values()))
        short = [name for name, ids in listed.items() if len(ids) < options.shots]
        if short:
            raise DataError(
                f"{options.supports} lists fewer than {options.shots} images of {', '.join(short)}"
            )
        return {number: listed[name][: options.shots] for number, name in novel.items()}
    areas = class_areas(samples, list(novel), threads)
    chosen: dict[int, list[str]] = {}
    for number in novel:
        of_class = {sample_id: area[number] for sample_id, area in areas.items()}
        if options.supports == "largest":
            chosen[number] = largest_supports(
                samples, class_id=number, shots=options.shots, min_pixels=options.min_pixels, areas=of_class
            )
        else:
            chosen[number] = random_supports(
                samples, class_id=number, shots=options.shots, seed=options.support_seed,
                min_pixels=options.min_pixels, areas=of_class,
            )  # fmt: skip
    return chosen


def main(job: Job[NovelBank]) -> None:
    options = job.options
    tables = read_tables(job.input("split"), job.input("classes"))
    samples = read_samples(job.input("manifest"), options.dataset.subsets)
    by_id = {sample.id: sample for sample in samples}
    model, card = load_network(
        job.input("metric"), network="raml_metric", tables=tables, split=options.dataset.split
    )
    model.to(job.device)
    mean, std = card["input"]["mean"], card["input"]["std"]
    novel = {number: tables.table.name_of(number) for number in tables.novel_ids}
    check_stems(novel.values())
    chosen = choose_supports(options, samples, novel, job.threads)

    target, entries = job.output("bank"), []
    with torch.inference_mode():
        for number, ids in chosen.items():
            missing = [sample_id for sample_id in ids if sample_id not in by_id]
            if missing:
                raise DataError(f"the support image {missing[0]} is in none of the training subsets")
            supports = []
            for sample in (by_id[sample_id] for sample_id in ids):
                pixels = normalise(read_image(sample.image), mean=mean, std=std)[None].to(job.device)
                mask = read_mask(sample.mask) == number  # type: ignore[arg-type]
                supports.append(
                    describe_support(
                        model, model(pixels), mask,  # type: ignore[arg-type]
                        hit_threshold=options.hit_threshold, what=f"{sample.id}, {novel[number]}",
                    )
                )  # fmt: skip
            found = novel_class(number, novel[number], ids, supports)
            path = save_class(
                target.parent, found, split=options.dataset.split, classes_digest=tables.table.digest()
            )
            chosen = found.channels(options.hit_ratio, best=options.best_channel)
            selected = chosen.nonzero().flatten().tolist()
            entries.append(
                {"id": number, "name": novel[number], "supports": ids, "channels": selected,
                 "file": path.with_suffix(".safetensors").name}
            )  # fmt: skip
            job.log.info("%s: %d supports, meta channels %s", novel[number], len(ids), selected or "none")
    content = {
        "split": options.dataset.split,
        "shots": options.shots,
        "support_seed": options.support_seed,
        "hit_ratio": options.hit_ratio,
        "best_channel": options.best_channel,
        "classes": entries,
        **job.provenance(),
    }
    write_json(target, content)


if __name__ == "__main__":
    run("raml.novel_bank", NovelBank, main)
