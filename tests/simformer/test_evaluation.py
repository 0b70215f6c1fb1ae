"""Scores and fused maps: golden case 6 of the specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anyshot.data.classes import ClassTable
from anyshot.errors import ConfigError
from anyshot.ops.metrics import Confusion, Roles
from anyshot.simformer.evaluation import accuracies, merged, scored_variants, weak_means
from anyshot.simformer.inference import View, fused_scores, segment
from anyshot.simformer.pseudo import pseudo_labels
from anyshot.simformer.tables import WeakTables

ROLES = Roles(base=(0, 1), novel=(2, 3))


def confusion(truth: list[int], prediction: list[int]) -> Confusion:
    found = Confusion(4)
    found.add(np.array(truth), np.array(prediction))
    return found


def test_means_and_accuracies_of_golden_case_6() -> None:
    found = confusion([0, 0, 1, 1, 2, 2, 3, 255, 255, 0], [0, 1, 1, 1, 2, 0, 2, 2, 3, 0])
    assert found.iou() == pytest.approx([0.5, 2 / 3, 1 / 3, 0])
    means = {key: 100 * value for key, value in weak_means(found, ROLES).items()}
    assert means == pytest.approx({"all": 37.5, "base": 58.333333, "novel": 16.666667, "harmonic": 25.925926})
    rates = {key: 100 * value for key, value in accuracies(found).items()}
    assert rates == pytest.approx(
        {"pixel_accuracy": 62.5, "mean_accuracy": 54.166667, "frequency_weighted_iou": 43.75}
    )


def test_a_class_that_is_only_predicted_counts_in_all_alone() -> None:
    found = confusion([0, 0, 1, 1, 2, 2, 2, 2], [0, 0, 1, 3, 2, 2, 2, 2])
    means = {key: 100 * value for key, value in weak_means(found, ROLES).items()}
    assert means == pytest.approx({"all": 62.5, "base": 75.0, "novel": 100.0, "harmonic": 600 / 7})


def test_shards_are_added_and_variants_listed() -> None:
    tables = WeakTables(ClassTable.of(["a", "b", "c", "d"]), (2, 3))
    part = confusion([0, 1, 2, 3], [0, 1, 2, 2]).matrix.tolist()
    parts = [{"variant": name, "matrix": part} for name in ("full", "oracle", "full")]
    entries = scored_variants(merged(parts), tables)
    assert [entry["variant"] for entry in entries] == ["full", "oracle"]
    assert [row["pixels"] for row in entries[0]["classes"]] == [2, 2, 2, 2]
    assert entries[0]["mean"]["novel"] == pytest.approx(0.25)
    assert entries[1]["accuracies"]["pixel_accuracy"] == pytest.approx(0.75)


def golden_view() -> View:
    """Golden case 6: three proposals, three classes, two pixels."""
    logits = torch.tensor([[3.0, 0, 0, 1], [0, 2, 1, 0], [0, 0, 2, 4]], dtype=torch.float64)
    masks = torch.tensor([[4.0, -4], [-1, 2], [3, 0.5]], dtype=torch.float64).sigmoid()
    return View(logits.softmax(dim=1)[:, :-1].float(), masks.float()[:, None])


def test_the_fused_map_of_golden_case_6() -> None:
    view = golden_view()
    scores = torch.einsum("qc,qhw->chw", view.classes, view.pixels)[:, 0]
    expected = torch.tensor([[0.832311, 0.097042], [0.218612, 0.548000], [0.209973, 0.270357]])
    assert torch.allclose(scores, expected, atol=1e-5)
    assert segment([view], 1, 2).tolist() == [[0, 1]]
    assert segment([view], 1, 2, allowed=[1, 2]).tolist() == [[1, 1]]


def test_the_map_does_not_depend_on_the_chunk_of_classes() -> None:
    rng = torch.Generator().manual_seed(0)
    views = [
        View(torch.rand(5, 7, generator=rng), torch.rand(5, 6, 8, generator=rng)),
        View(torch.rand(5, 7, generator=rng), torch.rand(5, 12, 16, generator=rng)),
    ]
    whole = segment(views, 13, 17, chunk=7)
    assert len(np.unique(whole)) > 2
    assert all(np.array_equal(segment(views, 13, 17, chunk=chunk), whole) for chunk in (1, 2, 3))


def test_classes_that_cannot_win_are_not_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 classes 3 are somewhere likely; the map is that of all 40."""
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 40, generator=rng)
    logits[:2, 5], logits[2:4, 17], logits[4:, 30] = 12, 12, 12
    masks = torch.full((6, 9, 12), 0.05)
    masks[:2, :, :4], masks[2:4, :, 4:8], masks[4:, :, 8:] = 0.9, 0.9, 0.9
    view = View(logits.softmax(dim=1), masks)
    asked = []

    def watched(found: list[View], height: int, width: int, indices: torch.Tensor) -> torch.Tensor:
        asked.extend(indices.tolist())
        return fused_scores(found, height, width, indices)

    monkeypatch.setattr("anyshot.simformer.inference.fused_scores", watched)
    expected = fused_scores([view], 36, 48, torch.arange(40)).argmax(dim=0)
    assert segment([view], 36, 48, chunk=4).tolist() == expected.tolist()
    assert len(asked) < 12


def test_a_pseudo_label_has_true_base_classes_and_the_image_s_novel_ones_only() -> None:
    prediction = np.array([[0, 2, 2, 3, 1]])
    base = np.array([[1, 1, 255, 255, 255]], dtype=np.uint8)
    assert pseudo_labels(prediction, base=base, novel=[2]).tolist() == [[1, 1, 2, 255, 255]]
    assert pseudo_labels(prediction, base=base, novel=[]).tolist() == [[1, 1, 255, 255, 255]]


def test_a_background_cannot_be_novel_and_a_base_class_must_be_left() -> None:
    table = ClassTable.of(["background", "a"])
    with pytest.raises(ConfigError, match="background class cannot be novel"):
        WeakTables.make(table, ["background"])
    with pytest.raises(ConfigError, match="leave base classes"):
        WeakTables.make(ClassTable.of(["a", "b"]), ["a", "b"])
