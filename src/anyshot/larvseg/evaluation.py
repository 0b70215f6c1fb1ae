"""Scores of every method on every target, from confusion matrices (larvseg.md 4). No torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from anyshot.engine import draws
from anyshot.errors import ArtifactError
from anyshot.larvseg.tables import Tables
from anyshot.ops.metrics import Confusion

PROTOCOL = (
    "IoU over all pixels of a target's subset that show one of its classes; all of its classes compete at"
    " every pixel. all, base, novel = means over the classes with truth or prediction; base: classes that a"
    " pixel-labelled source has; covered: those of the novel that an image-labelled source has; harmonic ="
    " 2 base novel / (base + novel), which the paper does not have."
)
CONFUSED = 20  # pairs of classes that are listed

Scored = tuple[str, str]  # method, target


class Total(NamedTuple):
    """Of a method on a target: the sum of its shards' matrices (C + 1, C + 1), and the number of images."""

    matrix: np.ndarray
    images: int


def merged(parts: Sequence[Mapping[str, Any]], tables: Tables) -> dict[Scored, Total]:
    """Sum of the shards' `counts.json` by method and target, in order of appearance.

    Raises ArtifactError for a target that the experiment lacks, or a matrix of another number of classes.
    """
    found: dict[Scored, Total] = {}
    known = [target.name for target in tables.experiment.targets]
    for part in parts:
        matrix = np.asarray(part["matrix"], dtype=np.int64)
        target = part["target"]
        side = len(tables.classes[target].ids) + 1 if target in known else 0
        if matrix.shape != (side, side):
            raise ArtifactError(
                f"counts of {part['method']} on {target!r} are {matrix.shape}, the experiment has the targets"
                f" {', '.join(known)}{f' and {side - 1} classes there' if side else ''}: run larvseg_predict"
                " again"
            )
        before = found.get((part["method"], target), Total(np.zeros_like(matrix), 0))
        found[part["method"], target] = Total(before.matrix + matrix, before.images + int(part["images"]))
    return found


def variant_name(method: str, target: str, *, first: str) -> str:
    """What a method on a target is called in `miou.json`: the method alone on the first target."""
    return method if target == first else f"{method} on {target}"


def scored_variants(
    totals: Mapping[Scored, Total],
    tables: Tables,
    *,
    images: Mapping[str, Sequence[int]],
    bands: tuple[int, int],
) -> list[dict[str, Any]]:
    """One entry per method and target, as in every system's `variants`, with what LarvSeg adds.

    images: training images by class index of each source, from `mapping.json`. Added are `method`, `target`,
    `groups` (mean IoU of covered, uncovered, rare, common and frequent classes), `accuracy` (`pixels` = share
    of pixels, `mean` = mean over classes) and `confused`.
    """
    first = tables.experiment.targets[0].name
    entries = []
    for (method, target), total in totals.items():
        known = tables.classes[target]
        names = list(zip(known.ids, known.classes.originals, strict=True))
        variant = variant_name(method, target, first=first)
        entry = draws.scored_variants({(variant, 0, 0): total.matrix}, names, tables.roles(target))[0]
        confusion = Confusion(len(names), total.matrix)
        entry |= {
            "method": method,
            "target": target,
            "images": total.images,
            "groups": group_means(confusion.iou(), groups(tables, target, images=images, bands=bands)),
            "accuracy": accuracy(confusion),
            "confused": confused(confusion, known.classes.originals),
        }
        entries.append(entry)
    return entries


def groups(
    tables: Tables, target: str, *, images: Mapping[str, Sequence[int]], bands: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Class indices of a target by group (larvseg.md 4).

    covered, uncovered: novel classes that an image-labelled source has, and that none has. rare, common,
    frequent: by training images over all sources, from 0, `bands[0]` and `bands[1]` on.
    """
    novelty = tables.base_novel(target)
    of_row: dict[int, int] = defaultdict(int)
    for source, counts in images.items():
        for row, count in zip(tables.member(source).rows, counts, strict=True):
            of_row[row] += count
    numbers = [of_row[row] for row in tables.member(target).rows]
    few, many = bands
    return {
        "covered": novelty.covered,
        "uncovered": novelty.uncovered,
        "rare": tuple(index for index, number in enumerate(numbers) if number < few),
        "common": tuple(index for index, number in enumerate(numbers) if few <= number < many),
        "frequent": tuple(index for index, number in enumerate(numbers) if number >= many),
    }


def group_means(iou: np.ndarray, parts: Mapping[str, Sequence[int]]) -> dict[str, float | None]:
    """Mean IoU of each group over its classes that have one; None where there is none."""
    found: dict[str, float | None] = {}
    for name, indices in parts.items():
        values = iou[list(indices)]
        known = values[~np.isnan(values)]
        found[name] = float(known.mean()) if len(known) else None
    return found


def accuracy(confusion: Confusion) -> dict[str, float | None]:
    """`pixels`: share of the pixels that have their class; `mean`: mean of that over the classes with truth.

    None where no pixel has a class.
    """
    truth, hits = confusion.truth_pixels, confusion.true_positives
    present = truth > 0
    if not present.any():
        return {"pixels": None, "mean": None}
    return {
        "pixels": float(hits.sum() / truth.sum()),
        "mean": float((hits[present] / truth[present]).mean()),
    }


def confused(confusion: Confusion, names: Sequence[str], *, count: int = CONFUSED) -> list[dict[str, Any]]:
    """The largest shares of a class's pixels that have another class: truth, predicted, share."""
    classes = confusion.classes
    shares = confusion.matrix[:classes, :classes] / np.maximum(confusion.truth_pixels, 1)[:, None]
    np.fill_diagonal(shares, 0)
    largest = np.argsort(-shares, axis=None, kind="stable")[:count]
    return [
        {"truth": names[row], "predicted": names[column], "share": float(shares[row, column])}
        for row, column in zip(*np.unravel_index(largest, shares.shape), strict=True)
        if shares[row, column] > 0
    ]
