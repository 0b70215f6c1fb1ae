"""The manifest: one row per image of a data set, the only door through which later stages see data."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from anyshot.data.files import write_bytes
from anyshot.errors import DataError

COLUMNS: Final = ("id", "image", "mask", "subset", "labels")


@dataclass(frozen=True)
class Sample:
    """One image. `labels` are the ids of the classes it shows, ascending, the background never among them."""

    id: str
    image: Path
    mask: Path | None
    subset: str
    labels: tuple[int, ...]


class Manifest:
    """The samples of a data set, in a fixed order. Raises DataError for repeated ids."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)
        repeated = [number for number, count in Counter(s.id for s in self._samples).items() if count > 1]
        if repeated:
            raise DataError(
                f"manifest: {len(repeated)} ids occur more than once, the first is {repeated[0]!r}"
            )

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read `manifest.csv`; relative paths are relative to the file's own folder. Raises DataError."""
        folder = path.parent.absolute()
        try:
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
                if missing:
                    raise DataError(
                        f"{path}: the columns {', '.join(missing)} are missing; prepare the data again"
                    )
                samples = [_sample(row, folder, f"{path}, line {reader.line_num}") for row in reader]
        except FileNotFoundError:
            raise DataError(f"{path}: no such manifest; the rule data_prepare writes it") from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path}: no manifest ({error}); prepare the data again") from error
        try:
            return cls(samples)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    def write(self, path: Path) -> None:
        """Write `manifest.csv` atomically. Paths under its folder become relative to it, others absolute."""
        folder = path.parent.absolute()
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for sample in self._samples:
            mask = "" if sample.mask is None else _relative(sample.mask, folder)
            labels = " ".join(str(label) for label in sample.labels)
            writer.writerow([sample.id, _relative(sample.image, folder), mask, sample.subset, labels])
        write_bytes(path, text.getvalue().encode("utf-8"))

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def ids(self) -> list[str]:
        """The ids of all samples, in order."""
        return [sample.id for sample in self._samples]

    @property
    def subsets(self) -> list[str]:
        """The names of the subsets, in order of appearance."""
        return list(dict.fromkeys(sample.subset for sample in self._samples))

    def samples(self, subsets: Sequence[str] | None = None) -> list[Sample]:
        """The samples of some subsets (None: all), in manifest order.

        Raises DataError when a subset does not exist or has no samples.
        """
        if subsets is None:
            return list(self._samples)
        unknown = [subset for subset in subsets if subset not in self.subsets]
        if unknown or not subsets:
            found = ", ".join(f"{name} ({count})" for name, count in self.counts().items()) or "none"
            asked = ", ".join(unknown) if unknown else "none at all"
            raise DataError(f"no samples in the subset asked for: {asked}; the manifest has: {found}")
        wanted = set(subsets)
        return [sample for sample in self._samples if sample.subset in wanted]

    def counts(self) -> dict[str, int]:
        """Number of samples by subset."""
        return dict(Counter(sample.subset for sample in self._samples))

    def by_id(self, sample_id: str) -> Sample:
        """The sample of an id. Raises DataError when there is none."""
        if sample_id not in self._by_id:
            raise DataError(f"no sample {sample_id!r} in the manifest ({len(self)} samples)")
        return self._by_id[sample_id]

    @cached_property
    def _by_id(self) -> dict[str, Sample]:
        return {sample.id: sample for sample in self._samples}


def _relative(path: Path, folder: Path) -> str:
    # absolute(), not resolve(): data roots are often links, and a manifest shall name them as the user does.
    whole = path.absolute()
    return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)


def _sample(row: dict[str, str], folder: Path, where: str) -> Sample:
    # csv puts fields that are too many under None, and None for those that are too few.
    if None in row or None in row.values():
        raise DataError(f"{where}: another number of fields than columns; prepare the data again")
    empty = [column for column in ("id", "image", "subset") if not row[column]]
    if empty:
        raise DataError(f"{where}: no {empty[0]}; prepare the data again")
    try:
        labels = tuple(int(label) for label in row["labels"].split())
    except ValueError:
        raise DataError(f"{where}: labels {row['labels']!r} are not class ids separated by spaces") from None
    if labels and min(labels) < 0:
        raise DataError(f"{where}: labels {row['labels']!r}: class ids are 0 or more")
    mask = folder / row["mask"] if row["mask"] else None
    return Sample(id=row["id"], image=folder / row["image"], mask=mask, subset=row["subset"], labels=labels)


def shown_ids(samples: Sequence[Sample], novel: Collection[int], count: int) -> set[str]:
    """Ids of the first `count` images that show a novel class (data set ids), of any when none does."""
    with_novel = [sample for sample in samples if set(novel) & set(sample.labels)]
    return {sample.id for sample in (with_novel or samples)[:count]}


def read_samples(manifest: Path, subsets: Sequence[str]) -> list[Sample]:
    """Samples of the subsets, in manifest order."""
    return Manifest.read(manifest).samples(subsets)
