"""The trained networks that LarvSeg's stages read, of this very vocabulary."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from anyshot.data.classes import ClassTable
from anyshot.engine import fitting
from anyshot.larvseg.networks import NETWORK, LarvSegNet, build_larvseg
from anyshot.larvseg.tables import Tables
from anyshot.larvseg.vocabulary import Vocabulary


def vocabulary_table(vocabulary: Vocabulary) -> ClassTable:
    """The rows of a vocabulary as a class table: ids 0..G-1, names made unique by the id behind them."""
    count = Counter(vocabulary.names)
    return ClassTable.of(
        [
            f"{name} ({key})" if count[name] > 1 else name
            for name, key in zip(vocabulary.names, vocabulary.ids, strict=True)
        ],
        kinds=["thing"] * len(vocabulary),
    )


def load_network(path: Path, *, tables: Tables, split: str) -> tuple[LarvSegNet, dict[str, Any]]:
    """A trained network in evaluation mode, and its card.

    Raises WeightsError when the file holds another network, another vocabulary or another experiment.
    """
    model, card = fitting.load_network(
        path,
        system="larvseg",
        network=NETWORK,
        build=lambda network: build_larvseg(network["options"]),
        table=vocabulary_table(tables.vocabulary),
        split=split,
    )
    assert isinstance(model, LarvSegNet)
    return model, card
