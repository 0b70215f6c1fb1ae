"""A RAML model folder: its card read and checked, and its network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyshot.data.classes import ClassTable
from anyshot.data.split_tables import SplitTables
from anyshot.data.transforms import normalise, resize_image
from anyshot.engine import model_folder
from anyshot.engine.checkpoints import CHECKSUM
from anyshot.engine.model_folder import Card, load_network, read_card, table_of
from anyshot.errors import ArtifactError
from anyshot.raml.networks import MetricNet, OpenMaps, OpenNet, build_metric_net, build_open_net

BUILDERS = {
    "raml_open": "anyshot.raml.open_model:build_open",
    "raml_metric": "anyshot.raml.open_model:build_metric",
}


def build_open(options: dict[str, Any]) -> OpenNet:
    """The network of stages 1 and 2, with random weights."""
    return build_open_net(options, load=False)


def build_metric(options: dict[str, Any]) -> MetricNet:
    """The network of stage 3, with random weights."""
    return build_metric_net(options, load=False)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the card of a RAML model folder says."""

    folder: Path
    card: Card
    tables: SplitTables

    @property
    def table(self) -> ClassTable:
        """The classes of the data set."""
        return self.tables.table

    @property
    def known_ids(self) -> tuple[int, ...]:
        """Ids of the known classes, ascending."""
        return self.tables.known_ids

    @property
    def weights(self) -> str | None:
        """sha256 of the weights; None in a card that does not have it."""
        return (self.card.model_extra or {}).get(CHECKSUM)

    @property
    def sizes(self) -> dict[str, int]:
        """K, M and D by the names that the files of a novel class have for vectors of that length."""
        options = self.card.network.options
        return {"logits": options["known"], "hits": options["meta"], "embeddings": options["embedding"]}

    def require_embedding(self) -> None:
        """Raises ArtifactError for a network without stage 3: no region of it can be compared."""
        if self.card.network.name != "raml_metric":
            raise ArtifactError(
                f"{self.folder} holds the network {self.card.network.name}, which segments known classes"
                " only: novel classes need raml_metric, the network of stage 3 (results/raml/<split>/metric)"
            )


def read_facts(folder: Path) -> ModelFacts:
    """Read the card of a RAML model folder. Raises ArtifactError for any other folder."""
    card = read_card(folder)
    if card.system != "raml" or card.network.name not in BUILDERS:
        raise ArtifactError(
            f"{folder} is no RAML model: it holds {card.network.name} of {card.system}, novel classes need"
            " raml_metric of raml; give a folder such as results/raml/16_3/metric"
        )
    content = (card.model_extra or {}).get("tables")
    if not isinstance(content, dict):
        raise ArtifactError(f"the card of {folder} has no `tables` of its split; run raml_metric again")
    tables = SplitTables.from_json(content)
    known = card.network.options.get("known")
    if tables.table != table_of(card) or known != tables.known:
        raise ArtifactError(
            f"the card of {folder} contradicts itself: its network has {known} known classes, its split"
            f" {tables.known}; copy the whole folder again"
        )
    return ModelFacts(folder=folder, card=card, tables=tables)


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A RAML network on its device, in evaluation mode; `metric` is None for one without stage 3."""

    facts: ModelFacts
    network: OpenNet
    metric: MetricNet | None
    device: torch.device

    @torch.inference_mode()
    def maps(self, image: np.ndarray) -> OpenMaps:
        """The network's maps of `image` (H, W, 3) uint8 RGB, B = 1."""
        given = self.facts.card.input
        pixels = normalise(image, mean=given.mean, std=given.std)[None].to(self.device)
        return self.network(pixels)


def load_model(folder: Path, device: torch.device | str) -> OpenModel:
    """Load a RAML model folder onto `device`. Raises ArtifactError or WeightsError."""
    facts = read_facts(folder)
    loaded = load_network(folder, facts.card, device, builders=BUILDERS)
    metric = loaded if isinstance(loaded, MetricNet) else None
    network = loaded.network if isinstance(loaded, MetricNet) else loaded
    assert isinstance(network, OpenNet)
    return OpenModel(facts=facts, network=network, metric=metric, device=torch.device(device))


def shrunk(image: np.ndarray, pixels: int | None = None) -> np.ndarray:
    """The image (H, W, 3), scaled down to at most `pixels` px (default: what goes through whole)."""
    limit = model_folder.WHOLE_PIXELS if pixels is None else pixels
    height, width = image.shape[:2]
    if height * width <= limit:
        return image
    factor = math.sqrt(limit / (height * width))
    return resize_image(image, max(1, int(height * factor)), max(1, int(width * factor)))
