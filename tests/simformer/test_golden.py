"""The golden cases of simformer.md 7.2 that concern losses, fast and plain versions: 1 to 5 and 9."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from anyshot.nets.maskformer import Proposals
from anyshot.simformer.criterion import Normalisers, set_losses, uncovered, union_costs
from anyshot.simformer.matching import Matches, match, matching_costs
from anyshot.simformer.options import Matching, PairLosses, SetLosses
from anyshot.simformer.pair_losses import (
    balance_counts,
    distillation_loss,
    similarity_loss,
    student_scores,
    student_similarities,
    truth_of,
)
from anyshot.simformer.similarity import BalanceWindow, CoarseLabels, ResidualBlock, SimilarityNet
from anyshot.simformer.targets import Targets
from tests.reference import simformer_losses as plain

CLASS_LOGITS = [[2, 0, 1, 0], [0, 1, 2, 0], [0, 0, 0, 3], [1, 2, 1.5, 0]]
MASK_LOGITS = [[[2, 2], [-2, -2]], [[-1, -1], [1, 3]], [[0, 0], [0, 0]], [[-3, 1], [-1, 2]]]
FOCAL = [[0.000902, 0.825039], [0.738011, 0.009920], [0.086643, 0.086643], [0.487947, 0.175600]]
DICE = [[0.095362, 0.704638], [0.602459, 0.163602], [0.4, 0.4], [0.481158, 0.330494]]
COSTS = [
    [-0.496898, 17.122825, -0.224515],
    [15.280093, 0.137481, -0.610296],
    [2.089551, 2.089551, -0.043317],
    [10.065721, 3.368508, -0.287490],
]
LABEL_MAP = [[0, 0], [1, 1]]
LABELS: plain.Labels = [(0, torch.tensor(LABEL_MAP) == 0), (1, torch.tensor(LABEL_MAP) == 1), (2, None)]
ASSIGNED = [(0, 0), (1, 1), (3, 2)]  # query, label


def exact(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def near(found: Tensor, expected: object, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, exact(expected), atol=tolerance, rtol=0)


def proposals_of(class_logits: object, mask_logits: object) -> Proposals:
    """One layer of images (B, Q, ...)."""
    masks = exact(mask_logits)[None]
    return Proposals(exact(class_logits)[None], masks, masks.new_zeros(masks.shape[1], 1, *masks.shape[3:]))


def targets_of(label_maps: object, novel: list[list[int]], classes: int, pad: object = None) -> Targets:
    labels = torch.tensor(label_maps, dtype=torch.uint8)
    bare = torch.zeros(len(labels), classes, dtype=torch.bool)
    for row, own in zip(bare, novel, strict=True):
        row[own] = True
    beyond = torch.zeros(labels.shape, dtype=torch.bool) if pad is None else torch.tensor(pad) == 1
    return Targets(labels=labels, novel=bare, pad=beyond)


def matches_of(pairs: list[tuple[int, int]]) -> Matches:
    """One layer, one image."""
    zeros = torch.zeros(len(pairs), dtype=torch.int64)
    query, label = torch.tensor(pairs).T
    return Matches(layer=zeros, image=zeros, query=query, label=label)


# case 1


def test_matching_costs_and_assignment() -> None:
    proposals = proposals_of([CLASS_LOGITS], [MASK_LOGITS])
    enlarged = torch.tensor(LABEL_MAP).repeat_interleave(4, dim=0).repeat_interleave(4, dim=1)
    targets = targets_of([enlarged.tolist()], [[2]], 3)
    (cost,) = matching_costs(proposals, targets, Matching())
    near(cost, [COSTS])
    found = match(proposals, targets, Matching())
    assert list(zip(found.query.tolist(), found.label.tolist(), strict=True)) == ASSIGNED
    assert sum(cost[0, q, n].item() for q, n in ASSIGNED) == pytest.approx(-0.646906, abs=1e-6)
    by_focal = Matching(class_weight=0, focal_weight=1, dice_weight=0)
    near(matching_costs(proposals, targets, by_focal)[0][0, :, :2], FOCAL)
    by_dice = Matching(class_weight=0, focal_weight=0, dice_weight=1)
    near(matching_costs(proposals, targets, by_dice)[0][0, :, :2], DICE)


def test_plain_matching() -> None:
    masks = exact(MASK_LOGITS)
    truths = [exact([[1, 1], [0, 0]]), exact([[0, 0], [1, 1]])]
    near(torch.stack([torch.stack([plain.focal(x, t) for t in truths]) for x in masks]), FOCAL)
    near(torch.stack([torch.stack([plain.dice(x, t) for t in truths]) for x in masks]), DICE)
    fine: plain.Labels = [
        (c, None if mask is None else mask.repeat_interleave(4, dim=0).repeat_interleave(4, dim=1))
        for c, mask in LABELS
    ]
    cost = plain.costs(exact(CLASS_LOGITS), masks, fine)
    near(cost, COSTS)
    assert plain.assign(cost) == ASSIGNED
    empty = plain.costs(exact(CLASS_LOGITS), masks, fine, zero_masks=True)
    near(empty[:, 2], [12.831264, 13.254785, 3.222651, 9.276183])
    assert plain.assign(empty) == [(0, 0), (1, 1), (2, 2)]


# case 2


def test_set_losses() -> None:
    proposals = proposals_of([CLASS_LOGITS], [MASK_LOGITS])
    targets = targets_of([LABEL_MAP], [[2]], 3)
    matches = matches_of(ASSIGNED)
    options = SetLosses(complementary_weight=0)
    found = set_losses(proposals, targets, matches, Normalisers.of(targets), options)
    assert found["focal"].item() / 20 == pytest.approx(0.00541076, abs=1e-8)
    assert found["dice"].item() == pytest.approx(0.12948214, abs=1e-8)
    assert found["classification"].item() == pytest.approx(1.04777784, abs=1e-8)
    assert found["complementary"].item() == 0
    total = found["classification"] + found["focal"] + found["dice"]
    assert total.item() == pytest.approx(1.28547511, abs=1e-8)


def test_set_losses_are_not_the_wrong_variants() -> None:
    logits, pairs = exact([MASK_LOGITS]), [ASSIGNED]
    found = [part.item() for part in plain.mask_losses(logits, [LABELS], pairs)]
    assert found == pytest.approx((0.00541076, 0.12948214), abs=1e-8)
    assert [2 / 3 * part for part in found] == pytest.approx((0.00360717, 0.08632143), abs=1e-8)
    zero: plain.Labels = [*LABELS[:2], (2, torch.zeros(2, 2, dtype=torch.bool))]
    wrong = [part.item() for part in plain.mask_losses(logits, [zero], pairs)]
    assert wrong == pytest.approx((0.15202678, 0.30582008), abs=1e-8)
    weighted = plain.classification(exact([CLASS_LOGITS]), [LABELS], pairs)
    assert weighted.item() == pytest.approx(1.04777784, abs=1e-8)
    unweighted = plain.classification(exact([CLASS_LOGITS]), [LABELS], pairs, nothing_weight=1)
    assert unweighted.item() == pytest.approx(0.84334925, abs=1e-8)


# case 3
NOVEL_LOGITS = [[[1, -4, -1], [2, -5, 3]], [[-2, -6, 0], [1, -3.5, -1]]]
PAD = [[[0, 0, 1], [0, 0, 1]]]
BASE_MAP = [[[0, 0, 255], [255, 255, 255]]]
NO_MAP = [[[255, 255, 255], [255, 255, 255]]]


def union_total(logits: Tensor, label_map: object, floor: float | None) -> tuple[float, float, float]:
    """Focal, Dice and 20 F + D of the image with the novel classes 1 and 2."""
    targets = targets_of(label_map, [[1, 2]], 3, PAD)
    groups = torch.zeros(2, dtype=torch.int64)
    focal, dice = union_costs(logits, uncovered(targets), groups, floor=floor)
    return focal.item(), dice.item(), (20 * focal + dice).item()


def test_complementary_costs() -> None:
    logits = exact(NOVEL_LOGITS)
    assert uncovered(targets_of(BASE_MAP, [[1, 2]], 3, PAD)).flatten().tolist() == [0, 0, 0, 1, 1, 0]
    found = union_total(logits, BASE_MAP, -2.9444)
    assert found == pytest.approx((0.56792081, 0.53578900, 11.89420511), abs=1e-8)
    found = union_total(logits, BASE_MAP, None)
    assert found == pytest.approx((0.59383255, 0.53855628, 12.41520735), abs=1e-8)
    assert union_total(logits, NO_MAP, -2.9444)[2] == pytest.approx(12.33348213, abs=1e-8)


def complementary_of(images: int, weight: float, logits: Tensor) -> Tensor:
    """The loss of a batch; only its first image has novel labels, and a base mask matched to query 2."""
    nothing = torch.zeros_like(logits[:1])
    masks = torch.cat([logits, nothing]).expand(images, -1, -1, -1)[None]
    proposals = Proposals(exact([[[[0] * 4] * 3] * images]), masks, masks[0, :, :1])
    targets = targets_of(BASE_MAP * images, [[1, 2], []][:images], 3, PAD * images)
    found = matches_of([(2, 0), (0, 1), (1, 2)])
    options = SetLosses(complementary_weight=weight)
    return set_losses(proposals, targets, found, Normalisers.of(targets), options)["complementary"]


@pytest.mark.parametrize(("weight", "expected"), [(0.15, 1.78413077), (0.20, 2.37884102)])
def test_complementary_loss(weight: float, expected: float) -> None:
    """The divisor of one image is 1 + 1e-5."""
    found = complementary_of(1, weight, exact(NOVEL_LOGITS)).item()
    assert found * (1 + 1e-5) == pytest.approx(expected, abs=1e-8)
    two = complementary_of(2, weight, exact(NOVEL_LOGITS)).item()
    assert two == pytest.approx(weight * 11.89408617, abs=1e-8)


def test_complementary_gradient() -> None:
    logits = exact(NOVEL_LOGITS).requires_grad_()
    complementary_of(1, 0.15, logits).backward()
    assert logits.grad is not None
    moved = (logits.grad.flatten(1) != 0).tolist()
    assert moved == [[True, False, False, True, False, True], [False, False, True, False, False, False]]


def test_complementary_gradient_of_base_proposals() -> None:
    logits = exact([*NOVEL_LOGITS, [[0.5, 1, -1], [1, 0, 2]]])[None, None].requires_grad_()
    proposals = Proposals(exact([[[[0] * 4] * 3]]), logits, logits.detach()[0, :, :1])
    targets = targets_of(BASE_MAP, [[1, 2]], 3, PAD)
    found = matches_of([(2, 0), (0, 1), (1, 2)])
    set_losses(proposals, targets, found, Normalisers.of(targets), SetLosses())["complementary"].backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 2].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert logits.grad[0, 0, 0].any()


def test_plain_complementary_loss() -> None:
    logits, pad = exact([NOVEL_LOGITS]), torch.tensor(PAD) == 1
    base = torch.tensor([[1, 1, 0], [0, 0, 0]]) == 1
    labels: plain.Labels = [(0, base), (1, None), (2, None)]
    pairs = [(0, 1), (1, 2)]
    one = plain.complementary(logits, [labels], [pairs], pad).item()
    assert one == pytest.approx(11.89408617, abs=1e-8)
    free = plain.complementary(logits, [labels], [pairs], pad, floor=None).item()
    assert free * (1 + 1e-5) == pytest.approx(12.41520735, abs=1e-8)


# case 4
SIMILAR = [[[0.9, 0.2], [0.4, 0.3]], [[0.6, 0.7], [0.1, 0.5]]]
SIM_CASES = [
    ([0, 5], [0, 1], "released", (0.75, 0.25), 0.30923625),
    ([0, 5], [0, 1], "valid", (0.3, 0.7), 0.16990846),
    ([0, 5], [255, 0], "released", (0.25, 0.75), 0.66686529),
]


@pytest.mark.parametrize(("first", "second", "counting", "weights", "expected"), SIM_CASES)
def test_sim_loss(
    first: list[int], second: list[int], counting: str, weights: tuple[float, float], expected: float
) -> None:
    novel = torch.tensor([False, False, True, True, True, True])
    labels = torch.tensor([first, second], dtype=torch.uint8)
    base = (labels == 0) | (labels == 1)
    grid = labels.repeat_interleave(4, dim=1)[:, None].expand(-1, 4, -1)  # one row of two cells
    targets = Targets(labels=grid, novel=torch.zeros(2, 6, dtype=torch.bool), pad=torch.zeros_like(grid) > 0)
    cells = CoarseLabels.of(targets, novel)
    assert torch.equal(cells.labels, labels)
    assert torch.equal(cells.base, base)
    truth = truth_of(cells, torch.tensor([[0, 1], [0, 1]]), torch.device("cpu"))
    none, some = BalanceWindow().update(torch.stack(balance_counts(truth, counting))[None])[0]
    assert (none.item(), some.item()) == pytest.approx(weights)
    assert similarity_loss(exact(SIMILAR), truth, none, some).item() == pytest.approx(expected, abs=1e-7)
    by_hand = plain.sim_loss(exact(SIMILAR), first, second, {0, 1}, plain.Balance(), counting == "released")
    assert by_hand.item() == pytest.approx(expected, abs=1e-8)


def test_truth_of_pairs_of_points() -> None:
    points = torch.tensor([[0, 1], [0, 1]])

    def found(labels: list[list[int]]) -> list[object]:
        values = torch.tensor(labels, dtype=torch.uint8)
        cells = CoarseLabels(values, (values == 0) | (values == 1), torch.zeros(2, 2, dtype=torch.bool))
        truth = truth_of(cells, points, torch.device("cpu"))
        return [truth.same.int().tolist(), truth.valid.int().tolist()]

    assert found([[0, 5], [0, 1]]) == [[[[1, 0], [0, 0]]] * 2, [[[1, 1], [1, 1]]] * 2]
    same = [[[0, 1], [0, 0]], [[0, 0], [1, 0]]]
    valid = [[[1, 1], [0, 1]], [[1, 0], [1, 1]]]
    assert found([[0, 5], [255, 0]]) == [same, valid]


# case 5
TEACHER = [[[0.9, 0.2], [0.5, 0.05]], [[0.7, 0.4], [0.3, 0.95]]]
SCORES = [[[0.6, 0.2, 0], [0.1, 0.3, 0.1]], [[0.5, 0.1, 0.1], [0, 0.4, 0.3]]]
CROSS = [[0.973729, 0.252982], [0.522233, 0.904534]]
DIST_CASES = [
    ("cross", "cce", -0.13211261),
    ("cross", "ce", 0.80869028),
    ("cross", "linear", -0.05069037),
    ("released", "cce", -0.12490074),
    ("released", "ce", 1.16173560),
    ("released", "linear", -0.04344346),
]


@pytest.mark.parametrize(("pairing", "form", "expected"), DIST_CASES)
def test_dist_loss(pairing: str, form: str, expected: float) -> None:
    scores, teacher = exact(SCORES), exact(TEACHER)
    student = student_similarities(scores, pairing)
    if pairing == "cross":
        near(student[0], CROSS)
        near(student[1], exact(CROSS).T.tolist())
    else:
        near(student, [[[1, 0.572078], [0.572078, 1]], [[1, 0.269430], [0.269430, 1]]])
    options = PairLosses(form=form, threshold=0.5)  # type: ignore[arg-type]
    assert distillation_loss(teacher, student, options).item() == pytest.approx(expected, abs=1e-8)
    ours, theirs = scores
    others = (theirs, ours) if pairing == "cross" else (ours, theirs)
    by_hand = torch.stack([plain.cosines(ours, others[0]), plain.cosines(theirs, others[1])])
    near(by_hand, student.tolist(), 1e-12)
    assert plain.dist_loss(teacher, by_hand, form).item() == pytest.approx(expected, abs=1e-8)


def test_student_scores() -> None:
    """One query per novel class, sure of it, whose mask chances are the scores: s is what the case gives."""
    scores = exact(SCORES).clamp(min=1e-9)
    masks = scores.transpose(1, 2).logit()[None, :, :, None]  # (1, 2, 3, 1, 2): a row of two cells
    sure = (torch.eye(4, dtype=torch.float64)[:3] * 100).expand(1, 2, 3, 4)
    proposals = Proposals(sure, masks, masks[0, :, :1])
    points, images = torch.tensor([[0, 1], [0, 1]]), torch.tensor([0, 1])
    found = student_scores(proposals, images, points, torch.tensor([True, True, True]), "novel_scores")
    torch.testing.assert_close(found, scores, atol=1e-8, rtol=0)
    fewer = student_scores(proposals, images, points, torch.tensor([False, True, True]), "novel_scores")
    torch.testing.assert_close(fewer, scores[..., 1:], atol=1e-8, rtol=0)


# case 9


def test_residual_block() -> None:
    block = ResidualBlock(inputs=2, outputs=1, norm="batch").double()
    assert block.shortcut is not None
    block.first_norm, block.second_norm = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    values = {
        "shortcut": ([[1, -1]], 0),
        "first": ([[0.5, 0.5]], -0.5),
        "second": ([[2]], 0.5),
    }
    with torch.no_grad():
        for name, (weight, bias) in values.items():
            block.get_parameter(f"{name}.weight").copy_(exact(weight))
            block.get_parameter(f"{name}.bias").fill_(bias)
    points = exact([[1, 3], [3, 1]])
    assert block(points).tolist() == [[3.5], [5.5]]
    first, second = points[None, :, :1], points[None, :, 1:]
    assert block.of_points(first, second).tolist() == [[3.5], [block(exact([[1, 1]])).item()],
                                                       [block(exact([[3, 3]])).item()], [5.5]]  # fmt: skip


def test_parameter_counts_of_the_similarity_network() -> None:
    """Case 7, the part about SimNet."""
    net = SimilarityNet(width=256)
    parts = [net.first, *net.further, net.head]
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    assert counts == [329472, 132608, 132608, 514]
    assert sum(counts) == 595202
