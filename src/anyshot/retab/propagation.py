"""One image's boundary-aware walk on the stride-8 grid (retab.md 2.9, 2.10)."""

from __future__ import annotations

import numpy as np

from anyshot.engine.stores import ScoreMap
from anyshot.ops.crf import background_and_cam
from anyshot.ops.random_walk import walk
from anyshot.ops.resample import mask_to_grid, pool_to_grid, upsample_grid
from anyshot.retab.options import RandomWalk

STRIDE = 8


def initial_scores(cam: ScoreMap, *, alpha: float) -> np.ndarray:
    """Background and CAMs pooled to the grid, float32 (K+1, h, w); the padding to whole cells holds 0."""
    full = upsample_grid(cam.scores, stride=cam.stride, height=cam.height, width=cam.width)
    return pool_to_grid(background_and_cam(full, alpha=alpha), stride=STRIDE)


def between_stages(grid: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """The published hand-over: up to the image's size and averaged back to the grid (P5: blurs, dims the
    rim)."""
    return pool_to_grid(upsample_grid(grid, stride=STRIDE, height=height, width=width), stride=STRIDE)


def propagate(
    cam: ScoreMap, planes: np.ndarray, open_map: np.ndarray | None, *, radius: int, options: RandomWalk
) -> np.ndarray:
    """Scores (K+1, h, w) after the walk, background first.

    cam: K maps in [0, 1); planes: affinities (O, h, w) of radius `radius`, cells; open_map: bool (H, W), True
    where no boundary is, or None for the plain walk of PSA.
    """
    scores = initial_scores(cam, alpha=options.alpha)
    planes = planes.astype(np.float32)
    if open_map is None:
        return walk(
            scores, planes, radius=radius, beta=options.beta, logt=options.logt, method=options.method
        )
    official = options.mask_resize == "official"
    cells = planes.shape[1:]
    open_cells = mask_to_grid(open_map, height=cells[0], width=cells[1], stride=STRIDE, official=official)
    for stage in ("stage1", "stage2"):
        if stage == "stage2" and options.interstage == "official":
            scores = between_stages(scores, height=cam.height, width=cam.width)
        scores = walk(
            scores,
            planes,
            radius=radius,
            beta=options.beta,
            logt=options.logt,
            open_cells=open_cells,
            stage=stage,  # type: ignore[arg-type]
            method=options.method,
        )
    return scores
