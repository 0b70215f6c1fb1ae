"""Published numbers stand beside a result only where every setting that counts is the published one."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from anyshot.config import Config, load, merged
from anyshot.pop.options import Evaluate
from anyshot.pop.reference import TABLE, reference

SEMSEG = {"pop.base.backbone.weights": "weights/resnet50_v2.pth"}
FREE = {
    "pop.folds": ["fold2"],
    "pop.shots": [5],
    "pop.support_seeds": [7],
    "pop.methods": ["pop"],
    "pop.shards": 2,
}


@cache
def overlaid(repository: Path, name: str) -> dict[str, Any]:
    return dict(merged([repository / "config.yaml", repository / "config" / "paper" / f"{name}.yaml"]))


def paper(repository: Path, name: str, changes: dict[str, Any]) -> Config:
    """The configuration of a paper's overlay, with some values changed by their paths."""
    content = deepcopy(overlaid(repository, name))
    for path, value in changes.items():
        *way, last = path.split(".")
        place = content
        for key in way:
            place = place[key]
        place[last] = value
    return load(content)


def compared(config: Config) -> bool:
    options = config.stage("pop.evaluate", split="fold0")
    assert isinstance(options, Evaluate)
    return options.published


@pytest.mark.parametrize("name", ["pop_voc", "pop_coco"])
@pytest.mark.parametrize("weights", ["weights/resnet50_v2.pth", "own/backbone.safetensors"])
def test_published_settings_with_a_file_of_weights(repository: Path, name: str, weights: str) -> None:
    assert compared(paper(repository, name, {"pop.base.backbone.weights": weights}))
    assert compared(paper(repository, name, {**SEMSEG, **FREE}))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("pop_voc", {"pop.base.backbone.weights": "none"}),
        ("pop_coco", {"pop.base.backbone.weights": "none"}),
        ("pop_voc", {"pop.base.backbone.weights": "timm"}),
        ("pop_voc", {"pop.base.backbone.name": "resnet50"}),
        ("pop_voc", {"pop.base.optimiser.epochs": 49}),
        ("pop_voc", {"pop.novel_update.optimiser.epochs": 499}),
        ("pop_voc", {"pop.novel_update.mode": "cached"}),
        ("pop_voc", {"pop.novel_update.replay": "coco"}),
        ("pop_voc", {"pop.train_subsets": ["train"]}),
        ("pop_coco", {"pop.train_subsets": ["train", "val"]}),
        ("pop_voc", {"pop.evaluate_subset": "train"}),
        ("pop_voc", {"pop.min_pixels": 2048}),
        ("pop_coco", {"data.coco.recipe": "first_polygon_crowd_background"}),
        ("pop_coco", {"data.coco.recipe": "all_polygons_crowd_ignore"}),
    ],
)
def test_other_settings_have_no_published_numbers(
    repository: Path, name: str, changes: dict[str, Any]
) -> None:
    assert compared(paper(repository, name, SEMSEG)), "without the change"
    assert not compared(paper(repository, name, {**SEMSEG, **changes}))


def test_numbers_in_bounds_and_known() -> None:
    known = reference("coco_20i")["pop_5shot"]
    assert known == pytest.approx({"all": 0.5019, "base": 0.5459, "novel": 0.3677, "harmonic": 0.4394})
    assert reference("pascal_5i")["pop_1shot"]["novel"] == pytest.approx(0.3674)
    assert reference(None) == reference("ade20k") == {}
    for (scheme, _), (base, novel, total, harmonic) in TABLE.items():
        bases, novels = {"pascal_5i": (15, 5), "coco_20i": (60, 20)}[scheme]
        identity = ((1 + bases) * base + novels * novel) / (1 + bases + novels)
        assert total == pytest.approx(identity, abs=0.02)
        assert harmonic == pytest.approx(2 * base * novel / (base + novel), abs=0.02)
