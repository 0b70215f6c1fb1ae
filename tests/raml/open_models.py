"""Model folders with tiny RAML networks of random weights, for tests of the command line and the import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from anyshot.data.classes import ClassTable
from anyshot.data.split_tables import SplitTables
from anyshot.engine.model_folder import model_card, save_model_folder
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD
from anyshot.raml.networks import MetricNet, OpenNet, build_metric_net, build_open_net
from anyshot.raml.options import OpenBackbone

TABLE = ClassTable.of(
    ["road", "sky", "tree", "car", "truck"],
    ids=[7, 23, 11, 26, 27],
    colours=[(128, 64, 128), (70, 130, 180), (107, 142, 35), (0, 0, 142), (0, 0, 70)],
)
KNOWN = (7, 11, 23)
META = 3  # one more than car and truck


def open_tables(table: ClassTable = TABLE) -> SplitTables:
    return SplitTables.make(table, novel=["car"], ignored=["truck"])


def network_options(tables: SplitTables) -> dict[str, Any]:
    return {
        "backbone": OpenBackbone(name="resnet18", weights="none").model_dump(mode="json"),
        "channels": 16,
        "low_channels": 8,
        "known": tables.known,
        "meta": tables.meta,
        "activation": "sigmoid",
        "hidden": 8,
        "embedding": 6,
    }


def metric_net(options: dict[str, Any], seed: int = 0) -> MetricNet:
    """A network whose known classes and meta channels differ from place to place."""
    torch.manual_seed(seed)
    model = build_metric_net(options, load=False)
    with torch.no_grad():
        model.network.closed.weight.normal_(std=3)
        model.network.meta_head.weight.normal_(std=3)
        model.embedding.known_prototypes.normal_()
    model.eval()
    return model


def open_net(options: dict[str, Any], seed: int = 0) -> OpenNet:
    torch.manual_seed(seed)
    model = build_open_net(options, load=False)
    model.eval()
    return model


def write_model(
    folder: Path,
    *,
    network: str = "raml_metric",
    split: str = "16_1",
    seed: int = 0,
    tables: SplitTables | None = None,
    **changes: Any,
) -> Path:
    """Write a model folder as stage 3 (`raml_metric`) or stages 1 and 2 (`raml_open`) do."""
    tables = open_tables() if tables is None else tables
    options = {**network_options(tables), **changes}
    model = metric_net(options, seed) if network == "raml_metric" else open_net(options, seed)
    options["backbone"] = {**options["backbone"], "weights": "no/such/file.pth"}
    card = model_card(
        system="raml",
        split=split,
        network=network,
        network_options=options,
        table=tables.table,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        tables=tables.to_json(),
    )
    save_model_folder(folder, state_dict=model.state_dict(), card=card)
    return folder
