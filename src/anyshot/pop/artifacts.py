"""What POP's stages read beside classes and samples: supports, and networks of this very fold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anyshot.engine.checkpoints import load_into, load_weights
from anyshot.errors import ArtifactError, WeightsError
from anyshot.pop.datasets import SupportViews, WholeImages
from anyshot.pop.head import PrototypeHead
from anyshot.pop.heads import (
    HEAD_NETWORK,
    POP_NETWORK,
    CosineHead,
    OnFrozen,
    build_head,
    prototype_head,
)
from anyshot.pop.options import NovelUpdate
from anyshot.pop.tables import FoldTables

if TYPE_CHECKING:
    from anyshot.pop.networks import PopNet  # with all of timm: imported where a network is built


HEAD = "head."  # in front of names of the head's weights in a base model


@dataclass(frozen=True, kw_only=True)
class Supports:
    """A draw: ids of the support images by novel class id, their number per class, and the draw's seed."""

    images: dict[int, list[str]]
    shots: int
    seed: int

    @property
    def ids(self) -> list[str]:
        """Of all support images, grouped by class; an image of two classes twice."""
        return [one for found in self.images.values() for one in found]


def read_supports(path: Path, tables: FoldTables) -> Supports:
    """The draw that `pop_support` has written.

    Raises ArtifactError when it is damaged or was made for other novel classes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Supports(
            images={int(row["id"]): list(row["supports"]) for row in content["classes"]},
            shots=int(content["shots"]),
            seed=int(content["support_seed"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no list of supports ({error!r}): run pop_support again") from None
    if tuple(found.images) != tables.novel_ids:
        raise ArtifactError(f"{path} has supports of other classes: run pop_support again")
    return found


def head_facts(
    options: NovelUpdate, images: WholeImages, supports: Supports, views: SupportViews | None = None
) -> dict[str, Any]:
    """Entries of a head's card: what it belongs to, whose it is, and what it learned from.

    `mode` and `support_views` are what was done, whatever the options say: features came out of a store, or
    not, and so did views of the support images.
    """
    return {
        "tables": images.tables.to_json(),
        "method": options.method,
        "mode": "exact" if images.store is None else "cached",
        "support_views": 0 if views is None else views.number,
        "shots": supports.shots,
        "support_seed": supports.seed,
        "supports": {str(number): ids for number, ids in supports.images.items()},
    }


def load_base(path: Path, *, tables: FoldTables, split: str) -> tuple[PopNet, dict[str, Any]]:
    """The base model of a fold in evaluation mode, and its card.

    Raises WeightsError when the file holds another network, other classes or another split, ArtifactError
    when the split has the same name but other novel classes, or classes in another order.
    """
    from anyshot.pop.networks import build_pop_net

    state, card = _loaded(path, POP_NETWORK, tables, split)
    model = build_pop_net(card["network"]["options"])
    load_into(model, state)
    return model.eval(), card


class LaterBase:
    """The base model of a fold on a device, by `load_base` at the first call: what trains on stored features
    alone makes none."""

    def __init__(self, path: Path, *, tables: FoldTables, split: str, device: torch.device) -> None:
        self._path, self._tables, self._split, self._device = path, tables, split, device
        self._found: PopNet | None = None

    def __call__(self) -> PopNet:
        if self._found is None:
            model, _ = load_base(self._path, tables=self._tables, split=self._split)
            self._found = model.to(self._device)
        return self._found


def load_base_head(path: Path, *, tables: FoldTables, split: str) -> tuple[PrototypeHead, dict[str, Any]]:
    """Prototypes and classifier of a fold's base model in evaluation mode, and its card.

    All that a training on stored features needs of it. Raises as `load_base`.
    """
    state, card = _loaded(path, POP_NETWORK, tables, split)
    head = prototype_head(card["network"]["options"])
    load_into(head, {name.removeprefix(HEAD): state[name] for name in state if name.startswith(HEAD)})
    return head.eval(), card


def _loaded(
    path: Path, network: str, tables: FoldTables, split: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and card of a network of this name, made for these very classes."""
    _check_classes(path, tables)
    expect = {"system": "pop", "classes_digest": tables.table.digest(), "split": split}
    state, card = load_weights(path, expect=expect)
    if card["network"]["name"] != network:
        raise WeightsError(f"{path} holds the network {card['network']['name']}, expected {network}")
    tables.check(FoldTables.from_json(card["tables"]))
    return state, card


def _check_classes(path: Path, tables: FoldTables) -> None:
    """Where a card was written for another class table, raise ArtifactError with the first class that
    differs: two checksums would not say which. What else is wrong with a file is left to those that load
    it."""
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if card["system"] != "pop" or card["classes_digest"] == tables.table.digest():
            return
        saved = FoldTables.from_json(card["tables"])
    except (OSError, ValueError, KeyError, TypeError, ArtifactError):
        return
    tables.check(saved, f"{path}: ")


def load_head(
    path: Path, *, tables: FoldTables, split: str
) -> tuple[PrototypeHead | CosineHead, dict[str, Any]]:
    """A head of a fold in evaluation mode, and its card. Raises as `load_base`."""
    state, card = _loaded(path, HEAD_NETWORK, tables, split)
    head = build_head(card["network"]["options"])
    load_into(OnFrozen(head=head, encoder=None), state)
    return head.eval(), card
