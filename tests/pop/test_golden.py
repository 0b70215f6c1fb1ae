"""The golden cases of pop.md 7.2 that need tensors only, for the fast and the plain versions: G1 to G8."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from anyshot.ops.losses import pixel_cross_entropy
from anyshot.ops.metrics import Confusion
from anyshot.ops.projections import (
    novel_orthogonality,
    orthogonality,
    projections,
    pseudo_labels,
    residual,
    two_slopes,
    unit_prototypes,
)
from anyshot.ops.upsampled import resize_weights, upsampled_cross_entropy
from anyshot.pop import geometry
from anyshot.pop.evaluation import both_families
from anyshot.pop.head import PixelMlp, PrototypeHead
from anyshot.pop.heads import OnFrozen
from anyshot.pop.options import NovelUpdate
from anyshot.pop.update import update_loss
from tests.reference import pop_head as plain

# G1 and G2
W = [[[1, 0, -1], [0, 1, 1], [-1, 1, 0]], [[1, 1, 0], [0, 1, 1], [1, 0, 1]], [[1, -1, 2]]]
V = [[[0, 1, 0], [1, 0, -1], [1, 1, 1]], [[1, 0, -1], [0, 2, 0], [0, 0, 1]], [[1, 1, -1]]]
BASE = [[2, 0, 0], [0, 3, 4]]
NOVEL = [[0, 0, 5]]
PIXELS = [[1, 2, 3], [-1, 0, 2], [0, -5, 1]]
RESIDUALS = [[0, -0.16, 0.12], [0, -0.96, 0.72], [0, -3.68, 2.76]]
RESIDUALS_2 = [[0, -0.16, -2.88], [0, -0.96, -1.28], [0, -3.68, 1.76]]
LOGITS = [[0, 3, 2.16], [0, 1, 0.96], [0, 0, 5.28]]
LOGITS_2 = [[5.76, 3, 2.16, -3], [2.56, 1, 0.96, -2], [0, 0, 5.28, -1]]


def exact(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def as_map(rows: object) -> Tensor:
    """A list of pixels -> (1, C, 1, pixels)."""
    return exact(rows).T[None, :, None]


def filled(mlp: PixelMlp, weights: list[list[list[int]]]) -> None:
    with torch.no_grad():
        for name, values in zip(("0", "2", "4"), weights, strict=True):
            mlp.get_parameter(f"{name}.weight").copy_(exact(values)[:, :, None, None])


def golden_head(novel: list[list[int]] | None = None) -> PrototypeHead:
    """The head of G1, or with novel prototypes that of G2 and G6, float64."""
    head = PrototypeHead(channels=3, base=2, novel=len(novel or [])).double()
    filled(head.classifier, W)
    with torch.no_grad():
        head.base_emb.copy_(exact(BASE))
        if novel:
            head.novel_emb.copy_(exact(novel))
            filled(head.classifier_n, V)
    return head


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_slopes_projections_and_residuals() -> None:
    """G1: c+ and c-, a, r."""
    head = golden_head()
    units = unit_prototypes(head.base_emb)
    plus, minus = two_slopes(head.classifier, units)
    close(plus, exact([3, 0.6]))
    close(minus, exact([1, 2.4]))
    a = projections(as_map(PIXELS), units)
    close(a, as_map([[1, 3.6], [-1, 1.6], [0, -2.2]]))
    close(residual(as_map(PIXELS), units, a), as_map(RESIDUALS))


def test_stage_1_logits() -> None:
    """G1, collapsed and plain."""
    logits = golden_head()(as_map(PIXELS))
    close(logits, as_map(LOGITS))
    assert logits[0, :, 0].argmax(dim=0).tolist() == [1, 1, 2]
    close(plain.stage_1_logits(as_map(PIXELS), exact(BASE), [*map(exact, W)]), as_map(LOGITS))


def test_stage_2_logits_and_gradients() -> None:
    """G2: base and novel prototypes that are not orthogonal."""
    head = golden_head(NOVEL)
    plus, minus = two_slopes(head.classifier_n, unit_prototypes(head.novel_emb))
    assert (plus.item(), minus.item()) == pytest.approx((-1, 2))
    units = unit_prototypes(head.novel_emb)
    a = projections(as_map(PIXELS), units)
    close(a, as_map([[3], [2], [1]]))
    close(residual(head.base_part(as_map(PIXELS)).rest, units, a), as_map(RESIDUALS_2))
    logits = head(as_map(PIXELS))
    close(logits, as_map(LOGITS_2))
    logits.sum().backward()
    assert head.novel_emb.grad is not None
    close(head.novel_emb.grad, exact([[-3.2, 0.2, 0]]))
    close(head.classifier_n.get_parameter("4.weight").grad.flatten(), exact([0, 8.32, 6]))  # type: ignore[union-attr]


def test_plain_stage_2_logits_and_gradients() -> None:
    """G2."""
    novel = exact(NOVEL).requires_grad_()
    g = [exact(weight).requires_grad_() for weight in V]
    logits = plain.stage_2_logits(as_map(PIXELS), exact(BASE), novel, [*map(exact, W)], g)
    close(logits, as_map(LOGITS_2))
    slopes = torch.autograd.grad(logits.sum(), [novel, g[2]])
    close(slopes[0], exact([[-3.2, 0.2, 0]]))
    close(slopes[1], exact([[0, 8.32, 6]]))


# G3 and G4
PROTOTYPES = [[3, 4, 0], [0, 0, 2], [1, 0, 0]]
SMALL = [[[0, 1], [2, 3]], [[1, 1], [1, 1]], [[2, 0], [0, -2]]]
LARGE = [[[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]], [[1] * 3] * 3, [[2, 1, 0], [1, 0, -1], [0, -1, -2]]]
TARGET = [[0, 1, 255], [2, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("version", [orthogonality, plain.orthogonality])
def test_base_orthogonality(version) -> None:  # type: ignore[no-untyped-def]
    """G3."""
    assert version(exact(PROTOTYPES)).item() == pytest.approx(0.2, abs=1e-13)


@pytest.mark.parametrize("version", [novel_orthogonality, plain.novel_orthogonality])
def test_novel_orthogonality(version) -> None:  # type: ignore[no-untyped-def]
    """G3: seven terms, and none of them moves the base prototypes."""
    base, novel = exact(PROTOTYPES).requires_grad_(), exact([[0, 5, 0], [1, 0, 1]]).requires_grad_()
    loss = version(novel, base)
    assert loss.item() == pytest.approx(0.37692537586929, abs=1e-13)
    loss.backward()
    assert base.grad is None
    assert novel.grad is not None


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_segmentation_loss(dtype: torch.dtype) -> None:
    """G4: upsampled, tiled, plain, and as the other systems compute it."""
    logits, labels = exact([SMALL]), torch.tensor([TARGET], dtype=dtype)
    close(plain.upsample(logits, 3, 3), exact([LARGE]))
    weights = resize_weights(2, 3, align_corners=True, like=logits)
    close(torch.einsum("yh,bchw,xw->bcyx", weights, logits, weights), exact([LARGE]))
    found = upsampled_cross_entropy(logits, labels, align_corners=True)
    assert found.item() == pytest.approx(0.897954301321, abs=1e-12)
    assert plain.cross_entropy(exact([LARGE]), labels).item() == pytest.approx(0.897954301321, abs=1e-12)
    large = F.interpolate(logits, size=(3, 3), mode="bilinear", align_corners=True)
    assert pixel_cross_entropy(large, labels).item() == pytest.approx(0.897954301321, rel=1e-6)
    total = found + 10 * orthogonality(exact(PROTOTYPES))
    assert total.item() == pytest.approx(2.897954301321, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize("version", [pseudo_labels, plain.pseudo_labels])
def test_pseudo_labels(version, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    """G5."""
    logits = exact([[[[2, 0], [0, 0]], [[0, 3], [0, -1]], [[0, 0], [1, 4]]]])
    mask = torch.tensor([[[0, 2, 0], [0, 0, 255], [3, 0, 0]]], dtype=dtype)
    best = plain.upsample(logits, 3, 3).argmax(dim=1)
    assert best[0].tolist() == [[0, 1, 1], [0, 2, 2], [2, 2, 2]]
    found = version(logits, mask, 3)
    assert found.dtype == dtype
    assert found[0].tolist() == [[0, 2, 4], [0, 5, 255], [3, 5, 5]]
    assert mask[0].tolist() == [[0, 2, 0], [0, 0, 255], [3, 0, 0]]


# G6
STEP_LOGITS = [
    [[2.76, 3, 2.16, -3, 0], [3.56, 1, 0.96, -2, 0]],
    [[-1.6, 0, 5.28, -1, 0], [0, 6, 0.24, 2, 0]],
]
STEP_SLOPES = (
    [[0.5666629988, 0.9268075616, 0], [0.1807818258, -0.1807818258, 1.0911136242]],
    [[0, -0.3103985133, -0.9721032908]],
)


def test_stage_2_step() -> None:
    """G6."""
    head = golden_head([[0, 0, 5], [1, 1, 0]])
    head.freeze_base()
    features = torch.cat([as_map(PIXELS[:2]), as_map([PIXELS[2], [2, 2, -1]])])
    logits = head(features)
    close(logits, torch.cat([as_map(rows) for rows in STEP_LOGITS]))
    shown = torch.cat([logits[1:, :1], logits[1:, 3:]], dim=1)
    base_labels = pseudo_labels(shown, torch.zeros(1, 1, 2, dtype=torch.uint8), 2)
    assert base_labels.tolist() == [[[4, 3]]]
    labels = torch.cat([torch.tensor([[[3, 255]]], dtype=torch.uint8), base_labels])
    entropy = upsampled_cross_entropy(logits, labels, align_corners=True)
    overlap = novel_orthogonality(head.novel_emb, head.base_emb)
    loss = entropy + 10 * overlap
    values = (entropy.item(), overlap.item(), loss.item())
    assert values == pytest.approx((5.3797095499, 0.3862741700, 9.2424512497), abs=5e-11)
    loss.backward()
    assert head.base_emb.grad is None
    close(head.novel_emb.grad, exact(STEP_SLOPES[0]), 5e-11)  # type: ignore[arg-type]
    slope = head.classifier_n.get_parameter("4.weight").grad
    close(slope[:, :, 0, 0], exact(STEP_SLOPES[1]), 5e-11)  # type: ignore[index]


def test_loss_of_the_stage() -> None:
    """G6, as stage 2 computes it from a batch of one pair, in float32."""
    head = golden_head([[0, 0, 5], [1, 1, 0]])
    head.freeze_base()
    features = torch.stack([as_map(PIXELS[:2]), as_map([PIXELS[2], [2, 2, -1]])], dim=1)
    labels = torch.tensor([[[[3, 255]], [[0, 0]]]], dtype=torch.uint8)
    model = OnFrozen(head=head, encoder=None)
    terms = update_loss(head, NovelUpdate())(model, {"features": features, "labels": labels}, 0)
    assert terms["cross_entropy"].item() == pytest.approx(5.3797095499, rel=1e-6)
    assert terms["orthogonality"].item() == pytest.approx(0.3862741700, rel=1e-6)
    assert terms["loss"].item() == pytest.approx(9.2424512497, rel=1e-6)
    terms["loss"].backward()
    close(head.novel_emb.grad, exact(STEP_SLOPES[0]), 1e-6)  # type: ignore[arg-type]


def test_plain_stage_2_step() -> None:
    """G6."""
    novel = exact([[0, 0, 5], [1, 1, 0]]).requires_grad_()
    g = [exact(weight).requires_grad_() for weight in V]
    step = plain.stage_2_step(
        as_map(PIXELS[:2]),
        torch.tensor([[[3, 255]]]),
        as_map([PIXELS[2], [2, 2, -1]]),
        torch.tensor([[[0, 0]]]),
        base=exact(BASE),
        novel=novel,
        f=[*map(exact, W)],
        g=g,
    )
    close(step.logits, torch.cat([as_map(rows) for rows in STEP_LOGITS]))
    assert step.base_labels.tolist() == [[[4, 3]]]
    values = (step.entropy.item(), step.overlap.item(), step.loss.item())
    assert values == pytest.approx((5.3797095499, 0.3862741700, 9.2424512497), abs=5e-11)
    for found, expected in zip(torch.autograd.grad(step.loss, [novel, g[2]]), STEP_SLOPES, strict=True):
        close(found, exact(expected), 5e-11)


def test_metrics() -> None:
    """G7, in both families."""
    truth = np.array([[0, 0, 1, 1, 255], [2, 2, 3, 3, 255], [3, 0, 0, 1, 255]], dtype=np.uint8)
    prediction = np.array([[0, 1, 1, 1, 0], [2, 0, 3, 1, 4], [3, 0, 0, 1, 3]], dtype=np.uint8)
    confusion = Confusion(5)
    confusion.add(truth, prediction)
    rows = [[3, 1, 0, 0, 0], [0, 3, 0, 0, 0], [1, 0, 1, 0, 0], [0, 1, 0, 2, 0], [0, 0, 0, 0, 0]]
    assert confusion.matrix[:5, :5].tolist() == rows
    np.testing.assert_allclose(confusion.iou(), [0.6, 0.6, 0.5, 2 / 3, np.nan])
    found = both_families(confusion, base=2, novel=2)
    expected = {"all": 0.591667, "base": 0.566667, "novel": 0.666667, "harmonic": 0.612613}
    assert found["pop"] == pytest.approx(expected, abs=5e-7)
    assert found["diam"]["base"] == pytest.approx(0.55)
    assert found["diam"]["novel"] == pytest.approx(2 / 3)
    assert found["diam"]["all"] == pytest.approx((0.55 + 2 / 3) / 2)
    assert found["diam"]["harmonic"] == pytest.approx(2 * 0.55 * (2 / 3) / (0.55 + 2 / 3))


# 4.2: base, novel, total, harmonic in percent; Kb, Kn
RELEASED = [
    ((73.86, 33.90, 64.35, 46.47), (15, 5)),
    ((73.77, 37.71, 65.18, 49.91), (15, 5)),
    ((74.83, 55.34, 70.19, 63.63), (15, 5)),
    ((75.14, 60.87, 71.74, 67.26), (15, 5)),
    ((54.31, 24.61, 46.97, 33.87), (60, 20)),
    ((54.57, 38.76, 50.67, 45.33), (60, 20)),
]


@pytest.mark.parametrize(("row", "classes"), RELEASED)
def test_total_identity(row: tuple[float, ...], classes: tuple[int, int]) -> None:
    """G7: rows of 4.2, from confusion matrices whose base and novel classes have these IoU each."""
    base, novel, total, harmonic = row
    kb, kn = classes
    matrix = np.zeros((2 + kb + kn, 2 + kb + kn), dtype=np.int64)
    for index in range(1 + kb + kn):  # the rest of a class's pixels is predicted out of range
        hits = round(100 * (base if index <= kb else novel))
        matrix[index, index], matrix[index, -1] = hits, 10000 - hits
    found = both_families(Confusion(1 + kb + kn, matrix), base=kb, novel=kn)["pop"]
    assert (100 * found["base"], 100 * found["novel"]) == pytest.approx((base, novel))
    assert 100 * found["all"] == pytest.approx(total, abs=0.0101)
    assert 100 * found["harmonic"] == pytest.approx(harmonic, abs=0.0101)


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((375, 500), (355, 473)),
        ((500, 333), (473, 315)),
        ((480, 640), (355, 473)),
        ((427, 640), (316, 473)),
        ((281, 500), (266, 473)),
    ],
)
def test_geometry_of_test_images(size: tuple[int, int], resized: tuple[int, int]) -> None:
    """G8."""
    assert geometry.test_size(*size, 473) == resized
    assert geometry.canvas_side(*size) == max(size)


def test_geometry_of_training_images() -> None:
    """G8."""
    assert geometry.scaled_size(375, 500, 0.9) == (338, 450)
    assert geometry.scaled_size(375, 500, 1.1) == (413, 550)
