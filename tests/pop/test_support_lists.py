"""Given support lists and few base images, by the stages themselves, on a base model of random weights."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anyshot.engine.checkpoints import load_weights
from anyshot.engine.stores import Store
from anyshot.errors import DataError
from anyshot.pop import options as stages
from anyshot.pop.heads import CosineHead, OnFrozen
from anyshot.pop.index import PixelIndex
from anyshot.pop.tables import read_tables
from tests.shapes import ADAM, BACKBONE, NOVEL, SIDE, ShapesRun

DATASET = stages.FoldDataset(subsets=["train"], split="shapes", novel=NOVEL)
FEW = 350  # px: fewer than half of the images show as much of a class


class Run(ShapesRun):
    def __init__(self, folder: Path, repository: Path) -> None:
        super().__init__(folder, repository, "pop")
        self.index = {"index": folder / "index.csv"}
        self.lists = folder / "lists"
        self.lists.mkdir()

    def base(self) -> None:
        self.call("index", stages.Index(dataset=DATASET), {}, self.index)
        base = stages.Base(
            backbone=stages.PopBackbone(**{**BACKBONE, "output_stride": 8}), crop=SIDE, channels=16,
            optimiser=stages.BaseOptimiser(**ADAM, epochs=0), dataset=DATASET,
        )  # fmt: skip
        self.call("base", base, self.index, self.network("base"))
        self.weights = {"base": self.network("base")["weights"]}
        features = stages.Features(size=SIDE, min_pixels=FEW, dataset=DATASET)
        self.features = {"features": self.folder / "features.h5"}
        self.call("features", features, {**self.index, **self.weights}, self.features)

    def supports(self, shots: int, **changes: Any) -> dict[str, Path]:
        path = self.folder / "support" / f"{shots}.json"
        options = stages.Support(
            shots=shots, support_seed=0, min_pixels=FEW, dataset=DATASET, lists=str(self.lists), **changes
        )  # fmt: skip
        self.call("support", options, self.index, {"supports": path})
        return {"supports": path}

    def views(self, supports: dict[str, Path], number: int) -> dict[str, Path]:
        outputs = {"views": self.folder / "views.h5"}
        options = stages.Views(number=number, crop=SIDE, dataset=DATASET)
        self.call("views", options, {**self.weights, **supports}, outputs)
        return outputs

    def updated(self, method: str, supports: dict[str, Path], name: str, **changes: Any) -> dict[str, Path]:
        options = stages.NovelUpdate(
            method=method, mode="cached", crop=SIDE, dataset=DATASET, **{"min_pixels": FEW, **changes},
            optimiser=stages.NovelOptimiser(
                optimiser="sgd", batch_size=2, learning_rate=0.02, workers=1, epochs=2
            ),
        )  # fmt: skip
        outputs = self.network(f"{name}_{method}")
        self.call(
            "novel_update", options, {**self.index, **self.weights, **supports, **self.features}, outputs
        )
        return outputs

    def exact(self, supports: dict[str, Path], *, two: bool) -> torch.Tensor:
        """The novel prototypes after an update on fresh images, by one process or by two."""
        options = stages.NovelUpdate(
            crop=32, min_pixels=FEW, dataset=DATASET,
            optimiser=stages.NovelOptimiser(
                optimiser="sgd", batch_size=2, learning_rate=0.02, workers=0, epochs=1, max_steps=2
            ),
        )  # fmt: skip
        outputs = self.network("two" if two else "one")
        inputs = {**self.index, **self.weights, **supports}
        call = self.call_on_two_devices if two else self.call
        call("novel_update", options, inputs, outputs)
        state, card = load_weights(outputs["weights"])
        assert (card["mode"], card["support_views"]) == ("exact", 0)
        return state["head.novel_emb"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Run:
    made = Run(tmp_path_factory.mktemp("lists"), repository)
    made.base()
    return made


@pytest.fixture(scope="module")
def small(run: Run) -> list[str]:
    """One image for each novel class that shows it, and no class with `FEW` px: the store lacks them."""
    index = PixelIndex.read(run.index["index"])
    stored = set(Store(run.features["features"]))
    tables = read_tables(run.data["classes"], DATASET)
    without = [one for one in index.ids if one not in stored]
    return [next(one for one in without if index.pixels_of(one, number)) for number in tables.novel_ids]


def test_a_given_list_may_name_images_with_few_pixels(
    run: Run, small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("anyshot").propagate = True
    caplog.set_level(logging.INFO)
    (run.lists / "shapes_1shot_seed0.txt").write_text("\n".join(small))
    supports = run.supports(1)
    for method in ("pop", "prototype"):
        outputs = run.updated(method, supports, "small")
        assert f"encoded now, since the store lacks them: supports {', '.join(small)}" in caplog.text
        caplog.clear()
        card = json.loads(outputs["card"].read_text())
        assert card["supports"] == {"5": [small[0]], "6": [small[1]]}
        assert (card["mode"], card["support_views"]) == ("cached", 0)
    state, _ = load_weights(outputs["weights"])
    assert (state["head.prototypes"][-2:].norm(dim=1) > 0).all(), "both novel classes have a prototype"
    viewed = run.updated("pop", {**supports, **run.views(supports, 2)}, "viewed")
    assert json.loads(viewed["card"].read_text())["support_views"] == 2


def test_a_list_of_another_number_of_shots_is_refused(run: Run, small: list[str]) -> None:
    (run.lists / "shapes_2shot_seed0.txt").write_text("\n".join(small))
    with pytest.raises(
        DataError, match="has 1 ids for each of 2 novel classes, expected 2, as its name says"
    ):
        run.supports(2)


def test_base_classes_with_few_images_are_named_at_the_start(
    run: Run, small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("anyshot").propagate = True
    index = PixelIndex.read(run.index["index"])
    tables = read_tables(run.data["classes"], DATASET)
    most = {number: max(int(index.pixels_of(one, number)) for one in index.ids) for number in tables.base_ids}
    (run.lists / "shapes_1shot_seed0.txt").write_text("\n".join(small))
    supports = run.supports(1)
    fewest = min(most.values())
    lists = index.class_lists(tables.base_ids, min_pixels=fewest)
    one = [tables.name_of_id[number] for number, ids in lists.items() if len(ids) == 1]
    assert one, "a class with a single image"
    content = json.loads(supports["supports"].read_text())
    content["shots"] = 2
    changed = {"supports": run.folder / "two.json"}
    changed["supports"].write_text(json.dumps(content))
    first = run.updated("pop", changed, "few", min_pixels=fewest)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    [warning] = [text for text in warnings if "more than once in an epoch" in text]
    assert all(f"{name!r} (1 images" in warning for name in one)
    again = run.updated("pop", changed, "again", min_pixels=fewest)
    states = [load_weights(outputs["weights"])[0]["head.novel_emb"] for outputs in (first, again)]
    assert torch.equal(*states)


def test_exact_updates_on_two_devices_are_those_on_one(run: Run, small: list[str]) -> None:
    (run.lists / "shapes_1shot_seed0.txt").write_text("\n".join(small))
    supports = run.supports(1)
    one, two = (run.exact(supports, two=both) for both in (False, True))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


def test_the_frozen_encoder_follows_the_images_to_their_device() -> None:
    """On the second of two GPUs; here the device `meta` stands for it, which has no numbers."""
    encoder = nn.Conv2d(3, 4, 1)
    model = OnFrozen(head=CosineHead(channels=4, classes=3, temperature=10), encoder=encoder)
    assert model(torch.zeros(1, 3, 5, 5)).shape == (1, 3, 5, 5)
    assert encoder.weight.device.type == "cpu"
    model.to("meta")
    assert encoder.weight.device.type == "cpu", "hidden from it"
    assert model(torch.zeros(1, 3, 5, 5, device="meta")).device.type == "meta"
    assert encoder.weight.device.type == "meta"
