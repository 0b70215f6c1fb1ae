"""The novel bank: what is known of each novel class, one pair of files per class (raml.md 2.5, 6.5).

`<name>.json` holds facts, `<name>.safetensors` the vectors; a class is added or removed without touching
another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.engine.checkpoints import load_weights, save_weights
from anyshot.engine.novel_folder import file_stem
from anyshot.errors import ArtifactError, DataError
from anyshot.ops.regions import masked_mean
from anyshot.raml.networks import MetricNet, OpenMaps

DMLNET_SCALE = 6.0  # cross entropy on u equals DMLNet's distance loss for the embedding u / 6 (raml.md 2.9)


@dataclass(frozen=True, kw_only=True)
class Support:
    """What one support image says of a class."""

    embedding: Tensor  # unit (D,)
    logits: Tensor  # mean u / 6 over the mask (K,), for the baseline
    hits: Tensor  # share of the mask that each meta channel covers (M,)


@dataclass(frozen=True, kw_only=True)
class NovelClass:
    """A novel class: its id and name, and what its L support images gave."""

    id: int
    name: str
    supports: tuple[str, ...]
    embeddings: Tensor  # (L, D)
    logits: Tensor  # (L, K)
    hits: Tensor  # (L, M)

    @property
    def prototype(self) -> Tensor:
        """Mean of the unit embeddings (D,), not normalised again."""
        return self.embeddings.mean(dim=0)

    @property
    def logit_prototype(self) -> Tensor:
        """Mean of the supports' mean embeddings of DMLNet (K,)."""
        return self.logits.mean(dim=0)

    def channels(self, ratio: float, *, best: bool = False) -> Tensor:
        """Meta channels that cover more than `ratio` of a support's mask, bool (M,).

        best: where none does, the one that covers most of the masks, if any covers something (ours).
        """
        chosen = (self.hits > ratio).any(dim=0)
        if best and not chosen.any() and self.hits.any():
            chosen[self.hits.mean(dim=0).argmax()] = True
        return chosen


def quarter_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mask bool (H, W) -> (height, width): cell (i, j) takes pixel (floor(i H / h), floor(j W / w)).

    A mask too thin to be met by any of these pixels takes every cell that it touches instead.
    """
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    picked = mask[np.ix_(rows, columns)]
    if picked.any() or not mask.any():
        return picked
    touched = np.zeros((height, width), dtype=bool)
    y, x = np.nonzero(mask)
    touched[y * height // mask.shape[0], x * width // mask.shape[1]] = True
    return touched


def describe_support(
    model: MetricNet, maps: OpenMaps, mask: np.ndarray, *, hit_threshold: float, what: str
) -> Support:
    """A class region of one image: its embedding, and the meta channels it lights up (raml.md 2.5).

    maps: the network's, of this image alone (B = 1); mask bool (H, W) at the image's size; `what` names the
    image and class in errors. Raises DataError for a mask without a pixel, ArtifactError where the network's
    values are no numbers.
    """
    if not mask.any():
        raise DataError(f"{what}: the mask holds no pixel of the class; give a mask that does")
    cells = torch.from_numpy(quarter_mask(mask, *maps.feature.shape[-2:])).to(maps.feature.device)
    feature = masked_mean(maps.feature[0], cells)
    logits = masked_mean(maps.logits[0], cells)
    assert feature is not None  # a mask that is not empty touches a cell
    assert logits is not None
    known = maps.logits.shape[1]
    meta = F.interpolate(
        maps.channels[:, known:].float(), size=mask.shape, mode="bilinear", align_corners=False
    )[0]
    inside = meta[:, torch.from_numpy(mask).to(meta.device)]
    hits = (inside >= hit_threshold).float().mean(dim=1)
    embedding = model.embedding.unit(feature[None])[0]
    if not (embedding.isfinite().all() and logits.isfinite().all() and hits.isfinite().all()):
        raise ArtifactError(f"{what}: the network gives values that are no numbers; train it again")
    return Support(embedding=embedding.cpu(), logits=(logits / DMLNET_SCALE).cpu(), hits=hits.cpu())


def novel_class(class_id: int, name: str, ids: Sequence[str], supports: Sequence[Support]) -> NovelClass:
    """A class of the bank from its supports, in the order of `ids`."""
    return NovelClass(
        id=class_id,
        name=name,
        supports=tuple(ids),
        embeddings=torch.stack([support.embedding for support in supports]),
        logits=torch.stack([support.logits for support in supports]),
        hits=torch.stack([support.hits for support in supports]),
    )


def selected_channels(
    classes: Sequence[NovelClass], ratio: float, meta: int, *, best: bool = False
) -> Tensor:
    """Meta channels that any class lights up, bool (M,): one selection for all classes (raml.md 2.5).

    `best` as in `NovelClass.channels`.
    """
    chosen = torch.zeros(meta, dtype=torch.bool)
    for one in classes:
        chosen |= one.channels(ratio, best=best)
    return chosen


def save_class(folder: Path, one: NovelClass, **facts: Any) -> Path:
    """Write the class's two files into `folder`; further facts go into the JSON. Returns the JSON's path."""
    path = folder / f"{file_stem(one.name)}.safetensors"
    card = {
        **facts,
        "system": "raml",
        "kind": "novel_class",
        "id": one.id,
        "name": one.name,
        "shots": len(one.supports),
        "supports": list(one.supports),
        "hit_ratios": [[round(value, 6) for value in row] for row in one.hits.tolist()],
    }
    save_weights(path, {"embeddings": one.embeddings, "logits": one.logits, "hits": one.hits}, card)
    return path.with_suffix(".json")


def load_class(path: Path, *, expect: dict[str, Any] | None = None) -> NovelClass:
    """Read a class from its .safetensors file. Raises ArtifactError or WeightsError."""
    state, card = load_weights(path, expect={"kind": "novel_class", **(expect or {})})
    try:
        return NovelClass(
            id=int(card["id"]),
            name=str(card["name"]),
            supports=tuple(card["supports"]),
            embeddings=state["embeddings"],
            logits=state["logits"],
            hits=state["hits"],
        )
    except KeyError as error:
        raise ArtifactError(f"{path} is no novel class ({error} is missing): build the bank again") from None


def load_bank(path: Path, *, expect: dict[str, Any] | None = None) -> list[NovelClass]:
    """The classes of a bank, in the order that its `bank.json` lists them."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["classes"]
        files = [path.parent / entry["file"] for entry in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is no novel bank ({error!r}): run raml_novel_bank again") from None
    return [load_class(file, expect=expect) for file in files]
