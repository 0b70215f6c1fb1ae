"""Preparing a data set: read its layout, check every sample, count; the result is manifest, table and card.

The checks run in processes of their own, one share of the samples each.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from anyshot.data.classes import IGNORE_8_BIT, ClassTable
from anyshot.data.images import image_size, read_image, read_mask
from anyshot.data.manifest import Manifest, Sample
from anyshot.data.options import CocoData, CocoStuff10kData, DataSource, Prepare, ScenesData
from anyshot.data.readers import DataSet, Problem
from anyshot.data.readers import read as read_layout
from anyshot.errors import DataError
from anyshot.processes import worker_pool

log: Final = logging.getLogger("anyshot")

NO_LABELS: Final = "no labels"
LISTED_IN_ERROR: Final = 10
LISTED_IN_CARD: Final = 1000
# Starting a process costs about as much as checking two hundred images.
SAMPLES_PER_PROCESS: Final = 200

R = TypeVar("R")
T = TypeVar("T")
Progress = Callable[[Iterable["Check"], int], Iterable["Check"]]


@dataclass(frozen=True)
class Check:
    """What checking one sample found: size in px, pixels by mask value, labels, and what is wrong."""

    id: str
    height: int = 0
    width: int = 0
    pixels: dict[int, int] = field(default_factory=dict)
    labels: tuple[int, ...] = ()
    problems: tuple[Problem, ...] = ()


def prepare(
    options: Prepare, *, folder: Path, threads: int = 1, progress: Progress | None = None
) -> tuple[Manifest, ClassTable, dict[str, Any]]:
    """Read and check the data set of `options`.

    Args:
        options: name and source of the data set.
        folder: where a generated data set (`scenes`) or masks that are drawn or converted (`coco`,
            `coco_stuff10k`) are written; not touched otherwise.
        threads: processes that check at the same time.
        progress: wraps the iterable of checks, given also their number.

    Returns:
        manifest, class table, and the card's content (JSON types only).

    Raises:
        DataError: the layout is wrong, a subset is empty, or a sample is bad and `on_bad_sample` is `stop`;
            then the first ten problems are listed with counts by kind.
    """
    _write_generated(folder, options.source, threads=threads)
    data = read_layout(options.source.reader, options.source, folder=folder)
    if not data.samples:
        reasons = f"\n{describe(data.problems, name=options.name, images=0)}" if data.problems else ""
        raise DataError(f"{data.root}: the data set {options.name!r} has no images{reasons}")
    checks = check_samples(data, decode=options.source.decode, threads=threads, progress=progress)
    found = [*data.problems, *(problem for check in checks.values() for problem in check.problems)]
    void_only = _void_only(data, found)
    problems = [problem for problem in found if problem.id not in void_only]
    if problems and options.source.on_bad_sample == "stop":
        raise DataError(describe(problems, name=options.name, images=len(data.samples)))
    bad = {problem.id for problem in problems} | void_only
    kept = [
        replace(sample, labels=checks[sample.id].labels) for sample in data.samples if sample.id not in bad
    ]
    _refuse_empty_subsets(data.samples, kept, found, options.name)
    manifest = Manifest(kept)
    return manifest, data.table, make_card(options, data, manifest, checks, problems, void_only)


def _write_generated(folder: Path, source: DataSource, *, threads: int) -> None:
    """Write what a reader does not find in the data set itself: scenes, drawn or converted masks."""
    if isinstance(source, ScenesData):
        from anyshot.data.scenes import write_scenes

        write_scenes(folder, source, threads=threads)
    if isinstance(source, CocoData):
        from anyshot.data.readers import coco

        coco.write_masks(folder, source, threads=threads)
    if isinstance(source, CocoStuff10kData):
        from anyshot.data.readers import coco_stuff10k

        coco_stuff10k.write_masks(folder, source, threads=threads)


def _void_only(data: DataSet, problems: Sequence[Problem]) -> set[str]:
    """Ids of images without any class that are left out, where the reader knows of such; logs which."""
    if data.known_void is None:
        return set()
    otherwise_bad = {problem.id for problem in problems if problem.kind != NO_LABELS}
    found = {problem.id for problem in problems if problem.kind == NO_LABELS} - otherwise_bad
    listed = data.known_void & {sample.id for sample in data.samples} - otherwise_bad
    if found:
        log.info("left out, not one class of the table is in them: %s", ", ".join(sorted(found)))
    if found != listed:
        log.warning(
            "images without any class are not those known of this data set: unknown %s; with classes %s",
            ", ".join(sorted(found - listed)) or "none",
            ", ".join(sorted(listed - found)) or "none",
        )
    return found


def check_samples(
    data: DataSet, *, decode: bool = True, threads: int = 1, progress: Progress | None = None
) -> dict[str, Check]:
    """Check all samples; the result does not depend on `threads`. Raises DataError for repeated ids."""
    Manifest(data.samples)
    work = partial(
        check_sample,
        table=data.table,
        decode=decode,
        labels_from_mask=data.labels_from_masks,
        void=data.void,
    )
    total = len(data.samples)
    wrap = progress if progress is not None else lambda checks, total: checks
    found = {check.id: check for check in wrap(map_samples(work, data.samples, threads=threads), total)}
    return {sample.id: found[sample.id] for sample in data.samples}


def map_samples(work: Callable[[T], R], samples: Sequence[T], *, threads: int) -> Iterator[R]:
    """`map(work, samples)` over processes, results in order. One process when the samples are few."""
    processes = min(threads, len(samples) // SAMPLES_PER_PROCESS)
    if processes <= 1:
        yield from map(work, samples)
        return
    with worker_pool(processes, start="spawn") as pool:
        yield from pool.map(work, samples, chunksize=max(1, min(64, len(samples) // (4 * processes))))


def check_sample(
    sample: Sample,
    *,
    table: ClassTable,
    decode: bool,
    labels_from_mask: bool,
    void: frozenset[int] = frozenset(),
) -> Check:
    """Check one sample's image and mask; nothing is raised, everything found is in the result.

    `void` are the mask values that mean ignored beside the table's own ignore value.
    """
    problems: list[Problem] = []
    height = width = 0
    try:
        height, width = read_image(sample.image).shape[:2] if decode else image_size(sample.image)
    except DataError as error:
        kind = "unreadable image" if sample.image.exists() else "missing image"
        problems.append(Problem(sample.id, kind, str(error)))
    pixels: dict[int, int] = {}
    if sample.mask is not None:
        try:
            mask = read_mask(sample.mask)
        except DataError as error:
            kind = "unreadable mask" if sample.mask.exists() else "missing mask"
            problems.append(Problem(sample.id, kind, str(error)))
        else:
            if height and mask.shape != (height, width):
                message = (
                    f"{sample.mask}: the mask is {_size(*mask.shape)}, its image is {_size(height, width)} px"
                )
                problems.append(Problem(sample.id, "size mismatch", f"{message}; make both the same"))
            counts = np.bincount(mask.ravel())
            pixels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
            eight_bits = mask.dtype == np.uint8
            problems.extend(_value_problems(sample, pixels, table, void, eight_bits=eight_bits))
    labels = sample.labels
    if labels_from_mask and sample.mask is not None:
        # a mask need not show every class that the image is known to have: novel ones may be void in it
        labels = tuple(sorted({*sample.labels, *(set(pixels) & set(table.foreground_ids))}))
    if not problems and not labels and table.background_id not in pixels:
        where = sample.mask or sample.image
        problems.append(
            Problem(sample.id, NO_LABELS, f"{where}: not one class of the table is in this image")
        )
    return Check(sample.id, height, width, pixels, labels, tuple(problems))


def _value_problems(
    sample: Sample, pixels: dict[int, int], table: ClassTable, void: frozenset[int], *, eight_bits: bool
) -> list[Problem]:
    if eight_bits and table.ignore != IGNORE_8_BIT:
        # 16-bit ids that were saved as 8 bits wrap modulo 256, and then look like other classes.
        message = (
            f"{sample.mask}: the mask has 8 bits, but the class table has ids up to {max(table.ids)}, which"
            f" only 16 bits hold; use the 16-bit masks of this data set ({table.ignore} = ignored)"
        )
        return [Problem(sample.id, "8-bit mask", message)]
    ignored = sorted({table.ignore, *void})
    outside = [value for value in pixels if value not in table.index_of and value not in ignored]
    if not outside:
        return []
    shown = ", ".join(f"{value} ({pixels[value]} px)" for value in outside[:5])
    message = (
        f"{sample.mask}: the mask has values outside the class table: {shown}; allowed are"
        f" {len(table)} ids, {min(table.ids)}..{max(table.ids)}, and {_listed(ignored)} for ignored pixels"
    )
    return [Problem(sample.id, "ids outside the table", message)]


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)


def _size(height: int, width: int) -> str:
    return f"{width} x {height}"


def describe(problems: Sequence[Problem], *, name: str, images: int) -> str:
    """The first ten problems, and how many there are of each kind."""
    kinds = ", ".join(f"{kind}: {count}" for kind, count in Counter(p.kind for p in problems).most_common())
    lines = [f"  {problem.message}" for problem in problems[:LISTED_IN_ERROR]]
    more = len(problems) - LISTED_IN_ERROR
    if more > 0:
        lines.append(f"  ... and {more} more")
    head = f"data set {name!r}: {len(problems)} problems in {images} images ({kinds})"
    return "\n".join([head, *lines, "Mend the files, or set on_bad_sample: skip to leave these samples out."])


def _refuse_empty_subsets(
    before: Sequence[Sample], kept: Sequence[Sample], problems: Sequence[Problem], name: str
) -> None:
    left = {sample.subset for sample in kept}
    for subset in dict.fromkeys(sample.subset for sample in before):
        if subset not in left:
            message = f"data set {name!r}: no usable sample is left in the subset {subset!r}\n"
            raise DataError(message + describe(problems, name=name, images=len(before)))


def make_card(
    options: Prepare,
    data: DataSet,
    manifest: Manifest,
    checks: dict[str, Check],
    problems: Sequence[Problem],
    void_only: Set[str],
) -> dict[str, Any]:
    """What a person wants to know of a data set before using it; JSON types only.

    `void_only` are the ids left out without being a problem: no class is in their masks.
    """
    return {
        "name": options.name,
        "reader": options.source.reader,
        "source": _dump(options.source),
        "root": str(data.root),
        "images": len(manifest),
        "class_table": data.table.digest(),
        "subsets": {name: _subset_card(manifest.samples([name]), data, checks) for name in manifest.subsets},
        "void_only": sorted(void_only),
        "problems": {
            "count": len(problems),
            "dropped_samples": len(data.samples) - len(manifest) - len(void_only),
            "kinds": dict(Counter(problem.kind for problem in problems)),
            "listed": [
                {"id": problem.id, "kind": problem.kind, "message": problem.message}
                for problem in problems[:LISTED_IN_CARD]
            ],
        },
    }


def _dump(source: DataSource) -> dict[str, Any]:
    return source.model_dump(mode="json")


def _subset_card(samples: Sequence[Sample], data: DataSet, checks: dict[str, Check]) -> dict[str, Any]:
    """Counts of one subset. `images_with_void` is the audit of 255 contours (retab.md section 6, P1)."""
    table, ignored = data.table, {data.table.ignore, *data.void}
    found = [checks[sample.id] for sample in samples]
    images = Counter(label for sample in samples for label in sample.labels)
    masks = Counter(value for check in found for value in check.pixels)
    pixels: Counter[int] = Counter()
    for check in found:
        pixels.update(check.pixels)
    total = sum(pixels.values())
    return {
        "images": len(samples),
        "masks": sum(sample.mask is not None for sample in samples),
        "images_with_void": sum(not ignored.isdisjoint(check.pixels) for check in found),
        "void_share": sum(pixels[value] for value in ignored) / total if total else None,
        "background_only": sum(not sample.labels for sample in samples),
        "labels_per_image": sum(images.values()) / len(samples),
        "sha256_of_ids": sha256_of_ids(sample.id for sample in samples),
        "sizes": _sizes(found),
        "classes": [
            {
                "id": number,
                "name": table.name_of(number),
                "images": images[number] if number != table.background_id else masks[number],
                "pixels": pixels[number],
            }
            for number in table.ids
        ],
    }


def sha256_of_ids(ids: Iterable[str]) -> str:
    """sha256 (hex) of an id list file: one id per line, the last line ended too."""
    return hashlib.sha256("".join(f"{number}\n" for number in ids).encode("utf-8")).hexdigest()


def _sizes(found: Sequence[Check]) -> dict[str, Any]:
    """Heights and widths in px: extremes by area, mean, and the three most frequent."""
    sizes = Counter((check.height, check.width) for check in found)
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return {
        "distinct": len(sizes),
        "smallest": list(by_area[0]),
        "largest": list(by_area[-1]),
        "mean": [sum(c.height for c in found) / len(found), sum(c.width for c in found) / len(found)],
        "most_frequent": [[*size, count] for size, count in sizes.most_common(3)],
    }
