"""The trained networks that RAML's stages read, of this very split."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from anyshot.data.split_tables import SplitTables
from anyshot.engine import fitting
from anyshot.raml.networks import build_network


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
