"""Windows, decisions and attention against the same in plain steps (larvseg.md 2.5, 2.9)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anyshot.data.transforms import normalise, resize_image
from anyshot.errors import ConfigError
from anyshot.larvseg import inference
from anyshot.larvseg.attention_loss import (
    AttentionRule,
    attention_directions,
    attention_maps,
    attention_scores,
)
from anyshot.larvseg.head import ActiveClasses
from anyshot.larvseg.inference import Classifier, attention, see, window_spans
from anyshot.larvseg.losses import Pairs
from anyshot.larvseg.networks import LarvSegNet
from anyshot.larvseg.options import View
from anyshot.larvseg.segments import best_classes, segment_rows, segments_of
from anyshot.larvseg.shown import shown_attention
from anyshot.larvseg.vocabulary import Member, Vocabulary
from anyshot.ops.class_argmax import TopClasses
from tests.larvseg.small_networks import MEAN, READING, ROWS, STD, WHOLE, WINDOWS, picture, small_network

ACTIVE = ActiveClasses(rows=torch.tensor([7, 0, 3, 8, 2]), counts=torch.tensor([1, 3, 1, 2, 1]))


def plain_logits(model: LarvSegNet, image: np.ndarray, view: View, active: ActiveClasses) -> Tensor:
    """Mean logits (N, h, w) of all windows at the resized image, step by step."""
    factor = min(view.short_side / min(image.shape[:2]), view.long_side / max(image.shape[:2]))
    height, width = (int(side * factor + 0.5) for side in image.shape[:2])
    pixels = normalise(resize_image(image, height, width), mean=MEAN, std=STD)
    total = torch.zeros(len(active), height, width)
    count = torch.zeros(height, width)
    for top, bottom in starts_and_stops(height, view):
        for left, right in starts_and_stops(width, view):
            part = pixels[:, top:bottom, left:right]
            part = F.pad(part, (0, -part.shape[2] % 4, 0, -part.shape[1] % 4))[None]
            logits = model.head(model.tokens(part), active)
            whole = F.interpolate(logits, size=part.shape[2:], mode="bilinear", align_corners=False)[0]
            total[:, top:bottom, left:right] += whole[:, : bottom - top, : right - left]
            count[top:bottom, left:right] += 1
    return total / count


def starts_and_stops(length: int, view: View) -> list[tuple[int, int]]:
    if view.window is None or length <= view.window:
        return [(0, length)]
    starts = range(0, length - view.window + view.window_stride, view.window_stride)
    return [(min(start, length - view.window), min(start + view.window, length)) for start in starts]


def margin_of(logits: Tensor, labels: np.ndarray) -> float:
    """How far a chosen class's logit lies below the best at most."""
    chosen = logits.gather(0, torch.from_numpy(labels).long()[None])[0]
    return float((logits.amax(dim=0) - chosen).max())


@pytest.mark.parametrize("view", [WHOLE, WINDOWS], ids=["whole", "windows"])
@pytest.mark.parametrize("size", [(37, 75), (75, 37), (24, 24), (20, 90)])
@torch.no_grad()
def test_labels_are_those_of_upsampled_mean_logits(view: View, size: tuple[int, int]) -> None:
    model, image = small_network(), picture(*size)
    classifier, seen = Classifier(model.head, ACTIVE), see(model, image, view=view, **READING)
    logits = plain_logits(model, image, view, ACTIVE)
    height, width = logits.shape[1:]
    assert (seen.pixels.height, seen.pixels.width) == (height, width)

    nearest = classifier.decide(seen, postprocess="label_nearest", memory_mib=8)
    rows = np.arange(size[0]) * height // size[0]
    columns = np.arange(size[1]) * width // size[1]
    assert margin_of(logits[:, rows][:, :, columns], nearest) < 1e-4
    bilinear = classifier.decide(seen, postprocess="logit_bilinear", memory_mib=8)
    resized = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    assert margin_of(resized, bilinear) < 1e-4
    assert nearest.shape == bilinear.shape == size
    assert len(np.unique(nearest)) >= 3, "the network says the same everywhere: nothing is tested"


