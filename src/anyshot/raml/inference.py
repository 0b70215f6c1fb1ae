"""One image, open world: propose regions, match them with the bank, overwrite the closed-set map (raml.md
2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.ops.anomaly import novel_prototype_assign
from anyshot.ops.argmax import argmax
from anyshot.ops.regions import (
    Regions,
    closing,
    find_regions,
    match_regions,
    paint_regions,
    quarter_round_trip,
    region_means,
    union_of_channels,
)
from anyshot.raml.bank import DMLNET_SCALE, NovelClass, selected_channels
from anyshot.raml.networks import MetricNet, OpenMaps
from anyshot.raml.options import OpenWorld


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """The regions of one image and what became of them."""

    regions: Regions
    cosines: np.ndarray  # (T, N) to the novel prototypes
    known_cosines: np.ndarray  # (T, K) to the known prototypes
    choice: np.ndarray  # (T,) index of the novel class, -1 = closed set kept
    rejected: np.ndarray  # (T,) bool: accepted, but nearer to a known prototype

    def values(self, novel: Sequence[int], *, reject_known: bool) -> np.ndarray:
        """What each region is overwritten with (T,): the novel value of its class, or -1."""
        chosen = np.where(self.rejected & reject_known, -1, self.choice)
        table = np.array([*novel, -1], dtype=np.int64)
        return table[chosen]


def closed_prediction(maps: OpenMaps, height: int, width: int, *, band: int = 256) -> np.ndarray:
    """Index of the best known class at the image's size, uint8 (H, W).

    The logits are upsampled in bands of rows, so that (K, H, W) is never held (raml.md 5 item 13).
    """
    logits = maps.logits[:1].float()
    rows = logits.shape[-2]
    if height <= band or height % rows:
        full = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        return argmax(full[0], dim=0).to(torch.uint8).cpu().numpy()
    factor, parts = height // rows, []
    step = max(1, band // factor)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        low, high = max(0, start - 1), min(rows, stop + 1)  # one row of context on each side
        part = F.interpolate(
            logits[:, :, low:high],
            size=((high - low) * factor, width),
            mode="bilinear",
            align_corners=False,
        )
        inside = slice((start - low) * factor, (stop - low) * factor)
        parts.append(argmax(part[0, :, inside], dim=0).to(torch.uint8).cpu())
    return torch.cat(parts).numpy()


def propose(maps: OpenMaps, selected: Tensor, height: int, width: int, options: OpenWorld) -> Regions:
    """Regions that the selected meta channels propose, on the quarter grid (raml.md 2.6, 2 to 4)."""
    known, cells = maps.logits.shape[1], maps.channels.shape[-2:]
    meta = maps.channels[0, known:].float()
    if not bool(selected.any()):
        binary = np.zeros(tuple(cells), dtype=np.uint8)
        return find_regions(binary, min_area=options.min_area)
    meta = meta * selected.to(meta.device)[:, None, None]
    if (height, width) == (4 * cells[0], 4 * cells[1]):
        meta = quarter_round_trip(meta)
    else:
        full = F.interpolate(meta[None], size=(height, width), mode="bilinear", align_corners=False)
        meta = F.interpolate(full, size=tuple(cells), mode="bilinear", align_corners=False)[0]
    binary = union_of_channels(meta, selected, options.channel_threshold)
    return find_regions(closing(binary, options.closing), min_area=options.min_area)


def decide(
    model: MetricNet,
    maps: OpenMaps,
    bank: Sequence[NovelClass],
    *,
    height: int,
    width: int,
    hit_ratio: float,
    options: OpenWorld,
    best_channel: bool = False,
) -> Decisions:
    """Propose and match the regions of one image of height x width px; `hit_ratio` and `best_channel` choose
    the meta channels (`selected_channels`)."""
    device = maps.feature.device
    meta = maps.channels.shape[1] - maps.logits.shape[1]
    selected = selected_channels(bank, hit_ratio, meta, best=best_channel)
    regions = propose(maps, selected, height, width, options)
    embeddings = model.embedding.unit(region_means(maps.feature[0], regions.labels, regions.count))
    prototypes = (
        torch.stack([one.prototype for one in bank]) if bank else embeddings.new_zeros(0, embeddings.shape[1])
    )
    strict = options.profile == "paper"
    cosines, choice = match_regions(embeddings, prototypes.to(device), options.threshold, strict=strict)
    known, _ = match_regions(embeddings, model.embedding.known_prototypes, 0.0)
    best_novel = cosines.amax(dim=1) if cosines.shape[1] else cosines.new_full((len(cosines),), -1.0)
    rejected = (choice >= 0) & (known.amax(dim=1) > best_novel)
    return Decisions(
        regions=regions,
        cosines=cosines.cpu().numpy(),
        known_cosines=known.cpu().numpy(),
        choice=choice.cpu().numpy(),
        rejected=rejected.cpu().numpy(),
    )


def nearest_prototype(
    maps: OpenMaps, bank: Sequence[NovelClass], closed: np.ndarray, novel: Sequence[int], *, threshold: float
) -> np.ndarray:
    """The baseline DMLNet-NPM on the same network (raml.md 2.9): closed map (H, W) with novel pixels.

    With u the closed logits, softmax(u) is DMLNet's for the embedding u / 6. A pixel is novel when its
    squared distance to a novel prototype is below -threshold, and, for a single novel class, also below that
    to every known centre.
    """
    if not bank:
        return closed
    prototypes = torch.stack([one.logit_prototype for one in bank]).to(maps.logits.device)
    height, width = closed.shape
    logits = F.interpolate(maps.logits.float(), size=(height, width), mode="bilinear", align_corners=False)
    found = novel_prototype_assign(
        logits[0] / DMLNET_SCALE, prototypes, threshold=threshold, beats_known=len(bank) == 1
    )
    values = np.array([*novel, -1], dtype=np.int64)[found.cpu().numpy()]
    return np.where(values < 0, closed, values).astype(closed.dtype)


def fuse(closed: np.ndarray, decisions: Decisions, novel: Sequence[int], *, reject_known: bool) -> np.ndarray:
    """Closed map (H, W) with the accepted regions overwritten."""
    values = decisions.values(novel, reject_known=reject_known)
    return paint_regions(closed, decisions.regions.labels, values)
