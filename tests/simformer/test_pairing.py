"""Partners of an image: golden case 8 of the specification, and what each way of drawing promises."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anyshot.engine.artifacts import write_json
from anyshot.errors import ArtifactError
from anyshot.simformer.options import PairMode
from anyshot.simformer.pairing import ImageLabels, Partners, read_image_labels

# novel | base classes of the images a to f
GOLDEN = {
    "a": ([5, 6], [0]), "b": ([5], [1]), "c": ([5, 6], [0, 2]), "d": ([6, 7], [3]), "e": ([], [0]),
    "f": ([7], [1]),
}  # fmt: skip
NAMES = "abcdef"
DECONFOUNDED = {
    "a": {5: "b", 6: "d"},
    "b": {5: "ac"},
    "c": {5: "b", 6: "d"},
    "d": {6: "ac", 7: "f"},
    "f": {7: "d"},
}


@pytest.fixture
def labels() -> ImageLabels:
    return ImageLabels.of((name, base, novel) for name, (novel, base) in GOLDEN.items())


def drawn(
    labels: ImageLabels, image: str, mode: PairMode, rare_share: float = 0.01, times: int = 200
) -> Counter[str]:
    partners, rng = Partners(labels, mode=mode, rare_share=rare_share), np.random.default_rng(0)
    return Counter(NAMES[partners.draw(NAMES.index(image), rng)] for _ in range(times))


def test_deconfounded_candidates_are_those_of_golden_case_8(labels: ImageLabels) -> None:
    for number, name in enumerate(NAMES):
        found = {
            index: "".join(NAMES[one] for one in labels.deconfounded(number, index)) for index in (5, 6, 7)
        }
        assert {index: ones for index, ones in found.items() if ones} == DECONFOUNDED.get(name, {})


def test_who_shares_a_class_of_golden_case_8(labels: ImageLabels) -> None:
    base = {(NAMES[i], NAMES[j]) for i in range(6) for j in labels.sharing(i, "base") if i < j}
    assert base == {("a", "c"), ("a", "e"), ("c", "e"), ("b", "f")}
    both = [(i, j) for i in range(6) for j in range(i) if (labels.novel[i] & labels.novel[j]).bit_count() > 1]
    assert both == [(2, 0)]  # a and c alone share two novel classes


def test_an_image_with_one_novel_class_uses_its_candidates_but_not_as_released(labels: ImageLabels) -> None:
    assert set(drawn(labels, "b", "deconfounded")) == {"a", "c"}
    assert set(drawn(labels, "f", "deconfounded")) == {"d"}
    assert set(drawn(labels, "b", "released")) == {"f"}
    assert set(drawn(labels, "f", "released")) == {"b"}


def test_the_shared_class_is_drawn_evenly_or_the_rarest(labels: ImageLabels) -> None:
    even = drawn(labels, "a", "deconfounded", rare_share=0.0, times=2000)
    assert set(even) == {"b", "d"}
    assert abs(even["b"] - 1000) < 120  # six standard deviations are 134
    assert set(drawn(labels, "d", "deconfounded", rare_share=1.0)) == {
        "f"
    }  # class 7: one candidate, class 6: two


def test_an_image_without_novel_class_is_paired_by_a_base_class_or_with_itself(labels: ImageLabels) -> None:
    assert set(drawn(labels, "e", "deconfounded")) == {"a", "c"}
    alone = ImageLabels.of([("a", [0], [1]), ("b", [2], [3])])
    modes: tuple[PairMode, ...] = ("deconfounded", "released", "base", "novel")
    assert all(set(drawn(alone, "a", mode)) == {"a"} for mode in modes)
    assert set(drawn(ImageLabels.of([("a", [0], [])]), "a", "random")) == {"a"}


def test_the_other_modes(labels: ImageLabels) -> None:
    assert set(drawn(labels, "c", "base")) == {"a", "e"}
    assert set(drawn(labels, "d", "novel")) == {"a", "c", "f"}
    assert set(drawn(labels, "d", "random")) == set(NAMES)


def test_the_list_is_written_and_read_and_of_one_split(labels: ImageLabels, tmp_path: Path) -> None:
    write_json(tmp_path / "pairs.json", labels.to_json(split="one", dropped=["void"]))
    assert read_image_labels(tmp_path / "pairs.json", split="one") == labels
    with pytest.raises(ArtifactError, match="of split one, expected two"):
        read_image_labels(tmp_path / "pairs.json", split="two")
    (tmp_path / "pairs.json").write_text("{}")
    with pytest.raises(ArtifactError, match="no list of image labels"):
        read_image_labels(tmp_path / "pairs.json", split="one")
