"""Pixels of every class in every image, counted in one pass; all lists of images follow from them.

Source: pop.md 1.4 and 5.3. The lists keep the order of the images, which the few-shot selection depends on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anyshot.data.classes import ClassTable
from anyshot.data.files import write_bytes
from anyshot.data.manifest import Sample
from anyshot.data.supports import class_areas
from anyshot.errors import ArtifactError, DataError
from anyshot.pop.tables import FoldTables, unknown_values

COLUMNS: Final = ("id", "class", "pixels")
MIN_PIXELS: Final = 16 * 32 * 32  # px at the image's own size


@dataclass(frozen=True, eq=False)
class PixelIndex:
    """Image ids, and one entry per image and foreground class that it shows, sorted by image, then class.

    `sample` (E,) is the position of an entry's image in `ids`, `class_id` (E,) the data set id, `pixels` (E,)
    their number, at least 1, at the mask's own size. Background and ignored pixels have no entries.
    """

    ids: tuple[str, ...]
    sample: NDArray[np.int32]
    class_id: NDArray[np.int32]
    pixels: NDArray[np.int64]

    @classmethod
    def build(cls, samples: Sequence[Sample], table: ClassTable, *, threads: int = 1) -> PixelIndex:
        """Count the masks of some samples, each read once, in `threads` processes.

        Raises DataError for a sample without a mask, an unreadable mask, and one with values that are neither
        ids of the table nor its ignore value.
        """
        without = [sample.id for sample in samples if sample.mask is None]
        if without:
            raise DataError(
                f"{len(without)} of {len(samples)} images have no mask, e.g. {without[0]!r}; POP learns from"
                " masks: leave these images out, or choose other subsets"
            )
        areas = class_areas(samples, None, threads)
        for sample in samples:
            problem = unknown_values(table, areas[sample.id])
            if problem:
                raise DataError(f"{sample.mask}: {problem}")
        foreground = set(table.foreground_ids)
        rows = [
            (position, number, pixels)
            for position, sample in enumerate(samples)
            for number, pixels in areas[sample.id].items()
            if number in foreground
        ]
        return cls._of([sample.id for sample in samples], rows)

    @classmethod
    def read(cls, path: Path) -> PixelIndex:
        """Read `index.csv`. Raises ArtifactError when it is missing or damaged."""
        positions: dict[str, int] = {}
        rows = []
        try:
            with path.open(encoding="utf-8", newline="") as file:
                lines = csv.reader(file)
                if tuple(next(lines, ())) != COLUMNS:
                    raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
                for sample_id, number, pixels in lines:
                    position = positions.setdefault(sample_id, len(positions))
                    if number:
                        rows.append((position, int(number), int(pixels)))
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no such index; the stage pop.index writes it") from None
        except ValueError as error:
            raise ArtifactError(f"{path}: the index is damaged ({error}); make it again") from error
        return cls._of(list(positions), rows)

    def write(self, path: Path) -> None:
        """Write `index.csv` (id, class, pixels) atomically; an image without a class has one row, `id,,0`."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        begins = np.searchsorted(self.sample, np.arange(len(self.ids) + 1)).tolist()
        numbers, pixels = self.class_id.tolist(), self.pixels.tolist()
        for sample_id, begin, end in zip(self.ids, begins, begins[1:], strict=False):
            entries = [(sample_id, numbers[entry], pixels[entry]) for entry in range(begin, end)]
            writer.writerows(entries or [(sample_id, "", 0)])
        write_bytes(path, text.getvalue().encode("utf-8"))

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, ids: Sequence[str]) -> PixelIndex:
        """The index of some images in another order, e.g. that of a published list.

        Raises DataError for ids that the index does not have, or that are repeated.
        """
        unknown = [sample_id for sample_id in ids if sample_id not in self._position]
        if unknown or len(set(ids)) < len(ids):
            what = f"{unknown[0]!r} is not in the index" if unknown else "an id occurs more than once"
            raise DataError(
                f"{what} ({len(unknown)} of {len(ids)} ids are unknown, the index has {len(self)} images);"
                " use the list of the data set that was indexed"
            )
        chosen = np.full(len(self.ids), -1, dtype=np.int32)
        chosen[[self._position[sample_id] for sample_id in ids]] = np.arange(len(ids))
        kept = chosen[self.sample] >= 0
        order = np.argsort(chosen[self.sample[kept]], kind="stable")
        return PixelIndex(
            tuple(ids),
            chosen[self.sample[kept]][order],
            self.class_id[kept][order],
            self.pixels[kept][order],
        )

    def base_list(self, fold: FoldTables, *, filter_novel: bool = False) -> list[str]:
        """The images that stage 1 learns from: those with a base class, one pixel is enough (pop.md 1.4).

        With `filter_novel` only those that show no novel class besides.
        """
        shown = self._shows(fold.base_ids)
        if filter_novel:
            shown &= ~self._shows(fold.novel_ids)
        return self._named(np.flatnonzero(shown))

    def class_list(
        self,
        class_id: int,
        *,
        min_pixels: int = MIN_PIXELS,
        fold: FoldTables | None = None,
        filter_novel: bool = False,
    ) -> list[str]:
        """The images with at least `min_pixels` px of a class (pop.md 1.4).

        With `filter_novel`, which needs `fold`, the list of a base class has only images without any novel
        class; the lists of novel classes are the same with and without it.
        """
        found = self.sample[(self.class_id == class_id) & (self.pixels >= min_pixels)]
        if filter_novel:
            if fold is None:
                raise ValueError("filter_novel needs the fold")
            if class_id in fold.base_ids:
                found = found[~self._shows(fold.novel_ids)[found]]
        return self._named(found)

    def class_lists(
        self,
        class_ids: Iterable[int],
        *,
        min_pixels: int = MIN_PIXELS,
        fold: FoldTables | None = None,
        filter_novel: bool = False,
    ) -> dict[int, list[str]]:
        """`class_list` of several classes, by id, in the order given."""
        return {
            number: self.class_list(number, min_pixels=min_pixels, fold=fold, filter_novel=filter_novel)
            for number in class_ids
        }

    def pixels_of(self, sample_id: str, class_id: int) -> int:
        """Pixels of a class in an image, 0 where it has none. Raises DataError for an unknown image."""
        if sample_id not in self._position:
            raise DataError(f"image {sample_id!r} is not among the {len(self)} images of the index")
        begin, end = np.searchsorted(self.sample, [self._position[sample_id], self._position[sample_id] + 1])
        return int(self.pixels[begin:end][self.class_id[begin:end] == class_id].sum())

    @cached_property
    def _position(self) -> dict[str, int]:
        return {sample_id: position for position, sample_id in enumerate(self.ids)}

    def _shows(self, class_ids: Iterable[int]) -> NDArray[np.bool_]:
        """(images,): whether an image has a pixel of any of the classes."""
        shown = np.zeros(len(self.ids), dtype=bool)
        shown[self.sample[np.isin(self.class_id, list(class_ids))]] = True
        return shown

    def _named(self, positions: NDArray[np.integer]) -> list[str]:
        return [self.ids[position] for position in positions.tolist()]

    @classmethod
    def _of(cls, ids: Sequence[str], rows: Sequence[tuple[int, int, int]]) -> PixelIndex:
        columns = np.array(sorted(rows), dtype=np.int64).reshape(-1, 3)
        return cls(
            tuple(ids), columns[:, 0].astype(np.int32), columns[:, 1].astype(np.int32), columns[:, 2].copy()
        )
