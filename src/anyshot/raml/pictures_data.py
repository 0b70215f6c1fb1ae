"""What the report draws of a few evaluation images: closed-set map, proposal, and the regions in it.

A score store (`shown.h5`). Per image: one score map, the strongest selected meta channel on the quarter grid
(no map when no channel is selected), and two further arrays, `closed` (H, W) in the data set's ids and
`regions` (h, w), 0 outside and 1..T inside, numbered as in `regions.csv`.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from anyshot.engine.stores import StoreWriter
from anyshot.raml.networks import OpenMaps

LEVELS = 255  # grey values: what a picture shows, and what packs well


def proposal_map(maps: OpenMaps, selected: Tensor) -> np.ndarray:
    """The strongest of the selected meta channels, float16 (1, h, w) in [0, 1]; (0, h, w) when none is.

    maps: the network's, of the first image; selected bool (M,).
    """
    known = maps.logits.shape[1]
    chosen = maps.channels[0, known:].float()[selected.to(maps.channels.device)]
    if len(chosen):
        chosen = chosen.amax(dim=0, keepdim=True)
    grey = (chosen.clamp(0, 1) * LEVELS).round() / LEVELS
    return np.asarray(grey.cpu().numpy().astype(np.float16))


def add_shown(
    out: StoreWriter, sample_id: str, proposal: np.ndarray, closed: np.ndarray, regions: np.ndarray
) -> None:
    """Store one image: the proposal of `proposal_map`, the closed-set map (H, W) and the regions (h, w)."""
    height, width = closed.shape
    out.add(
        sample_id,
        np.arange(len(proposal)),
        proposal,
        height=height,
        width=width,
        stride=max(1, round(height / regions.shape[0])),
        extra={"closed": closed, "regions": regions.astype(np.uint16)},
    )
