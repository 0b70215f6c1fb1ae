"""A POP model folder: its card read and checked, and its network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anyshot.data.classes import ClassTable
from anyshot.engine.checkpoints import CHECKSUM
from anyshot.engine.model_folder import CARD_FILE, Card, load_network, read_card, table_of
from anyshot.errors import ArtifactError
from anyshot.pop.datasets import whole_image
from anyshot.pop.heads import POP_NETWORK
from anyshot.pop.networks import PopNet
from anyshot.pop.tables import FoldTables

BUILDERS = {POP_NETWORK: "anyshot.pop.networks:build_pop_net"}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the card of a POP model folder says."""

    folder: Path
    card: Card
    tables: FoldTables

    @property
    def table(self) -> ClassTable:
        """The classes of the data set."""
        return self.tables.table

    @property
    def known_ids(self) -> tuple[int, ...]:
        """Background, base classes, and the novel ones of a network that brings them along."""
        count = 1 + self.tables.base_count + int(self.card.network.options["novel"])
        return tuple(self.tables.index_to_id[:count].tolist())

    @property
    def weights(self) -> str | None:
        """sha256 of the weights; None in a card that does not have it."""
        return (self.card.model_extra or {}).get(CHECKSUM)

    @property
    def channels(self) -> int:
        """C, the length of a prototype."""
        return int(self.card.network.options["channels"])

    @property
    def size(self) -> int:
        """px to which the longer side of an image is scaled. Raises ArtifactError where the card has none."""
        if self.card.input.size is None:
            raise ArtifactError(
                f"{self.folder / CARD_FILE} has no `size` under `input`, the px that images are scaled to: it"
                ' was written by an older version; run pop_base again, or write it in: `"size"` = the crop of'
                " the training (473 is published)"
            )
        return self.card.input.size


def read_facts(folder: Path) -> ModelFacts:
    """Read the card of a POP model folder. Raises ArtifactError for any other folder."""
    card = read_card(folder)
    if card.system != "pop" or card.network.name != POP_NETWORK:
        raise ArtifactError(
            f"{folder} is no POP model: it holds {card.network.name} of {card.system}, needed is"
            f" {POP_NETWORK} of pop; give a folder such as results/pop/fold0/base"
        )
    content = (card.model_extra or {}).get("tables")
    if not isinstance(content, dict):
        raise ArtifactError(f"the card of {folder} has no `tables` of its fold; run pop_base again")
    tables = FoldTables.from_json(content)
    base, novel = (card.network.options.get(key) for key in ("base", "novel"))
    if tables.table != table_of(card) or base != tables.base_count or novel not in (0, tables.novel_count):
        raise ArtifactError(
            f"the card of {folder} contradicts itself: its network has {base} base and {novel} novel classes,"
            f" its fold {tables.base_count} and {tables.novel_count}; copy the whole folder again"
        )
    return ModelFacts(folder=folder, card=card, tables=tables)


@dataclass(frozen=True, kw_only=True)
class PopModel:
    """A POP network on its device, frozen and in evaluation mode."""

    facts: ModelFacts
    network: PopNet
    device: torch.device

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> Tensor:
        """q (B, C, h, w) float32 of images (H, W, 3), each scaled and padded to a square (pop.md 1.7)."""
        given, size = self.facts.card.input, self.facts.size
        squares = [whole_image(image, size, mean=given.mean, std=given.std)[0] for image in images]
        return self.network.features(torch.stack(squares).to(self.device)).float()


def load_model(folder: Path, device: torch.device | str) -> PopModel:
    """Load a POP model folder onto `device`. Raises ArtifactError or WeightsError."""
    facts = read_facts(folder)
    network = load_network(folder, facts.card, device, builders=BUILDERS)
    assert isinstance(network, PopNet)
    return PopModel(facts=facts, network=network, device=torch.device(device))
