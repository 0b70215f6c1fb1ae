"""Draw the support images of every novel class, or take them from a given list (pop.md 1.5)."""

from pathlib import Path

from anyshot.engine.artifacts import write_json
from anyshot.errors import DataError
from anyshot.job import Job, run
from anyshot.pop.index import PixelIndex
from anyshot.pop.options import Support
from anyshot.pop.selection import check_supports, few_shot, list_digest, parse_list, repeats
from anyshot.pop.tables import read_tables


def given_list(folder: str, options: Support) -> Path:
    """The file of a fold's list, named as the official code names it."""
    path = Path(folder) / f"{options.dataset.split}_{options.shots}shot_seed{options.support_seed}.txt"
    if not path.is_file():
        raise DataError(f"there is no support list {path}; set `pop.support.lists` to null to draw supports")
    return path


def main(job: Job[Support]) -> None:
    options = job.options
    tables = read_tables(job.input("classes"), options.dataset)
    index = PixelIndex.read(job.input("index"))
    names = {number: tables.table.name_of(number) for number in tables.novel_ids}
    if options.lists is None:
        lists = index.class_lists(tables.novel_ids, min_pixels=options.min_pixels)
        chosen = few_shot(lists, options.shots, options.support_seed, names=names)
    else:
        path = given_list(options.lists, options)
        chosen = parse_list(path.read_text(encoding="utf-8"), tables.novel_ids, options.shots)
    check_supports(chosen, index, names=names)
    for number, ids in repeats(chosen).items():
        job.log.warning(
            "%s: fewer images of %d px or more than %d shots, so some support it twice or another class, too:"
            " %s", names[number], options.min_pixels, options.shots, ", ".join(ids),
        )  # fmt: skip
    content = {
        "split": options.dataset.split,
        "shots": options.shots,
        "support_seed": options.support_seed,
        "sha256": list_digest(chosen),
        "classes": [
            {
                "id": number,
                "name": names[number],
                "supports": ids,
                "pixels": [index.pixels_of(one, number) for one in ids],
            }
            for number, ids in chosen.items()
        ],
        **job.provenance(),
    }
    write_json(job.output("supports"), content)


if __name__ == "__main__":
    run("pop.support", Support, main)
