"""The cosine classifier and class sampling of LarvSeg (larvseg.md 2.2, 2.6)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from anyshot.errors import ConfigError, DataError
from anyshot.larvseg.head import ActiveClasses, CosineHead, reindexed
from anyshot.larvseg.losses import (
    mean_pooling,
    pixel_loss,
)
from tests.larvseg.small_heads import (
    CLASSES,
    GRID,
    ROWS,
    SIZE,
    WIDTH,
    fresh,
    gradients,
    images,
    pooled_logits,
    same,
)


def test_fresh_weights() -> None:
    """larvseg.md 2.2: N(0, 1 / D), table 0.02, scale 1, shift 0."""
    torch.manual_seed(0)
    head = CosineHead(width=64, classes=500)
    assert float(head.feature_projection.detach().std()) == pytest.approx(1 / 8, rel=0.05)
    assert float(head.class_projection.detach().std()) == pytest.approx(1 / 8, rel=0.05)
    assert float(head.table.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert (head.scale.tolist(), head.shift.tolist()) == (1, 0)


def test_frozen_class_vectors() -> None:
    """They are kept with the weights and not trained; the projection of the classes is."""
    frozen = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(1))
    head = CosineHead(width=WIDTH, classes=CLASSES, frozen=frozen)
    names = {"feature_projection", "class_projection", "scale", "shift"}
    assert {name for name, _ in head.named_parameters()} == names
    assert torch.equal(head.state_dict()["table"], frozen)
    active = ActiveClasses(rows=torch.tensor(ROWS))
    labels = torch.randint(0, len(ROWS), (1, *SIZE), generator=torch.Generator().manual_seed(4))
    pixel_loss(head(images(1).float(), active), labels).backward()
    assert head.class_projection.grad is not None
    assert head.class_projection.grad.any()


def test_the_head_computes_in_full_precision_under_autocast() -> None:
    head, active = fresh().float(), ActiveClasses(rows=torch.tensor(ROWS))
    plain_logits = head(images(1).float(), active)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pooled_logits(head, images(1).float(), active, compact=True)
        logits = head(images(1).float(), active)
        mean = pooled(mean_pooling(GRID, SIZE, images=1, like=logits))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, plain_logits)
    same(mean, logits.mean(dim=(2, 3)), 1e-5)


@pytest.mark.parametrize("scale", [1.3, -0.7])
def test_scaled_features_order_the_classes_as_the_upsampled_logits_do(scale: float) -> None:
    """G9 d."""
    head, features = fresh(), images(2)
    with torch.no_grad():
        head.scale.fill_(scale)
    active = ActiveClasses(rows=torch.tensor(ROWS), counts=torch.tensor([1, 5, 2, 1, 1, 3]))
    with torch.no_grad():
        logits = F.interpolate(head(features, active), SIZE, mode="bilinear", align_corners=False)
        maps = F.interpolate(
            head.argmax_features(features, active), SIZE, mode="bilinear", align_corners=False
        )
        products = torch.einsum("bdhw,nd->bnhw", maps, head.class_units(active))
    assert torch.equal((products if scale > 0 else -products).argmax(dim=1), logits.argmax(dim=1))


def test_one_active_class_and_a_constant_feature() -> None:
    """No variance over the classes: every logit is the shift, gradients are finite."""
    head = fresh()
    active = ActiveClasses(rows=torch.tensor([3]))
    for compact in (False, True):
        pooled = pooled_logits(head, torch.zeros(1, WIDTH, *GRID).double(), active, compact=compact)
        found = pooled(mean_pooling(GRID, SIZE, images=1, like=pooled.units))
        same(found, torch.full_like(found, 0.4))
        assert all(bool(grad.isfinite().all()) for grad in gradients(head, found.sum()).values())


def test_class_sampling() -> None:
    """100 names and the present ones, drawn anew by the generator, the same for the same seed."""
    active = ActiveClasses(rows=torch.arange(847) + 5)
    generator = torch.Generator().manual_seed(0)
    chosen, kept = active.sampled([3, 800], count=100, generator=generator)
    assert 100 <= len(chosen) <= 102
    assert {3, 800} <= set(kept.tolist())
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert torch.equal(chosen.rows, kept + 5)
    other, _ = active.sampled([3, 800], count=100, generator=generator)
    assert other.rows.tolist() != chosen.rows.tolist()
    again, _ = active.sampled([3, 800], count=100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.rows, chosen.rows)


def test_sampling_is_even() -> None:
    """Each of 8 classes in half of 400 draws of 4: within 5 standard deviations (10)."""
    active, generator = ActiveClasses(rows=torch.arange(8)), torch.Generator().manual_seed(0)
    hits = torch.zeros(8)
    for _ in range(400):
        hits[active.sampled([], count=4, generator=generator)[1]] += 1
    assert float((hits - 200).abs().max()) < 50
    assert float(hits.sum()) == 1600


def test_sampling_draws_names_that_share_a_row_one_by_one() -> None:
    """7 + 1 + 1 + 1 names, 9 drawn: one name is missing; a present class is never the missing one."""
    active = ActiveClasses(rows=torch.tensor([4, 1, 2, 3]), counts=torch.tensor([7, 1, 1, 1]))
    for seed in range(20):
        chosen, kept = active.sampled([1], count=9, generator=torch.Generator().manual_seed(seed))
        assert chosen.counts is not None
        assert int(chosen.counts.sum()) in (9, 10)
        assert 1 in kept
        assert chosen.counts[0] in (6, 7)
    same_again, kept = active.sampled([], count=10, generator=torch.Generator())
    assert same_again is active
    assert kept.tolist() == [0, 1, 2, 3]


def test_labels_among_the_sampled_classes() -> None:
    labels = torch.tensor([[2, 255, 7], [5, 2, 255]], dtype=torch.uint8)
    found = reindexed(labels, torch.tensor([2, 5, 7]), classes=9)
    assert found.tolist() == [[0, 255, 2], [1, 0, 255]]
    with pytest.raises(DataError, match=r"labels \[5\] are not among the 2 sampled"):
        reindexed(labels, torch.tensor([2, 7]), classes=9)
    with pytest.raises(DataError, match="labels 0 to 7 do not fit 6 classes"):
        reindexed(labels, torch.tensor([2, 5]), classes=6)


def test_bad_classes() -> None:
    with pytest.raises(DataError, match="row 9 of the class table, which has 9 rows"):
        fresh()(images(1), ActiveClasses(rows=torch.tensor([0, 9])))
    with pytest.raises(DataError, match="row -1"):
        ActiveClasses(rows=torch.tensor([0, -1]))
    with pytest.raises(DataError, match="N >= 1"):
        ActiveClasses(rows=torch.empty(0, dtype=torch.int64))
    for counts in ([1], [0, 1]):
        with pytest.raises(DataError, match="multiplicities"):
            ActiveClasses(rows=torch.tensor([0, 1]), counts=torch.tensor(counts))
    with pytest.raises(DataError, match="do not fit 2 active classes"):
        ActiveClasses(rows=torch.tensor([0, 1])).sampled([2], generator=torch.Generator())


def test_bad_frozen_vectors() -> None:
    with pytest.raises(ConfigError, match=r"\(9, 6\)"):
        CosineHead(width=WIDTH, classes=CLASSES, frozen=torch.ones(CLASSES, 5))
    with pytest.raises(ConfigError, match="no direction"):
        CosineHead(width=WIDTH, classes=CLASSES, frozen=torch.zeros(CLASSES, WIDTH))
