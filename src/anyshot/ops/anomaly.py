"""Anomaly scores per pixel, high = anomalous, float32 (H, W) (raml.md 2.7, 2.9).

DMLNet fixes the prototypes m_k = s e_k of its K-dimensional embedding f, so all distances follow from f and
its norm: -|f - m_k|^2 = 2 s f_k - |f|^2 - s^2, with s = 3 as published. Nothing of size (H W, K, K) is held.
RAML's own anomaly map is described in its paper only, with gaps; what is filled in here is marked [ours].
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from anyshot.ops.regions import Regions, closing, find_regions

SCALE = 3.0


def max_softmax(logits: Tensor) -> Tensor:
    """1 - max softmax of logits (C, H, W) (MSP).

    Computed as rest / (1 + rest), rest the weight of all other classes, so that confident pixels keep their
    order: the difference from 1 itself has only 2^24 steps in float32, and most pixels would share the last.
    """
    logits = logits.float()
    best, which = logits.max(dim=0, keepdim=True)
    rest = (logits - best).exp().scatter(0, which, 0).sum(dim=0)
    return rest / (1 + rest)


def max_logit(logits: Tensor) -> Tensor:
    """Negative largest logit of (C, H, W) (MaxLogit)."""
    return -logits.float().amax(dim=0)


def embedding_logits(features: Tensor, scale: float = SCALE) -> Tensor:
    """DMLNet's logits -|f - scale e_k|^2 of features (K, ...), same shape: 6 f_k - |f|^2 - 9 at scale 3."""
    features = features.float()
    return 2 * scale * features - features.square().sum(dim=0) - scale**2


def mmsp(features: Tensor, scale: float = SCALE) -> Tensor:
    """1 - max softmax of DMLNet's logits of features (K, H, W); what all logits share drops out (MMSP)."""
    return max_softmax(2 * scale * features.float())


def distance_sum(features: Tensor, scale: float = SCALE) -> Tensor:
    """Sum over k of |f - scale e_k|^2 of features (K, ...): K |f|^2 - 2 scale sum f_k + K scale^2.

    Low where f is near the centre of all prototypes, that is where it is anomalous.
    """
    features = features.float()
    classes = len(features)
    squares = features.square().sum(dim=0)
    return classes * squares - 2 * scale * features.sum(dim=0) + classes * scale**2


def euclidean_distance_sum(features: Tensor, *, scale: float = SCALE, clip: float = 1000.0) -> Tensor:
    """DMLNet's anomaly score in [0, 1] of one image's features (K, H, W) (EDS).

    1 - the distance sum, which is cut at `clip` (published: 1000 for Cityscapes, 400 with PSPNet) and then
    stretched to [0, 1] over the image. 0 everywhere when all pixels have the same sum.
    """
    return 1 - _stretched(distance_sum(features, scale).clamp(max=clip), flat=1.0)


def _stretched(values: Tensor, *, flat: float) -> Tensor:
    """Values (H, W) with minimum 0 and maximum 1; `flat` everywhere when all are equal."""
    low, high = torch.aminmax(values)
    if low == high:
        return torch.full_like(values, flat)
    return (values - low) / (high - low)


def novel_prototype_assign(
    features: Tensor,
    prototypes: Tensor,
    *,
    threshold: float = -1.5,
    beats_known: bool,
    scale: float = SCALE,
) -> Tensor:
    """DMLNet's novel prototype method: nearest prototype (N, K) of features (K, h, w), int64 (h, w) or -1.

    A pixel is novel iff -|f - p|^2 > threshold; with `beats_known` (published for one novel class) it must
    also exceed the best known logit. Of equally near prototypes the first listed wins.
    """
    features, prototypes = features.float(), prototypes.float()
    if not len(prototypes):
        return torch.full(features.shape[1:], -1, dtype=torch.int64, device=features.device)
    with torch.autocast(features.device.type, enabled=False):
        nearness = 2 * torch.einsum("nk,khw->nhw", prototypes, features) - features.square().sum(dim=0)
    nearness = nearness - prototypes.square().sum(dim=1)[:, None, None]
    best, choice = nearness.max(dim=0)
    novel = best > threshold
    if beats_known:
        novel &= best > embedding_logits(features, scale).amax(dim=0)
    return torch.where(novel, choice, -1)


@dataclass(frozen=True)
class UncertainRegions:
    """Regions between edges and uncertain pixels, and for every pixel the region whose similarity it takes.

    regions: full resolution, 1..T; owner int32 (H, W), 1..T or 0, where the similarity counts as 1 (raml.md
    2.7: components that are too small).
    """

    regions: Regions
    owner: np.ndarray


def urs_regions(
    image: np.ndarray,
    logits: Tensor,
    *,
    sobel: float = 50.0,
    uncertainty: float = 0.7,
    closing_size: int = 5,
    min_area: int = 64,
) -> UncertainRegions:
    """Region proposals of RAML's anomaly task (raml.md 2.7): image uint8 (H, W, 3) RGB, logits (C, H, W).

    A pixel is an edge where the Sobel magnitude is >= `sobel` or 1 - max softmax is >= `uncertainty` (50, 0.7
    for Lost&Found, 150, 0.4 for Road Anomaly). [ours]: the magnitude is sqrt(gx^2 + gy^2) of the unscaled
    3x3 operator on ITU-601 grey in 0..255; the edge map is closed by a square of `closing_size` px; regions
    are the 4-connected components of what is no edge, at least `min_area` px; an edge pixel belongs to the
    nearest region; smaller components belong to none.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    magnitude = cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    uncertain = (max_softmax(logits) >= uncertainty).cpu().numpy()
    edges = closing(((magnitude >= sobel) | uncertain).astype(np.uint8), closing_size)
    regions = find_regions(1 - edges, min_area=min_area, connectivity=4)
    owner = regions.labels.copy()
    if regions.count:
        at_edge = edges == 1
        owner[at_edge] = _nearest_region(regions)[at_edge]
    return UncertainRegions(regions=regions, owner=owner)


def _nearest_region(regions: Regions) -> np.ndarray:
    """Number of the region nearest to every pixel, int32 (H, W); there is at least one region."""
    outside = (regions.labels == 0).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(
        outside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(nearest.max()) + 1, dtype=np.int32)
    inside = outside == 0
    table[nearest[inside]] = regions.labels[inside]
    return table[nearest]


def raml_anomaly_map(logits: Tensor, proposals: UncertainRegions, similarities: Tensor) -> Tensor:
    """RAML's anomaly map in [0, 1] (raml.md 2.7 step 5): logits (C, H, W), similarities P (T,) = the largest
    cosine of each region to the known prototypes.

    Q = -(max logit) P, stretched to [0, 1] over the image. [ours]: the product has the right sense only for
    logits > 0, so the image's smallest max logit is moved to 0 first; pixels without a region have P = 1; an
    image on which Q is constant gets 0.
    """
    height = -max_logit(logits)
    table = torch.cat([similarities.new_ones(1), similarities]).float().to(height.device)
    similarity = table[torch.from_numpy(proposals.owner).to(height.device).long()]
    return _stretched(-(height - height.min()) * similarity, flat=0.0)