@torch.no_grad()
def test_size_of_the_view() -> None:
    found = see(small_network(), picture(37, 75), view=WHOLE, **READING)
    assert (found.pixels.height, found.pixels.width) == (24, 49)  # int(75 * 24 / 37 + 0.5)
    assert found.maps[0].shape == (6, 6, 13)  # 49 px are padded to 52
    thin = see(small_network(), picture(10, 90), view=WHOLE, **READING)
    assert (thin.pixels.height, thin.pixels.width) == (11, 96)  # the longer side decides


@torch.no_grad()
def test_tokens_are_the_heads_own_argmax_features() -> None:
    model = small_network()
    seen = see(model, picture(37, 75), view=WINDOWS, **READING)
    parts = [model.head.argmax_features(one[None], ACTIVE)[0].flatten(1).T for one in seen.maps]
    torch.testing.assert_close(Classifier(model.head, ACTIVE).tokens(seen), torch.cat(parts))
    assert len(parts) > 1


@torch.no_grad()
def test_a_negative_scale_turns_the_order_round() -> None:
    image = picture(37, 75)
    model = small_network(scale=-0.8)
    seen = see(model, image, view=WHOLE, **READING)
    labels = Classifier(model.head, ACTIVE).decide(seen, postprocess="logit_bilinear", memory_mib=8)
    logits = plain_logits(model, image, WHOLE, ACTIVE)
    resized = F.interpolate(logits[None], size=image.shape[:2], mode="bilinear", align_corners=False)[0]
    assert margin_of(resized, labels) < 1e-4
    positive = Classifier(small_network(scale=0.8).head, ACTIVE)
    assert not np.array_equal(labels, positive.decide(seen, postprocess="logit_bilinear", memory_mib=8))


@torch.no_grad()
def test_memory_changes_nothing_and_too_little_is_said() -> None:
    model = small_network()
    classifier = Classifier(model.head, ACTIVE)
    seen = see(model, picture(120, 160), view=WHOLE, **READING)
    plenty, little = (
        classifier.decide(seen, postprocess="logit_bilinear", memory_mib=mib) for mib in (64, 0.4)
    )
    assert np.array_equal(plenty, little)
    with pytest.raises(ConfigError, match=r"decided among 5 classes within memory_mib 0\.001"):
        classifier.decide(seen, postprocess="logit_bilinear", memory_mib=0.001)


