"""SimLoss and DistLoss: what must always hold (simformer.md 7.3), and fast against plain versions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from anyshot.nets.maskformer import Proposals
from anyshot.simformer.options import PairLosses
from anyshot.simformer.pair_losses import pair_losses
from anyshot.simformer.similarity import (
    CoarseLabels,
    novel_points,
    similarity_points,
)
from anyshot.simformer.targets import Targets
from tests.reference import simformer_losses as plain
from tests.simformer.loss_batches import NOVEL, image_part, network, random_batch, slopes

PAIR_LOSSES = PairLosses(points=12)


def pair_losses_of(
    proposals: Proposals, targets: Targets, options: PairLosses = PAIR_LOSSES, seed: int = 0
) -> dict[str, Tensor]:
    net, balance = network()
    seeds = torch.arange(len(targets.labels) // 2) + seed
    return pair_losses(
        proposals, targets, net=net, balance=balance, seeds=seeds, novel=NOVEL, options=options
    )


def pair_reference(
    proposals: Proposals, targets: Targets, options: PairLosses, seeds: list[int]
) -> dict[str, Tensor]:
    """Pair by pair from the plain parts, at the same points."""
    net, _ = network()
    weights, balance = dict(net.named_parameters()), plain.Balance()
    cells, base = CoarseLabels.of(targets, NOVEL), {0, 1, 2, 3}
    sims, dists = [], []

    def similar(points: Tensor, images: Tensor) -> Tensor:
        chosen = torch.stack([row.flatten(1)[:, own].T for row, own in zip(images, points, strict=True)])
        t = plain.simnet(weights, chosen, chosen.flip(0), 3)
        return (t + torch.stack([t[1].T, t[0].T])) / 2 if options.symmetric else t

    for number, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        images = proposals.pixels[2 * number : 2 * number + 2].detach()
        pair = cells.pair(number)
        points = similarity_points(pair, options, generator)
        first, second = pair.labels.gather(1, points).tolist()
        released = options.counting == "released"
        sims.append(plain.sim_loss(similar(points, images), first, second, base, balance, released))
        points = novel_points(pair, options.points, generator)  # type: ignore[assignment]
        teacher = similar(points, images).detach()
        scores = [
            plain.fused(proposals.class_logits[-1, i], proposals.mask_logits[-1, i], [4, 5])
            .flatten(1)[:, points[i - 2 * number]]
            .T
            for i in (2 * number, 2 * number + 1)
        ]
        others = scores[::-1] if options.pairing == "cross" else scores
        student = torch.stack([plain.cosines(u, v) for u, v in zip(scores, others, strict=True)])
        dists.append(plain.dist_loss(teacher, student, options.form, options.threshold))
    return {
        "similarity": options.similarity_weight * torch.stack(sims).mean(),
        "distillation": options.distillation_weight * torch.stack(dists).mean(),
    }


PAIR_OPTIONS = [
    {},
    {"symmetric": True, "form": "linear", "threshold": 0.3, "similarity_weight": 0.5},
    {"counting": "released", "pairing": "released", "form": "ce", "distillation_weight": 0.5},
]


@pytest.mark.parametrize("changes", PAIR_OPTIONS)
def test_pair_losses_equal_the_plain_ones(changes: dict[str, object]) -> None:
    """Values, and gradients for the proposals of the last layer."""
    proposals, targets = random_batch()
    options = PAIR_LOSSES.model_copy(update={"points": 8, **changes})
    found = pair_losses_of(proposals, targets, options, seed=7)
    expected = pair_reference(proposals, targets, options, [7, 8])
    assert found["distilled"].item() == 1
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-7)
    inputs = [proposals.class_logits, proposals.mask_logits]
    ours, theirs = (slopes(one["distillation"], inputs) for one in (found, expected))
    for our, their in zip(ours, theirs, strict=True):
        assert our is not None
        torch.testing.assert_close(our, their, atol=1e-9, rtol=1e-6)
        assert not our[:-1].any()
        assert our[-1].any()


@pytest.mark.parametrize("space", ["novel_scores", "all_scores", "all_logits", "positive_logits"])
def test_student_spaces(space: str) -> None:
    """Each gives gradients, and another value."""
    proposals, targets = random_batch()
    options = PAIR_LOSSES.model_copy(update={"space": space})
    found = pair_losses_of(proposals, targets, options)["distillation"]
    assert all(slope is not None and slope.any() for slope in slopes(found, [*proposals[:2]]))
    others = {"novel_scores": "all_scores"}.get(space, "novel_scores")
    other = pair_losses_of(proposals, targets, PAIR_LOSSES.model_copy(update={"space": others}))
    assert found.item() != other["distillation"].item()


def test_where_the_gradients_of_pair_losses_go() -> None:
    proposals, targets = random_batch()
    net, balance = network()
    found = pair_losses(proposals, targets, net=net, balance=balance, seeds=torch.tensor([1, 2]), novel=NOVEL,
                        options=PAIR_LOSSES)  # fmt: skip
    assert slopes(found["similarity"], [*proposals]) == [None] * 3
    assert all(slope is not None for slope in slopes(found["similarity"], [*net.parameters()]))
    assert slopes(found["distillation"], [*net.parameters()]) == [None] * len([*net.parameters()])
    of_classes, of_masks, of_pixels = slopes(found["distillation"], [*proposals])
    assert of_pixels is None
    assert of_classes is not None
    assert of_masks is not None
    assert of_classes.any()
    assert of_masks.any()


@pytest.mark.parametrize("counting", ["valid", "released"])
def test_novel_pixels_do_not_leak(counting: str) -> None:
    """With the novel classes in the label map and without, all is equal bit for bit; the released way
    of counting is the one that looks at them, and SimLoss's weights alone change."""
    proposals, targets = random_batch()
    leaking = dataclasses.replace(targets, labels=targets.labels.clone())
    void = (targets.labels == 255) & ~targets.pad
    leaking.labels[void] = 4
    leaking.labels[::2][void[::2]] = 5
    options = PAIR_LOSSES.model_copy(update={"counting": counting, "points": 40})
    clean, leaked = (pair_losses_of(proposals, each, options) for each in (targets, leaking))
    for name, value in clean.items():
        if counting == "released" and name == "similarity":
            assert value.item() != leaked[name].item()
        else:
            assert torch.equal(value, leaked[name])


