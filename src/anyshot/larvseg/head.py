"""The cosine classifier with class-axis normalisation, the only head of LarvSeg (larvseg.md 2.2, 2.6)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyshot.errors import ConfigError, DataError
from anyshot.ops.precision import full, without_autocast

VARIANCE_EPS = 1e-5  # added to the variance over the classes
TABLE_STD = 0.02  # of a fresh class table


@dataclass(frozen=True, kw_only=True)
class ActiveClasses:
    """V, the classes that are told apart, in the order of the logits (larvseg.md 1.4, 2.2). On the host.

    rows: (N,) int64, the row of the class table of each. counts: (N,) int64 >= 1, how many names of the data
    set share that row, k_n; None where each is named once. k_n copies of a column and one column counted k_n
    times are the same in every loss and in the normalisation. Raises DataError for anything else.
    """

    rows: Tensor
    counts: Tensor | None = None

    def __post_init__(self) -> None:
        if self.rows.ndim != 1 or self.rows.dtype != torch.int64 or not len(self.rows):
            raise DataError(
                f"active classes are a list of rows of the class table (N,) int64 with N >= 1, not "
                f"{tuple(self.rows.shape)} {self.rows.dtype}"
            )
        if int(self.rows.min()) < 0:
            raise DataError(
                f"row {int(self.rows.min())} of the class table does not exist: rows count from 0"
            )
        if self.counts is not None and (self.counts.shape != self.rows.shape or int(self.counts.min()) < 1):
            raise DataError(
                f"multiplicities {self.counts.tolist()[:8]}... of {len(self.rows)} active classes: give one "
                f"for each, at least 1"
            )

    def __len__(self) -> int:
        return len(self.rows)

    def sampled(
        self, present: Iterable[int], *, count: int = 100, generator: torch.Generator
    ) -> tuple[ActiveClasses, Tensor]:
        """V of one step: `count` names drawn evenly without replacement, and all `present` (larvseg.md 2.6).

        present: positions in V that are labels of the batch. Returns the classes kept, in their old order,
        and their old positions (kept,), for `reindexed`. Where there are not more than `count` names, all
        are kept. Names that share a row are drawn one by one, as published; a present class counts for at
        least one of its names. Raises DataError for a position beyond V.
        """
        positions = sorted(set(present))
        if positions and not 0 <= positions[0] <= positions[-1] < len(self):
            raise DataError(f"labels {positions[0]} to {positions[-1]} do not fit {len(self)} active classes")
        every = torch.arange(len(self))
        names = every if self.counts is None else every.repeat_interleave(self.counts)
        if len(names) <= count:
            return self, every
        drawn = names[torch.randperm(len(names), generator=generator)[:count]]
        copies = torch.bincount(drawn, minlength=len(self))
        copies[positions] = copies[positions].clamp(min=1)
        kept = copies.nonzero()[:, 0]
        counts = None if self.counts is None else copies[kept]
        return ActiveClasses(rows=self.rows[kept], counts=counts), kept


def reindexed(labels: Tensor, kept: Tensor, *, classes: int, ignore: int = 255) -> Tensor:
    """Labels of any shape, positions among `classes`, as positions among those `kept` (kept,); int64.

    `ignore` stays. Raises DataError for a label that is not kept, and where `ignore` would be a class.
    """
    require_ignore(ignore, classes)
    lookup = torch.full((classes,), len(kept), device=labels.device)
    lookup[kept.to(labels.device)] = torch.arange(len(kept), device=labels.device)
    known = labels != ignore
    found = torch.where(known, labels.long(), 0)
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < classes:
        raise DataError(f"labels {int(found.min())} to {int(found.max())} do not fit {classes} classes")
    found = lookup[found]
    if bool((known & (found == len(kept))).any()):
        missing = sorted(set(labels[known & (found == len(kept))].tolist()))
        raise DataError(
            f"labels {missing[:8]} are not among the {len(kept)} sampled classes: sample them, too"
        )
    return torch.where(known, found, ignore)


def require_ignore(ignore: int, classes: int) -> None:
    """Raise DataError where the label to ignore is also the number of a class (larvseg.md 6, item 12)."""
    if 0 <= ignore < classes:
        raise DataError(
            f"the label to ignore, {ignore}, is one of the {classes} classes: mark such pixels -1"
        )


class ClassMoments(NamedTuple):
    """Of the unit class vectors over V, each counted k_n times: mean (D,) and biased covariance (D, D)."""

    mean: Tensor
    covariance: Tensor


def class_moments(class_units: Tensor, counts: Tensor | None = None) -> ClassMoments:
    """From them follow mean and variance of a pixel's cosines: x.mean and x.covariance.x (larvseg.md 5.2
    item 3).

    class_units (N, D), counts (N,) or None; O(N D^2) work, O(N D) memory, with gradient. The covariance is
    that of centred vectors: no difference of large numbers.
    """
    share = _shares(class_units, counts)
    mean = share @ class_units
    centred = class_units - mean
    return ClassMoments(mean, (centred * share[:, None]).T @ centred)


def cosine_deviations(units: Tensor, moments: ClassMoments) -> Tensor:
    """sigma_p = sqrt(v_p + eps) of units (..., D): how much a pixel's cosines differ between the classes."""
    variance = ((units @ moments.covariance) * units).sum(dim=-1)
    return (variance.clamp(min=0) + VARIANCE_EPS).sqrt()