@torch.no_grad()
def test_probabilities_are_the_softmax_of_the_logits() -> None:
    model, image = small_network(), picture(37, 75)
    found = Classifier(model.head, ACTIVE).probabilities(see(model, image, view=WINDOWS, **READING))
    expected = plain_logits(model, image, WINDOWS, ACTIVE).softmax(dim=0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_windows_that_leave_gaps_are_refused() -> None:
    assert window_spans(50, WINDOWS) == [(0, 32), (18, 50)]
    assert window_spans(50, WHOLE) == [(0, 50)]
    with pytest.raises(ConfigError, match="`window_stride` 40 px is more than `window` 32 px"):
        window_spans(50, View(window=32, window_stride=40))


def in_training(
    model: LarvSegNet, features: Tensor, classifier: Classifier, labels: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Attention maps as the loss has them, at token resolution; the bank is left as it was."""
    assert model.bank is not None
    before = {name: value.clone() for name, value in model.bank.state_dict().items()}
    pairs = Pairs.of([labels], classes=len(ACTIVE))
    units = model.head.units(features[None])
    grid = (features.shape[1], features.shape[2])
    vectors, warm = attention_directions(
        model.bank,
        units=units,
        class_units=classifier.class_units,
        rows=ACTIVE.rows,
        pairs=pairs,
        rule=AttentionRule(order="two_phase"),
    )
    model.bank.load_state_dict(before)
    return attention_maps(attention_scores(units, vectors, pairs), grid=grid, size=grid), warm


@pytest.mark.parametrize("labels", [[1], [0, 2], [0, 1, 4]])
@torch.no_grad()
def test_attention_is_that_of_the_loss(labels: list[int]) -> None:
    model = small_network(bank=True)
    assert model.bank is not None
    model.bank.wraps[ACTIVE.rows[1]] = 2
    classifier = Classifier(model.head, ACTIVE)
    features = see(model, picture(37, 75), view=WHOLE, **READING).maps[0]
    expected, warm = in_training(model, features, classifier, labels)
    found = attention(model.bank, classifier, features, rows=ACTIVE.rows, labels=labels, present=labels)
    torch.testing.assert_close(found.maps, expected, atol=1e-5, rtol=0)
    assert found.warm.tolist() == warm.tolist() == [label == 1 for label in labels]
    assert found.maps.std() > 0.05


@torch.no_grad()
def test_shown_attention_has_a_map_per_class_of_the_truth() -> None:
    model, image = small_network(bank=True), picture(37, 75)
    classifier = Classifier(model.head, ActiveClasses(rows=torch.tensor([7, 0, 3])))
    member = Member("target", (7, 0, 7, 3))  # classes 0 and 2 share a row
    truth = np.full((37, 75), -1)
    truth[:5], truth[5:20], truth[20:30] = 0, 3, 2
    found = shown_attention(model, classifier, image, truth, member=member, view=WINDOWS, **READING)
    assert found["labels"].tolist() == [3, 2]
    assert found["attention"].shape == (2, 6, 13)
    assert found["attention"].dtype == np.float16
    assert found["warm"].tolist() == [False, False]
    assert 0 <= found["attention"].min() < 0.5 < found["attention"].max() <= 1
    without = small_network()
    nothing = shown_attention(without, classifier, image, truth, member=member, view=WINDOWS, **READING)
    assert len(nothing["attention"]) == len(nothing["labels"]) == len(nothing["warm"]) == 0


def test_segments_by_hand() -> None:
    """Four pixels, three classes; per pixel the best two: class and probability."""
    classes = torch.tensor([[[0, 0], [0, 2]], [[2, 1], [2, 0]]], dtype=torch.int32)
    probabilities = torch.tensor([[[0.6, 0.5], [0.7, 0.8]], [[0.2, 0.4], [0.1, 0.15]]])
    top = TopClasses(classes, probabilities.log(), torch.zeros(2, 2))
    first, second = segments_of(top, best=2)
    assert (first.position, first.share) == (0, 0.75)
    assert [position for position, _ in first.best] == [0, 1]
    assert [score for _, score in first.best] == pytest.approx([(0.6 + 0.5 + 0.7) / 3, 0.4 / 3])
    assert (second.position, second.share) == (2, 0.25)
    assert dict(second.best) == pytest.approx({2: 0.8, 0: 0.15})
    vocabulary = Vocabulary(("a", "b", "n9"), ("a", "b", "cat"), ((), (), ()))
    lines = segment_rows("img", [second], rows=[1, 0, 2], vocabulary=vocabulary)
    assert lines == [
        ("img", 2, "0.250000", 1, 2, "n9", "cat", "0.800000"),
        ("img", 2, "0.250000", 2, 1, "b", "b", "0.150000"),
    ]


@torch.no_grad()
def test_segments_of_an_image_add_up() -> None:
    model, image = small_network(scale=4.0), picture(37, 75)
    classifier = Classifier(model.head, ActiveClasses(rows=torch.arange(ROWS)))
    seen = see(model, image, view=WHOLE, **READING)
    top = best_classes(classifier, seen, best=ROWS, memory_mib=8)
    found = segments_of(top, best=ROWS)
    labels = classifier.decide(
        inference.Seen(maps=seen.maps, pixels=seen.pixels, height=24, width=49),
        postprocess="label_nearest",
        memory_mib=8,
    )
    everything = classifier.probabilities(seen).numpy()
    assert sum(segment.share for segment in found) == pytest.approx(1)
    for segment in found:
        own = labels == segment.position
        assert segment.share == pytest.approx(own.mean())
        assert dict(segment.best) == pytest.approx(
            {n: float(value) for n, value in enumerate(everything[:, own].mean(axis=1))}, abs=1e-5
        )
    with pytest.raises(ConfigError, match="within memory_mib"):
        best_classes(classifier, seen, best=2, memory_mib=0.0001)
