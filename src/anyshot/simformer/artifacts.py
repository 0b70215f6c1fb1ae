"""The trained networks that SimFormer's stages read, of this very split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anyshot.engine import fitting
from anyshot.errors import WeightsError
from anyshot.simformer.networks import NETWORK, SimFormer, build_simformer
from anyshot.simformer.tables import WeakTables


def load_network(path: Path, *, tables: WeakTables, split: str) -> tuple[SimFormer, dict[str, Any]]:
    """A trained network in evaluation mode, and its card.

    Raises WeightsError when the file holds another network, other classes, another split, or a split of the
    same name with other novel classes.
    """
    model, card = fitting.load_network(
        path,
        system="simformer",
        network=NETWORK,
        build=lambda network: build_simformer(network["options"]),
        table=tables.table,
        split=split,
    )
    novel = [tables.table.names[index] for index in tables.novel]
    if sorted(card["novel"]) != sorted(novel):
        raise WeightsError(
            f"{path} was trained with the novel classes {', '.join(card['novel'])}, expected"
            f" {', '.join(novel)}: train it again"
        )
    assert isinstance(model, SimFormer)
    return model, card