def test_pairs_in_parts() -> None:
    """Losses, gradients, the window and the running statistics are those of the whole batch."""
    results = []
    for parts in (1, 2):
        proposals, targets = random_batch()
        net, balance = network()
        sums: dict[str, Tensor] = {}
        for part in range(parts):
            size = 4 // parts
            cut, own = image_part(proposals, targets, slice(part * size, (part + 1) * size))
            seeds = torch.tensor([3, 4])[part * size // 2 : (part + 1) * size // 2]
            found = pair_losses(
                cut, own, net=net, balance=balance, seeds=seeds, novel=NOVEL, options=PAIR_LOSSES
            )
            sums = {name: sums.get(name, 0) + found[name] / parts for name in ("similarity", "distillation")}
        (sums["similarity"] + sums["distillation"]).backward()
        slope = [value.grad for value in (*net.parameters(), *proposals[:2])]
        results.append([*sums.values(), *net.buffers(), *balance.buffers(), *slope])
    for whole, parted in zip(*results, strict=True):
        torch.testing.assert_close(whole, parted, atol=1e-12, rtol=1e-12)


def test_weights_of_zero() -> None:
    """Nothing is computed, and without SimLoss the network still has gradients, of 0."""
    proposals, targets = random_batch()
    net, balance = network()
    options = PAIR_LOSSES.model_copy(update={"similarity_weight": 0.0, "distillation_weight": 0.0})
    start = {name: value.clone() for name, value in net.state_dict().items()}
    found = pair_losses(proposals, targets, net=net, balance=balance, seeds=torch.tensor([1, 2]), novel=NOVEL,
                        options=options)  # fmt: skip
    assert {name: value.item() for name, value in found.items()} == {
        "similarity": 0, "distillation": 0, "distilled": 0}  # fmt: skip
    assert all(
        slope is not None and not slope.any() for slope in slopes(found["similarity"], [*net.parameters()])
    )
    assert all(torch.equal(value, start[name]) for name, value in net.state_dict().items())
    assert balance.rows.sum().item() == 2


def test_pairs_without_a_novel_class_in_common() -> None:
    """Only such pairs have a DistLoss, and it is averaged over all pairs."""
    proposals, targets = random_batch()
    targets.novel[3, 4] = False  # the second pair has class 5 in its first image only
    found = pair_losses_of(proposals, targets)
    assert found["distilled"].item() == 0.5
    alone = pair_losses_of(*image_part(proposals, targets, slice(0, 2)))
    torch.testing.assert_close(found["distillation"], alone["distillation"] / 2)
    covered = dataclasses.replace(targets, labels=torch.where(targets.labels == 255, 0, targets.labels))
    assert pair_losses_of(proposals, covered)["distilled"].item() == 0


def test_statistics_of_the_teacher() -> None:
    """`train` uses and moves those of its own pairs, `eval` the running ones."""
    proposals, targets = random_batch()
    moved, values = [], []
    for teacher in ("train", "eval"):
        net, balance = network()
        options = PAIR_LOSSES.model_copy(update={"teacher": teacher, "similarity_weight": 0.0})
        start = net.first.first_norm.running_mean.clone()  # type: ignore[union-attr, operator]
        found = pair_losses(proposals, targets, net=net, balance=balance, seeds=torch.tensor([1, 2]),
                            novel=NOVEL, options=options)  # fmt: skip
        moved.append(not torch.equal(net.first.first_norm.running_mean, start))  # type: ignore[arg-type]
        values.append(found["distillation"].item())
        assert net.training
        assert net.first.first_norm.training
    assert moved == [True, False]
    assert values[0] != values[1]


def test_scores_of_the_similarity_network() -> None:
    """F1 of both sorts, by hand."""
    proposals, targets = random_batch(images=2)
    net, balance = network()
    found = pair_losses(proposals, targets, net=net, balance=balance, seeds=torch.tensor([5]), novel=NOVEL,
                        options=PAIR_LOSSES)  # fmt: skip
    net, _ = network()
    pair = CoarseLabels.of(targets, NOVEL).pair(0)
    points = similarity_points(pair, PAIR_LOSSES, torch.Generator().manual_seed(5))
    chosen = torch.stack(
        [row.flatten(1)[:, own].T for row, own in zip(proposals.pixels, points, strict=True)]
    )
    claimed = (net(chosen, chosen.flip(0)) > 0.5).flatten().tolist()
    a, b = pair.labels.gather(1, points).tolist()
    pairs = [(u, v) for one, other in ((a, b), (b, a)) for u in one for v in other]
    hits = {True: 0, False: 0}
    wrong = 0
    for (u, v), claim in zip(pairs, claimed, strict=True):
        if u == v == 255:
            continue
        hits[claim] += (u == v) == claim
        wrong += (u == v) != claim
    assert found["similar_f1"].item() == pytest.approx(2 * hits[True] / (2 * hits[True] + wrong))
    assert found["dissimilar_f1"].item() == pytest.approx(2 * hits[False] / (2 * hits[False] + wrong))


def test_wrong_number_of_seeds() -> None:
    proposals, targets = random_batch()
    net, balance = network()
    with pytest.raises(ValueError, match="4 images and 1 seeds"):
        pair_losses(proposals, targets, net=net, balance=balance, seeds=torch.tensor([1]), novel=NOVEL,
                    options=PAIR_LOSSES)  # fmt: skip


def test_losses_of_no_number_are_none() -> None:
    """So that the training stops, instead of with an error of torch."""
    proposals, targets = random_batch()
    with torch.no_grad():
        proposals.pixels[1] = math.nan
    assert math.isnan(pair_losses_of(proposals, targets)["similarity"].item())
    for form in ("cce", "ce", "linear"):
        proposals, targets = random_batch()
        with torch.no_grad():
            proposals.mask_logits[1, 1] = math.nan
        options = PAIR_LOSSES.model_copy(update={"form": form})
        assert math.isnan(pair_losses_of(proposals, targets, options)["distillation"].item())


def test_without_novel_labels() -> None:
    """DistLoss is exactly 0."""
    proposals, targets = random_batch(images=2)
    base = dataclasses.replace(targets, novel=torch.zeros_like(targets.novel))
    found = pair_losses_of(proposals, base)
    assert found["distillation"].item() == 0
    assert found["distilled"].item() == 0
    assert found["similarity"].item() > 0
