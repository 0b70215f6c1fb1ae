"""Class lists of sources and targets, and maps from mask values to vocabulary rows (larvseg.md 1.4).

No torch here.
A label of a loss is a position among the active classes of its source; IGNORE stands for everything else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anyshot.data.class_lists import SHIPPED, ClassList, read_class_list, shipped_list
from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Sample
from anyshot.errors import ConfigError, DataError
from anyshot.larvseg.name_rules import SHIPPED_RULES, NameRules, read_rules, shipped_rules
from anyshot.larvseg.options import ClassNames, Experiment, Source, Target
from anyshot.larvseg.vocabulary import BaseNovel, Member, Vocabulary, union
from anyshot.ops.metrics import Roles

IGNORE = -1  # never a class, also where there are more than 255 (larvseg.md 6, item 12)
WNID = re.compile(r"(?:^|\()(n\d{8})\)?$")  # a synset id alone, or behind a name that several have
IMAGES = "images.json"  # of an image set, in the place of a manifest
BY_FOLDER = "imagenet"  # `names` of data sets whose folders are wnids


@dataclass(frozen=True)
class DataClasses:
    """The classes of a data set that take part, and where they are among its mask values.

    classes: their names and ids in the vocabulary; ids: their values in masks, in the same order.
    """

    classes: ClassList
    ids: tuple[int, ...]


def data_classes(table: ClassTable, options: ClassNames, *, title: str) -> DataClasses:
    """What a source or target has of a data set's classes; never its background (larvseg.md 4).

    Raises ConfigError for names that do not exist, DataError when a class list has another number of classes
    than the data set.
    """
    kept = [index for index, kind in enumerate(table.kinds) if kind != "background"]
    names = [table.names[index] for index in kept]
    known = _named(names, options.names, title=title)
    positions = list(range(len(kept)))
    if options.classes is not None:
        positions = sorted(set(known.indices_of(options.classes)))
    chosen = ClassList(
        title,
        tuple(known.names[position] for position in positions),
        tuple(known.ids[position] for position in positions),
        tuple(known.originals[position] for position in positions),
    )
    ids = tuple(table.ids[kept[position]] for position in positions)
    return DataClasses(rules_of(options.rules).apply(chosen), ids)


def _named(names: Sequence[str], wanted: str | None, *, title: str) -> ClassList:
    """The class list of a data set's names, under the names and ids that the options want."""
    if wanted is None:
        return ClassList.of(title, names)
    if wanted == BY_FOLDER:
        return _by_folder(names, title=title)
    found = shipped_list(wanted) if wanted in SHIPPED else read_class_list(Path(wanted), title=title)
    if len(found) != len(names):
        raise DataError(
            f"class list {wanted!r} has {len(found)} classes, the data set of {title!r} {len(names)}: give"
            " the list that belongs to it, in its order, or none"
        )
    return ClassList(title, found.names, found.ids, found.originals)


def _by_folder(names: Sequence[str], *, title: str) -> ClassList:
    """Ids from names that are a wnid, or `name (wnid)`; display names without it."""
    ids = [WNID.search(name) for name in names]
    missing = [name for name, found in zip(names, ids, strict=True) if found is None]
    if missing:
        raise DataError(
            f"{title!r}: the class {missing[0]!r} ({len(missing)} such) names no wnid such as n02084071:"
            " rename the folder, set `wnids` of the data set, or `names: null`"
        )
    plain = [WNID.sub("", name).strip() or name for name in names]
    return ClassList.of(title, plain, ids=[found.group(1) for found in ids if found])


def rules_of(name: str) -> NameRules:
    """Name processing by the name of a shipped table, or from a file."""
    return shipped_rules(name) if name in SHIPPED_RULES else read_rules(Path(name))


@dataclass(frozen=True)
class Tables:
    """The vocabulary of an experiment with the classes of each source and target.

    Raises DataError when the vocabulary was made of other class lists: run `vocabulary` again.
    """

    experiment: Experiment
    vocabulary: Vocabulary
    classes: Mapping[str, DataClasses]  # by name of the source or target

    def __post_init__(self) -> None:
        for title, found in self.classes.items():
            if len(self.vocabulary.member(title).rows) != len(found.ids):
                raise DataError(
                    f"the vocabulary has {len(self.vocabulary.member(title).rows)} classes of {title!r}, the"
                    f" data set {len(found.ids)}: run larvseg_vocabulary again"
                )

    def member(self, name: str) -> Member:
        """The rows of a source's or target's classes."""
        return self.vocabulary.member(name)

    def lut(self, name: str) -> NDArray[np.int32]:
        """Mask value -> position among the active classes of a source or target, IGNORE: (65536,)."""
        found = np.full(65536, IGNORE, dtype=np.int32)
        found[list(self.classes[name].ids)] = self.member(name).positions
        return found

    def index_lut(self, target: str) -> NDArray[np.int32]:
        """Mask value -> class index of a target, IGNORE for all other values: (65536,)."""
        found = np.full(65536, IGNORE, dtype=np.int32)
        found[list(self.classes[target].ids)] = np.arange(len(self.classes[target].ids))
        return found

    def labels_of(self, name: str, sample: Sample) -> list[int]:
        """Positions among the active classes of a source that an image's labels name, ascending."""
        lut = self.lut_of_labels(name)
        return sorted({lut[number] for number in sample.labels if number in lut})

    def lut_of_labels(self, name: str) -> dict[int, int]:
        """Class id of the data set -> position among the active classes of a source."""
        return dict(zip(self.classes[name].ids, self.member(name).positions, strict=True))

    def base_novel(self, target: str) -> BaseNovel:
        """Base and novel classes of a target, and those of the novel that image labels cover."""
        return self.vocabulary.base_novel(target, pixel=self.experiment.pixel, image=self.experiment.image)

    def roles(self, target: str) -> Roles:
        found = self.base_novel(target)
        return Roles(base=found.base, novel=found.novel)


def named(experiment: Experiment) -> list[Source | Target]:
    """Sources and targets in the order of the vocabulary's members."""
    return [*experiment.sources, *experiment.targets]


def class_tables(paths: Sequence[Path]) -> dict[str, ClassTable]:
    """Class tables by the name of their data set, from results/data/<name>/classes.csv."""
    return {path.parent.name: ClassTable.read(path) for path in paths}


def make_classes(experiment: Experiment, tables: Mapping[str, ClassTable]) -> dict[str, DataClasses]:
    """The classes of every source and target. Raises ConfigError for a data set that is not there."""
    found = {}
    for one in named(experiment):
        if one.data not in tables:
            raise ConfigError(f"{one.name!r} names the data set {one.data!r}, not among {', '.join(tables)}")
        found[one.name] = data_classes(tables[one.data], one, title=one.name)
    return found


def make_vocabulary(classes: Mapping[str, DataClasses]) -> Vocabulary:
    """One row per distinct class of all sources and targets."""
    return union([found.classes for found in classes.values()])


def read_tables(experiment: Experiment | None, *, classes: Sequence[Path], vocabulary: Path) -> Tables:
    """The tables of an experiment, from class tables of the data sets and `vocabulary.json`."""
    assert experiment is not None, "filled in by Larvseg.stage"
    found = make_classes(experiment, class_tables(classes))
    return Tables(experiment, Vocabulary.read(vocabulary), found)
