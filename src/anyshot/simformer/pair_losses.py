"""SimLoss, which trains the similarity network, and DistLoss, which it teaches by (simformer.md 2.5, 2.6).

Both look at points of a pair of images. Their row 0 compares A_i with B_j, their row 1 B_i with A_j.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from anyshot.nets.maskformer import Proposals
from anyshot.ops.precision import full, without_autocast
from anyshot.simformer.options import PairLosses
from anyshot.simformer.similarity import (
    BalanceWindow,
    CoarseLabels,
    SimilarityNet,
    novel_points,
    similarity_points,
)
from anyshot.simformer.targets import Targets

RELEASED_STEP = 5  # rows and columns between the pairs of points that `released` counts
SAFE = 0.01  # how far from 0 and 1 the form `ce` keeps similarities
EPSILON = 1e-8  # shortest length in a cosine


class Truth(NamedTuple):
    """Of pairs of points (2, J, J) bool: y, they show the same; v, one is base, so that y is known."""

    same: Tensor
    valid: Tensor


class _Distilled(NamedTuple):
    """What DistLoss compares of one pair of images."""

    pair: int
    points: Tensor  # (2, J) cells, on the host
    teacher: Tensor  # (2, J, J)


def pair_losses(
    proposals: Proposals,
    targets: Targets,
    *,
    net: SimilarityNet,
    balance: BalanceWindow,
    seeds: Tensor,
    novel: Tensor,
    options: PairLosses,
) -> dict[str, Tensor]:
    """`similarity` and `distillation`, weighted means over the pairs of a batch, and values for the log.

    Images 2i and 2i + 1 are pair i; seeds: (pairs,) int64, from which all its points are drawn; novel: (K,)
    bool, the novel classes of the split. SimLoss has gradients for `net` only, DistLoss for the proposals of
    the last layer only. Each pair is normalised alone, so the mean over parts of a batch is that of the
    batch. A loss of weight 0 is not computed; without SimLoss the parameters of `net` have gradients 0.

    For the log: `distilled`, the share of pairs that have a DistLoss, those with a novel label in common;
    with SimLoss also `similar_f1` and `dissimilar_f1` of `net`'s decisions at 0.5, over the valid pairs of
    points (1 where nothing was to be found and nothing was claimed).

    Raises ValueError for a wrong number of seeds.
    """
    if 2 * len(seeds) != len(targets.labels):
        raise ValueError(f"{len(targets.labels)} images and {len(seeds)} seeds: a pair has two and one")
    coarse = CoarseLabels.of(targets, novel)
    common = (targets.novel[::2] & targets.novel[1::2] & novel.to(targets.novel)).any(dim=1).tolist()
    parts: list[Tensor] = []
    hits: list[Tensor] = []
    distilled: list[_Distilled] = []
    generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    with without_autocast(proposals.pixels):
        embeddings = full(proposals.pixels.detach()).flatten(2)
        asked = _asked(coarse, balance, options, generators, embeddings.device)
        for number, generator in enumerate(generators):
            cells, both = coarse.pair(number), embeddings[2 * number : 2 * number + 2]
            if asked:
                points, truth, weights = asked[number]
                similar = _similarities(net, both, points, options)
                parts.append(similarity_loss(similar, truth, *weights))
                hits.append(_hits(similar.detach(), truth))
            if options.distillation_weight and common[number]:
                taught = _taught(net, number, both, cells, options, generator)
                distilled += [taught] if taught is not None else []
        count = len(seeds)
        losses = {
            "similarity": _similarity_total(parts, count, net, options),
            "distillation": _distillation_total(proposals, distilled, count, novel, options),
            "distilled": embeddings.new_tensor(len(distilled) / count),
        }
    return losses | (_f1(torch.stack(hits).sum(dim=0)) if hits else {})


def truth_of(cells: CoarseLabels, points: Tensor, device: torch.device) -> Truth:
    """What the labels say about the pairs of points (2, J), which are cells.

    Labels of novel classes do not belong in a label map. Where one stands, a pair with it is valid under the
    same condition, so that the loss cannot tell it from void; only `released` counting can.
    """
    labels, base = cells.labels.gather(1, points).to(device), cells.base.gather(1, points).to(device)
    return Truth(
        same=labels[:, :, None] == labels.flip(0)[:, None],
        valid=base[:, :, None] | base.flip(0)[:, None],
    )


def balance_counts(truth: Truth, counting: str) -> tuple[Tensor, Tensor]:
    """Numbers of dissimilar and similar pairs of points, of those that are valid (simformer.md 2.5).

    `released`: of every 5th row and column, valid or not. The released code thereby compares true novel
    classes; a label map without them has 255 there, and these pairs count as similar, as void does.
    """
    if counting == "released":
        thinned = truth.same[:, ::RELEASED_STEP, ::RELEASED_STEP]
        return (~thinned).sum(), thinned.sum()
    return (~truth.same & truth.valid).sum(), (truth.same & truth.valid).sum()


def similarity_loss(similar: Tensor, truth: Truth, none: Tensor, some: Tensor) -> Tensor:
    """sum(v w_y BCE(t, y)) / max(1e-5, sum v). similar: t (2, J, J); none, some: w_0 and w_1."""
    same = truth.same.to(similar.dtype)
    weight = torch.where(truth.same, some.to(similar), none.to(similar)) * truth.valid
    return (weight * _cross_entropy(similar, same)).sum() / truth.valid.sum().clamp(min=1e-5)


def distillation_loss(teacher: Tensor, student: Tensor, options: PairLosses) -> Tensor:
    """Mean of the form's cost of all pairs of points; teacher t, student r: (2, J, J) (simformer.md 2.6)."""
    if options.form == "linear":
        return -((teacher - options.threshold) * student).mean()
    if options.form == "ce":
        low, high = SAFE, 1 - SAFE
        return _cross_entropy(student.clamp(low, high), teacher.clamp(low, high)).mean()
    pull = (teacher - 0.5).clamp(min=0) * torch.log(1 + student)
    push = (0.5 - teacher).clamp(min=0) * torch.log(2 - student)
    return -(pull + push).mean()