def class_normalised(scores: Tensor, counts: Tensor | None = None) -> Tensor:
    """Cosines (..., N) less their mean over the classes, over their deviation (larvseg.md 2.2, 1.4)."""
    share = _shares(scores, counts, size=scores.shape[-1])
    centred = scores - (scores @ share)[..., None]
    return centred * ((centred.square() @ share) + VARIANCE_EPS).rsqrt()[..., None]


def _shares(like: Tensor, counts: Tensor | None, *, size: int | None = None) -> Tensor:
    """k_n / sum k (N,) in the type of `like`."""
    if counts is None:
        size = len(like) if size is None else size
        return like.new_full((size,), 1 / size)
    counts = counts.to(like)
    return counts / counts.sum()


class CosineHead(nn.Module):
    """z = scale (s - mean_V s) / sqrt(var_V s + 1e-5) + shift, s = cosine(X Wp, T Wc) (larvseg.md 2.2).

    width: D, channels of the features and of the class vectors. classes: G, rows of the class table, one for
    each name of the global vocabulary. frozen: (G, D), class vectors to use instead of a learned table, e.g.
    text embeddings; Wc is learned all the same. Everything is computed in float32 (or float64), under
    autocast, too. Raises ConfigError for frozen vectors of another shape or with a row that is 0.

    Fresh weights: Wp and Wc from N(0, 1 / D), table from N(0, 0.02^2), scale 1, shift 0. `x W` with row
    vectors. In cross entropies `shift` has gradient 0; only binary cross entropies feel it.
    """

    table: Tensor

    def __init__(self, *, width: int, classes: int, frozen: Tensor | None = None) -> None:
        super().__init__()
        self.feature_projection = nn.Parameter(torch.empty(width, width))
        self.class_projection = nn.Parameter(torch.empty(width, width))
        for matrix in (self.feature_projection, self.class_projection):
            nn.init.normal_(matrix, std=width**-0.5)
        if frozen is None:
            self.table = nn.Parameter(torch.empty(classes, width))
            nn.init.trunc_normal_(self.table, std=TABLE_STD)
        else:
            _require_vectors(frozen, classes, width)
            self.register_buffer("table", frozen.detach().clone().float())
        self.scale = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.zeros(()))

    def units(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) -> unit vectors x of the tokens (B, P, D), p = w y + x."""
        with without_autocast(features):
            tokens = full(features).flatten(2).transpose(1, 2)
            return F.normalize(tokens @ self.feature_projection, dim=-1)

    def class_units(self, active: ActiveClasses) -> Tensor:
        """Unit vectors c of the active classes (N, D). Raises DataError for a row that the table lacks."""
        highest = int(active.rows.max())
        if highest >= len(self.table):
            raise DataError(
                f"an active class is row {highest} of the class table, which has {len(self.table)} rows: use "
                f"the vocabulary that the table was made for"
            )
        with without_autocast(self.table):
            return F.normalize(self.table[active.rows.to(self.table.device)] @ self.class_projection, dim=-1)

    def logits(self, units: Tensor, class_units: Tensor, counts: Tensor | None = None) -> Tensor:
        """Of units (B, P, D) and class_units (N, D): z (B, P, N)."""
        with without_autocast(units):
            return self.scale * class_normalised(units @ class_units.T, counts) + self.shift

    def forward(self, features: Tensor, active: ActiveClasses) -> Tensor:
        """Logits (B, N, h, w) of features (B, D, h, w), at token resolution."""
        logits = self.logits(self.units(features), self.class_units(active), active.counts)
        return logits.transpose(1, 2).unflatten(2, features.shape[2:])

    def argmax_features(self, features: Tensor, active: ActiveClasses) -> Tensor:
        """x / sigma (B, D, h, w): upsampled, their products with `class_units` order the classes as the
        upsampled logits do (larvseg.md 5.2 item 5). The other way round where `scale` is negative."""
        units = self.units(features)
        with without_autocast(units):
            moments = class_moments(self.class_units(active), active.counts)
            scaled = units / cosine_deviations(units, moments)[..., None]
        return scaled.transpose(1, 2).unflatten(2, features.shape[2:])


def _require_vectors(frozen: Tensor, classes: int, width: int) -> None:
    if frozen.shape != (classes, width):
        raise ConfigError(
            f"the frozen class vectors are {tuple(frozen.shape)}, but {classes} classes of a network with "
            f"{width} channels need ({classes}, {width})"
        )
    if not bool(torch.isfinite(frozen).all()) or not bool(frozen.any(dim=1).all()):
        raise ConfigError("a frozen class vector is 0 or not finite: it has no direction; mend its file")
