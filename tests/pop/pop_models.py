"""Model folders with tiny POP networks of random weights, and heads as stage 2 writes them, for tests of the
command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anyshot.data.classes import ClassTable
from anyshot.data.transforms import normalise
from anyshot.engine.checkpoints import load_into, load_weights, save_weights
from anyshot.engine.model_folder import model_card, save_model_folder
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD
from anyshot.ops.projections import orthogonality
from anyshot.ops.upsampled import upsampled_cross_entropy
from anyshot.pop.head import PrototypeHead
from anyshot.pop.heads import HEAD_NETWORK, POP_NETWORK, CosineHead, OnFrozen, head_options
from anyshot.pop.networks import PopNet, build_pop_net
from anyshot.pop.tables import FoldTables

TABLE = ClassTable.of(
    ["background", "cat", "bus", "dog", "car", "tree"],
    ids=[0, 3, 4, 7, 9, 12],
    colours=[(0, 0, 0), (200, 30, 30), (30, 30, 200), (30, 160, 30), (200, 200, 40), (20, 200, 200)],
)
BASE, NOVEL = (3, 7, 12), (4, 9)  # cat, dog, tree; bus, car
SIZE = 48  # px
CHANNELS = 12
BACKBONE = {"name": "resnet38", "weights": "none", "width": 0.02, "output_stride": 8, "freeze_norm": False}


def fold_tables(table: ClassTable = TABLE, novel: tuple[str, ...] = ("bus", "car")) -> FoldTables:
    return FoldTables.make(table, novel=novel)


def network_options(tables: FoldTables, *, novel: int = 0) -> dict[str, Any]:
    return {
        "backbone": BACKBONE,
        "channels": CHANNELS,
        "base": tables.base_count,
        "novel": novel,
        "background": "residual",
    }


def random_net(options: dict[str, Any], seed: int = 0) -> PopNet:
    """A network whose classes differ from place to place."""
    torch.manual_seed(seed)
    network = build_pop_net(options)
    *_, last = (one for one in network.decoder.modules() if isinstance(one, nn.Conv2d))
    with torch.no_grad():
        last.weight.normal_(std=3)
        for name, weight in network.head.named_parameters():
            if "classifier" in name:
                weight.normal_()
    return network.eval()


def write_model(
    folder: Path,
    *,
    seed: int = 0,
    split: str = "fold0",
    tables: FoldTables | None = None,
    novel: bool = False,
    network: PopNet | None = None,
    size: int | None = SIZE,
    **changes: Any,
) -> Path:
    """Write a model folder as stage 1 does; with `novel`, as a checkpoint of stage 2 is imported."""
    tables = fold_tables() if tables is None else tables
    options = {**network_options(tables, novel=tables.novel_count if novel else 0), **changes}
    network = random_net(options, seed) if network is None else network
    card = model_card(
        system="pop",
        split=split,
        network=POP_NETWORK,
        network_options={**options, "backbone": {**options["backbone"], "weights": "no/such/file.pth"}},
        table=tables.table,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_size=size,
        tables=tables.to_json(),
    )
    save_model_folder(folder, state_dict=network.state_dict(), card=card)
    return folder


def stage_2(network: PopNet, novel: int, *, seed: int = 0, method: str = "pop") -> PrototypeHead | CosineHead:
    """A head on this network, as if trained."""
    if method == "prototype":
        return CosineHead(channels=CHANNELS, classes=1 + network.head.base + novel, temperature=10)
    head = network.head.with_novel(novel, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in (*head.classifier_n.parameters(), head.novel_emb):
            weight.normal_()
        if method == "finetune":
            head.base_emb += 0.1
    if method == "no_residual":
        head.background = "feature"
    return head


def write_head(
    folder: Path,
    model: Path,
    *,
    seed: int = 0,
    support_seed: int = 7,
    method: str = "pop",
    split: str = "fold0",
    tables: FoldTables | None = None,
) -> Path:
    """Write a head of a model as stage 2 does."""
    tables = fold_tables() if tables is None else tables
    network = build_pop_net(network_options(tables))
    load_into(network, load_weights(model / "model.safetensors")[0])
    head = stage_2(network, tables.novel_count, seed=seed, method=method)
    card = model_card(
        system="pop",
        split=split,
        network=HEAD_NETWORK,
        network_options=head_options(head),
        table=tables.table,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        tables=tables.to_json(),
        method=method,
        shots=2,
        support_seed=support_seed,
        supports={str(number): [f"{number}_a", f"{number}_b"] for number in tables.novel_ids},
    )
    save_weights(folder / "model.safetensors", OnFrozen(head=head, encoder=None).state_dict(), card)
    return folder


COLOURS = {"ground": (110, 110, 110), "red": (220, 40, 30), "green": (40, 190, 40), "blue": (40, 60, 220)}
SQUARES = ClassTable.of(
    list(COLOURS), kinds=["background", "thing", "thing", "thing"], colours=list(COLOURS.values())
)
BLUE = 3


def squares(rng: np.random.Generator, *, blue: bool, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pixels uint8 (size, size, 3) with a red, a green and perhaps on top a blue square; their ids."""
    ids = np.zeros((size, size), np.uint8)
    for number in [*rng.permutation([1, 2]), *[BLUE] * blue]:
        side = int(rng.integers(size // 4, size // 2))
        y, x = rng.integers(0, size - side, 2)
        ids[y : y + side, x : x + side] = number
    pixels = np.array(list(COLOURS.values()))[ids] + rng.normal(0, 12, (size, size, 3))
    return pixels.clip(0, 255).astype(np.uint8), ids


def trained_on_squares(tables: FoldTables, steps: int = 200) -> PopNet:
    """A network that knows red and green, and has never seen blue."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = build_pop_net(network_options(tables)).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        images, ids = zip(*(squares(rng, blue=False) for _ in range(8)), strict=True)
        pixels = torch.stack([normalise(one, mean=IMAGENET_MEAN, std=IMAGENET_STD) for one in images])
        labels = torch.from_numpy(np.stack([tables.labels(one, novel=False) for one in ids]))
        loss = upsampled_cross_entropy(network(pixels), labels, align_corners=True)
        loss = loss + 10 * orthogonality(network.head.base_emb)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()