def _cross_entropy(chances: Tensor, truth: Tensor) -> Tensor:
    """Of each element; logarithms end at -100. Not a number for a chance that is none: torch would stop."""
    costs = binary_cross_entropy(chances.nan_to_num(0.5), truth, reduction="none")
    return torch.where(chances.isnan(), torch.nan, costs)


def student_similarities(scores: Tensor, pairing: str) -> Tensor:
    """r (2, J, J), the positive part of the cosine of scores (2, J, classes).

    `cross`: of A_i and B_j, and of B_i and A_j, as the teacher; `released`: of A_i and A_j, and of B_i and
    B_j (simformer.md 6.1, item 1).
    """
    units = scores / scores.norm(dim=2, keepdim=True).clamp(min=EPSILON)
    others = units.flip(0) if pairing == "cross" else units
    return (units @ others.transpose(1, 2)).relu()


def student_scores(proposals: Proposals, images: Tensor, points: Tensor, novel: Tensor, space: str) -> Tensor:
    """s (n, J, classes) of the last layer at the cells points (n, J) of n images (simformer.md 2.6).

    s_c = sum over queries of w[q, c] sigma(mask[q, cell]) with w, by `space`: the chances of the novel
    classes, or of all; the logits of all classes, or their positive parts. `no object` is no class.
    """
    mask_logits, width = proposals.mask_logits, proposals.mask_logits.shape[-1]
    last = torch.full_like(images, len(mask_logits) - 1)[:, None, None]
    queries = torch.arange(mask_logits.shape[2], device=images.device)[:, None]
    cells = points[:, None]
    masks = full(mask_logits[last, images[:, None, None], queries, cells // width, cells % width]).sigmoid()
    logits = full(proposals.class_logits[-1, images])
    if space == "novel_scores":
        weights = logits.softmax(dim=-1)[..., :-1][..., novel.to(images.device)]
    elif space == "all_scores":
        weights = logits.softmax(dim=-1)[..., :-1]
    else:
        weights = logits[..., :-1].relu() if space == "positive_logits" else logits[..., :-1]
    return masks.transpose(1, 2) @ weights


def _similarities(net: SimilarityNet, embeddings: Tensor, points: Tensor, options: PairLosses) -> Tensor:
    """t (2, J, J) at the points (2, J), which are cells of the embeddings (2, C, cells)."""
    index = points.to(embeddings.device)[:, None].expand(-1, embeddings.shape[1], -1)
    chosen = embeddings.gather(2, index).transpose(1, 2)
    similar: Tensor = net(chosen, chosen.flip(0))
    if not options.symmetric:
        return similar
    # row 1 has the same two points the other way round
    return (similar + similar.flip(0).transpose(1, 2)) / 2


def _asked(
    coarse: CoarseLabels,
    balance: BalanceWindow,
    options: PairLosses,
    generators: list[torch.Generator],
    device: torch.device,
) -> list[tuple[Tensor, Truth, Tensor]]:
    """Of each pair of images the points (2, J) that SimLoss compares, what is true of them, and the weights
    w_0 and w_1; nothing if it has no weight. All pairs are counted before any loss: see `BalanceWindow`."""
    if not options.similarity_weight:
        return []
    pairs = [coarse.pair(number) for number in range(len(generators))]
    points = [similarity_points(pair, options, own) for pair, own in zip(pairs, generators, strict=True)]
    truths = [truth_of(*each, device) for each in zip(pairs, points, strict=True)]
    counts = torch.stack([torch.stack(balance_counts(truth, options.counting)) for truth in truths])
    return list(zip(points, truths, balance.update(counts), strict=True))


@torch.no_grad()
def _taught(
    net: SimilarityNet,
    number: int,
    embeddings: Tensor,
    cells: CoarseLabels,
    options: PairLosses,
    generator: torch.Generator,
) -> _Distilled | None:
    """Points of a pair of images that may be novel and what the teacher says; None if an image has none."""
    points = novel_points(cells, options.points, generator)
    if points is None:
        return None
    with _mode(net, options.teacher == "train" and net.training):
        return _Distilled(number, points, _similarities(net, embeddings, points, options))


@contextmanager
def _mode(net: nn.Module, training: bool) -> Iterator[None]:
    before = net.training
    net.train(training)
    try:
        yield
    finally:
        net.train(before)


def _hits(similar: Tensor, truth: Truth) -> Tensor:
    """(4,): valid pairs that are similar and found so, similar and missed, dissimilar and taken for similar,
    dissimilar and found so."""
    claimed = similar > 0.5
    kinds = (truth.same & claimed, truth.same & ~claimed, ~truth.same & claimed, ~truth.same & ~claimed)
    return torch.stack([(kind & truth.valid).sum() for kind in kinds])


def _f1(hits: Tensor) -> dict[str, Tensor]:
    similar, missed, claimed, dissimilar = hits.float()
    wrong = (missed + claimed) / 2

    def score(right: Tensor) -> Tensor:
        return torch.where(right + wrong > 0, right / (right + wrong).clamp(min=0.5), 1.0)

    return {"similar_f1": score(similar), "dissimilar_f1": score(dissimilar)}


def _similarity_total(parts: list[Tensor], count: int, net: SimilarityNet, options: PairLosses) -> Tensor:
    """The weighted mean; without SimLoss 0, but of `net`: several devices want all gradients."""
    if parts:
        return options.similarity_weight * torch.stack(parts).sum() / count
    return torch.stack([parameter.sum() for parameter in net.parameters()]).sum() * 0


def _distillation_total(
    proposals: Proposals, distilled: list[_Distilled], count: int, novel: Tensor, options: PairLosses
) -> Tensor:
    """All points in one go: a gradient for the mask logits of a batch takes as much memory as they do."""
    device = proposals.mask_logits.device
    if not distilled:
        return torch.zeros((), device=device)
    images = torch.tensor([2 * one.pair + side for one in distilled for side in (0, 1)], device=device)
    points = torch.cat([one.points for one in distilled]).to(device)
    scores = student_scores(proposals, images, points, novel, options.space)
    terms = [
        distillation_loss(one.teacher, student_similarities(of_pair, options.pairing), options)
        for one, of_pair in zip(distilled, scores.unflatten(0, (-1, 2)), strict=True)
    ]
    return options.distillation_weight * torch.stack(terms).sum() / count
