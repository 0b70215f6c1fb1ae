"""What stage 2 trains and with which loss, by method, and the baseline of averaged features (pop.md 2.4)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from anyshot.errors import ArtifactError
from anyshot.nets.contract import IMAGENET_MEAN, IMAGENET_STD
from anyshot.pop.datasets import WholeImages
from anyshot.pop.head import PrototypeHead
from anyshot.pop.heads import CosineHead, OnFrozen
from anyshot.pop.inference import decide, probabilities
from anyshot.pop.options import Method, NovelOptimiser, NovelUpdate
from anyshot.pop.update import averaged_head, class_means, trained_head, update_groups, update_loss
from tests.pop.pop_models import fold_tables
from tests.pop.test_golden import PIXELS, STEP_LOGITS, as_map, close, exact, golden_head

ENTROPY, OVERLAP, LOSS = 5.3797095499, 0.3862741700, 9.2424512497  # G6
TABLES = fold_tables()  # base cat, dog, tree: 1 to 3; novel bus (id 4) and car (id 9): 4 and 5


def step(head: PrototypeHead, options: NovelUpdate) -> dict[str, float]:
    """The loss of G6's batch: one pair of images of two pixels."""
    features = torch.stack([as_map(PIXELS[:2]), as_map([PIXELS[2], [2, 2, -1]])], dim=1)
    labels = torch.tensor([[[[3, 255]], [[0, 0]]]], dtype=torch.uint8)
    model = OnFrozen(head=head, encoder=None)
    terms = update_loss(head, options)(model, {"features": features, "labels": labels}, 0)
    return {name: value.item() for name, value in terms.items()}


def entropy_of(labels: tuple[int, int, int]) -> float:
    """Mean cross entropy of G6's logits for the three pixels that count."""
    logits = (STEP_LOGITS[0][0], *STEP_LOGITS[1])
    costs = [
        math.log(sum(map(math.exp, row))) - row[label] for row, label in zip(logits, labels, strict=True)
    ]
    return sum(costs) / 3


def test_losses_by_method() -> None:
    head = golden_head([[0, 0, 5], [1, 1, 0]])
    relabelled, given = entropy_of((3, 4, 3)), entropy_of((3, 0, 0))
    assert relabelled == pytest.approx(ENTROPY, abs=5e-11)
    assert abs(given - relabelled) > 0.1
    expected: list[tuple[NovelUpdate, float, float]] = [
        (NovelUpdate(), ENTROPY, LOSS),
        (NovelUpdate(orthogonality_weight=1), ENTROPY, ENTROPY + OVERLAP),
        (NovelUpdate(method="no_residual"), ENTROPY, LOSS),  # it differs in its head alone
        (NovelUpdate(method="no_orthogonality"), ENTROPY, ENTROPY),
        (NovelUpdate(pseudo_labels=False), given, given + 10 * OVERLAP),
        (NovelUpdate(method="no_orthogonality", pseudo_labels=False), given, given),
        (NovelUpdate(method="finetune"), given, given),
    ]
    for options, entropy, loss in expected:
        found = step(head, options)
        assert found == pytest.approx(
            {"loss": loss, "cross_entropy": entropy, "orthogonality": OVERLAP}, rel=1e-7
        ), options


METHODS: tuple[Method, ...] = ("pop", "finetune", "no_orthogonality", "no_residual")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained(method: Method) -> None:
    base = PrototypeHead(channels=8, base=3)
    head = trained_head(base, TABLES, NovelUpdate(method=method))
    trained = {name.split(".")[0] for name, value in head.named_parameters() if value.requires_grad}
    frozen = {name.split(".")[0] for name, value in head.named_parameters() if not value.requires_grad}
    if method == "finetune":
        assert (trained, frozen) == ({"base_emb", "classifier", "novel_emb", "classifier_n"}, set())
    else:
        assert (trained, frozen) == ({"novel_emb", "classifier_n"}, {"base_emb", "classifier"})
    assert head.novel_emb.shape == (2, 8)
    assert torch.equal(head.base_emb, base.base_emb)
    assert base.base_emb.requires_grad


def test_novel_prototypes_have_a_rate_of_their_own() -> None:
    head = trained_head(PrototypeHead(channels=8, base=3), TABLES, NovelUpdate())
    first, second = update_groups(head, NovelOptimiser(head_multiplier=7))
    assert (first["params"], first["scale"]) == ([head.novel_emb], 7)
    assert list(map(id, second["params"])) == list(map(id, head.classifier_n.parameters()))
    head = trained_head(PrototypeHead(channels=8, base=3), TABLES, NovelUpdate(method="finetune"))
    _, second = update_groups(head, NovelOptimiser())
    assert len(second["params"]) == len(list(head.parameters())) - 1


