"""The report's inputs, read and sorted by system, split and stage.

The workflow gives lists of files; where a file belongs is read from its folders
(`.../retab/<split>/<stage>/<variant>/...`, see design.md) and, where it has one, from its own `split` entry.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Manifest
from anyshot.errors import ArtifactError
from anyshot.larvseg.system import STAGES as LARVSEG_STAGES
from anyshot.page_options import Report
from anyshot.pop.system import STAGES as POP_STAGES
from anyshot.raml.system import STAGES as RAML_STAGES
from anyshot.retab.system import STAGES as RETAB_STAGES
from anyshot.simformer.system import STAGES as SIMFORMER_STAGES

SYSTEMS = ("retab", "raml", "pop", "simformer", "larvseg")
UNSPLIT = "shared"
# The stages of each system in the order in which they run, for tables.
PIPELINES = {
    "retab": tuple(RETAB_STAGES),
    "raml": tuple(RAML_STAGES),
    "pop": tuple(POP_STAGES),
    "simformer": tuple(SIMFORMER_STAGES),
    "larvseg": tuple(LARVSEG_STAGES),
}
TITLES = {"simformer": "SimFormer", "larvseg": "LarvSeg"}  # of systems that are not written in capitals
SHARD = re.compile(r"\d+of\d+")


def title_of(system: str) -> str:
    """A system's name for people: `RETAB`, `SimFormer`."""
    return TITLES.get(system, system.upper())


@dataclass(frozen=True)
class Place:
    """Where a result belongs; `variant` is what stands between stage and file, "" when nothing does."""

    system: str
    split: str
    stage: str
    variant: str = ""

    @property
    def title(self) -> str:
        """For people: `affinity (mixed)`."""
        return f"{self.stage} ({self.variant})" if self.variant else self.stage

    @property
    def order(self) -> tuple[str, bool, str, int, str]:
        """Sorts places by system, split (shared first) and the course of the pipeline."""
        stages = PIPELINES.get(self.system, ())
        rank = stages.index(self.stage) if self.stage in stages else len(stages)
        return self.system, self.split != UNSPLIT, self.split, rank, self.title


def place_of(path: Path) -> Place:
    """The place that the folders of `path` name; what they do not name is empty.

    The last folder called like a system counts, because a user's own folders may be called so too; not the
    one that holds the file, because a variant may be called so (`retab/fold0/random_walk/retab/1of1.h5`).
    Benchmark files name stage, variant and shard in one word (`random_walk.retab.1of1.tsv`).
    """
    folders = path.parts[:-1]
    named = [position for position, folder in enumerate(folders) if folder in SYSTEMS]
    if not named:
        return Place("", "", folders[-1] if folders else path.stem)
    system = next((position for position in reversed(named) if position + 1 < len(folders)), named[-1])
    split, *inner = folders[system + 1 :] or ("",)
    stage, *variant = [*inner, *([] if inner else path.stem.split("."))]
    return Place(
        folders[system], split, stage, "/".join(part for part in variant if not SHARD.fullmatch(part))
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ArtifactError naming the file when it is broken or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: cannot be read as JSON ({error}); delete it and run its stage again"
        ) from error
    if not isinstance(content, dict):
        raise ArtifactError(
            f"{path}: found a {type(content).__name__}, expected a JSON object; run its stage again"
        )
    return content


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The lines of a `train.jsonl`; a last line cut off by a crash is left out."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number + 1 == len(lines):
                break
            raise ArtifactError(
                f"{path}: line {number + 1} is not JSON ({error}); run its stage again"
            ) from error
    return rows


def finite(value: Any) -> float | None:
    """A number, or None for what is absent, not a number, or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class SplitResult:
    """What was measured on one split of one system; parts that were not given are empty."""

    system: str
    split: str
    miou: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """The data set's name, as far as the files tell."""
        return str(self.miou.get("dataset") or self.scores.get("dataset") or "")


def split_results(mious: Sequence[Path], scores: Sequence[Path]) -> list[SplitResult]:
    """Join `miou.json` and `scores.json` files by system and split, in the order of the splits' names."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for part, paths in (("miou", mious), ("scores", scores)):
        for path in paths:
            content, place = read_json(path), place_of(path)
            system = str(content.get("system") or place.system or SYSTEMS[0])
            split = str(content.get("split") or place.split or UNSPLIT)
            entry = found.setdefault((system, split), {})
            if part in entry:
                raise ArtifactError(f"{path}: a second {part} file for {system} {split}; give one per split")
            entry[part] = content
    return [
        SplitResult(system, split, miou=parts.get("miou", {}), scores=parts.get("scores", {}))
        for (system, split), parts in sorted(found.items())
    ]


@dataclass(frozen=True)
class Material:
    """All inputs of one report by name (those of `workflow/scripts/report/report.py`); any may be absent."""

    paths: Mapping[str, Sequence[Path]]
    options: Report
    provenance: Mapping[str, str] = field(default_factory=dict)

    def files(self, name: str, *, system: str | None = None, split: str | None = None) -> list[Path]:
        """The files given under `name`, of one system and one split (`shared` ones are never implied)."""
        chosen = []
        for path in self.paths.get(name, ()):
            place = place_of(path)
            if system in (None, place.system) and split in (None, place.split):
                chosen.append(path)
        return chosen

    @cached_property
    def results(self) -> list[SplitResult]:
        """Per system and split, what was measured."""
        return split_results(self.paths.get("miou", ()), self.paths.get("scores", ()))

    def results_of(self, system: str) -> list[SplitResult]:
        """The splits of one system."""
        return [result for result in self.results if result.system == system]

    def _of_dataset(self, name: str, dataset: str) -> Path | None:
        paths = self.paths.get(name, ())
        return next(
            (path for path in paths if path.parent.name == dataset), paths[0] if len(paths) == 1 else None
        )

    def class_table(self, dataset: str) -> ClassTable | None:
        """The class table of a data set; the only one given serves every name."""
        path = self._of_dataset("classes", dataset)
        return ClassTable.read(path) if path else None

    def manifest(self, dataset: str) -> Manifest | None:
        """The manifest of a data set; the only one given serves every name."""
        path = self._of_dataset("manifest", dataset)
        return Manifest.read(path) if path else None

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets, from the folders of their files."""
        names = [
            path.parent.name for name in ("manifest", "classes", "card") for path in self.paths.get(name, ())
        ]
        return list(dict.fromkeys(names))

    def table(self, path: Path) -> pd.DataFrame:
        """A csv with a column `id`, ids kept as text."""
        return pd.read_csv(path, dtype={"id": str})
