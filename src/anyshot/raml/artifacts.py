"""What RAML's stages read: the split's tables, the samples, a trained network of this very split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from anyshot.data.classes import ClassTable
from anyshot.data.manifest import Manifest, Sample
from anyshot.data.split_tables import SplitTables
from anyshot.engine import fitting
from anyshot.errors import ArtifactError
from anyshot.raml.networks import build_network


def read_tables(path: Path, classes: Path) -> SplitTables:
    """The tables of `split.json`; ArtifactError when they were made for another class table."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tables = SplitTables.from_json(content["tables"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no split ({error!r}): run raml_split again") from None
    if tables.table.digest() != ClassTable.read(classes).digest():
        raise ArtifactError(f"{path} was made for another class table than {classes}: run raml_split again")
    return tables


def read_samples(manifest: Path, subsets: Sequence[str]) -> list[Sample]:
    """Samples of the subsets, in manifest order."""
    return Manifest.read(manifest).samples(subsets)


def load_network(
    path: Path, *, network: str, tables: SplitTables, split: str
) -> tuple[nn.Module, dict[str, Any]]:
    """A trained network in evaluation mode, and its card.

    Raises WeightsError when the file holds another network, other classes or another split, ArtifactError
    when the split has the same name but other novel classes.
    """
    build = partial(build_network, load=False)
    model, card = fitting.load_network(
        path, system="raml", network=network, build=build, table=tables.table, split=split
    )
    tables.check(SplitTables.from_json(card["tables"]))
    return model, card