def test_without_residual_the_background_is_classified_by_the_feature() -> None:
    """g is f at the start: of the pixels (1, 2, 3), (-1, 0, 2), (0, -5, 1) it makes 1, 1 and 0."""
    torch.manual_seed(0)
    heads = {
        method: trained_head(golden_head(), TABLES, NovelUpdate(method=method))
        for method in ("pop", "no_residual")
    }
    heads["no_residual"].novel_emb.data.copy_(heads["pop"].novel_emb.data)
    logits = {method: head(as_map(PIXELS)) for method, head in heads.items()}
    close(logits["no_residual"][:, 0], exact([[[1, 1, 0]]]))
    close(logits["no_residual"][:, 1:], logits["pop"][:, 1:])
    assert (logits["pop"][:, 0] - exact([[[1, 1, 0]]])).abs().max() > 0.1


FEATURES = {
    "s": [[(3, 4), (0, 2)], [(1, 0), (7, 7)]],
    "t": [[(9, 0), (0, 1)], [(0, 1), (0, 1)]],
    "b": [[(2, 0), (0, 3)], [(4, 0), (50, 1)]],
}
MASKS = {  # ids: 0 background, 3 cat, 4 bus, 9 car
    "s": [[4, 4, 4, 0], [4, 4, 0, 4], [3, 3, 255, 9], [3, 3, 9, 9]],
    "t": [[4, 4, 9, 9], [4, 4, 9, 9], [0, 0, 0, 0], [0, 0, 0, 0]],
    "b": [[3, 3, 0, 0], [3, 3, 0, 0], [4, 4, 255, 255], [4, 4, 255, 255]],
}
SUPPORTS = {4: ["s", "t"], 9: ["t"]}


class Given(WholeImages):
    """Images of 4 x 4 px whose features (2, 2, 2) are known."""

    def __init__(self, features: dict[str, list[list[tuple[int, int]]]]) -> None:
        super().__init__(
            samples={}, tables=TABLES, store=None, encode=lambda square: square, size=4, mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )  # fmt: skip
        self.given = features

    def features(self, sample_id: str) -> Tensor:
        return torch.tensor(self.given[sample_id], dtype=torch.float32).permute(2, 0, 1)

    def labels(self, sample_id: str, *, novel: bool) -> np.ndarray:
        return self.tables.labels(np.array(MASKS[sample_id], np.uint8), novel=novel)


def test_class_means() -> None:
    """A cell counts by its share of the class's pixels: (3, 4) + 1/2 (0, 2) = (3, 5) for the bus of `s`."""
    images = Given(FEATURES)
    found = class_means(images.features("s"), images.labels("s", novel=True), [1, 2, 4])
    assert set(found) == {1, 4}
    torch.testing.assert_close(found[4], torch.tensor([3, 5]) / math.sqrt(34))
    torch.testing.assert_close(found[1], torch.tensor([1.0, 0.0]))
    assert class_means(images.features("s"), images.labels("s", novel=True), [2, 3]) == {}


def averaged(features: dict[str, list[list[tuple[int, int]]]] = FEATURES) -> CosineHead:
    return averaged_head(Given(features), supports=SUPPORTS, base_images=["b"], temperature=10)


def test_averaged_prototypes() -> None:
    """Mean over images of unit means; the bus of the base image is background there, (0, 3) + (4, 0)."""
    bus = [(3 / math.sqrt(34) + 1) / 2, 5 / math.sqrt(34) / 2]
    expected = torch.tensor([[0.8, 0.6], [1, 0], [0, 0], [0, 0], bus, [0, 1]])
    torch.testing.assert_close(averaged().prototypes, expected)
    damaged = {**FEATURES, "b": [[(math.nan, 0), (0, 3)], [(4, 0), (50, 1)]]}
    with pytest.raises(ArtifactError, match="a prototype has values that are no numbers"):
        averaged(damaged)  # type: ignore[arg-type]


def test_logits_of_averages_are_cosines_times_the_temperature() -> None:
    logits = averaged()(torch.tensor([3.0, 4.0])[None, :, None, None]).flatten()
    bus = averaged().prototypes[4]
    cosine = (0.6 * bus[0] + 0.8 * bus[1]) / bus.norm()
    torch.testing.assert_close(logits[[0, 1, 4, 5]], torch.tensor([9.6, 6, 10 * cosine, 8]))


def test_a_class_without_prototype_is_never_found() -> None:
    """Even where every cosine is negative; upsampled logits stay finite."""
    head = averaged()
    features = -torch.tensor([[1.0, 1], [1, 3], [2, 1], [5, 1]]).T.reshape(1, 2, 2, 2)
    logits = head(features)[0]
    present = logits[[0, 1, 4, 5]]
    assert (present < 0).all()
    assert (logits[[2, 3]] < present.min() - 1000).all()
    assert np.isin(decide(logits, 7, 9), (0, 1, 4, 5)).all()
    shares = probabilities(logits, 7, 9)
    assert np.isfinite(shares).all()
    assert (shares[[2, 3]] == 0).all()
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-5)
