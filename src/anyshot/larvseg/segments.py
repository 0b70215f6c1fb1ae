"""Segments of an image and the likeliest classes of each, among tens of thousands (larvseg.md 6)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from anyshot.errors import ConfigError
from anyshot.larvseg.inference import Classifier, Seen
from anyshot.larvseg.vocabulary import Vocabulary
from anyshot.ops.class_argmax import TopClasses, top_classes

COLUMNS = ("image", "segment", "share", "rank", "row", "id", "name", "score")


@dataclass(frozen=True)
class Segment:
    """All pixels of one label in an image.

    position: among the active classes. share: of the image's pixels. best: (position, score) of its likeliest
    classes, best first; a score is the mean over the segment's pixels of the class's probability.
    """

    position: int
    share: float
    best: tuple[tuple[int, float], ...]


def best_classes(classifier: Classifier, seen: Seen, *, best: int, memory_mib: float) -> TopClasses:
    """The best classes of every pixel of the resized image, with the sum over all of them.

    Raises ConfigError when `memory_mib` is too little for one row of pixels.
    """
    try:
        return top_classes(
            classifier.tokens(seen),
            seen.pixels,
            classifier.class_units,
            k=min(best, len(classifier.class_units)),
            memory_mib=memory_mib,
            gamma=classifier.gamma,
            log_sum_exp=True,
        )
    except ValueError as error:
        raise ConfigError(
            f"an image cannot be decided among {len(classifier.class_units)} classes within memory_mib"
            f" {memory_mib:g}: {error}"
        ) from error


def segments_of(top: TopClasses, *, best: int) -> list[Segment]:
    """The segments of an image, largest first, from the best classes of its pixels.

    A class's probability counts as 0 at pixels where it is not among their best k, so the scores behind the
    first are lower bounds.
    """
    classes = top.classes.flatten(1).cpu().numpy()
    probabilities = top.probabilities.flatten(1).cpu().numpy()
    labels = classes[0]
    found = []
    for position in np.unique(labels):
        own = np.flatnonzero(labels == position)
        distinct, place = np.unique(classes[:, own], return_inverse=True)
        sums = np.bincount(
            place.reshape(-1), weights=probabilities[:, own].reshape(-1), minlength=len(distinct)
        )
        order = np.argsort(-sums, kind="stable")[:best]
        listed = tuple((int(distinct[one]), float(sums[one] / len(own))) for one in order)
        found.append(Segment(int(position), len(own) / len(labels), listed))
    return sorted(found, key=lambda segment: -segment.share)


def segment_rows(
    image: str, segments: Iterable[Segment], *, rows: Sequence[int], vocabulary: Vocabulary
) -> list[tuple[str, int, str, int, int, str, str, str]]:
    """Lines of `segments.csv`, as `COLUMNS` says: one per segment and listed class.

    rows: vocabulary row by position. `segment` is the label map's value: the row of the class that won.
    """
    return [
        (
            image,
            rows[segment.position],
            f"{segment.share:.6f}",
            rank,
            rows[position],
            vocabulary.ids[rows[position]],
            vocabulary.names[rows[position]],
            f"{score:.6f}",
        )
        for segment in segments
        for rank, (position, score) in enumerate(segment.best, start=1)
    ]
