"""Networks whose class table is not the configuration's are refused with the first class that differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from anyshot.data.classes import ClassTable
from anyshot.errors import ArtifactError, WeightsError
from anyshot.pop.artifacts import load_base, load_base_head, load_head
from anyshot.pop.heads import head_options
from tests.pop.pop_models import fold_tables, write_head, write_model

COLOURS = ("ground", "red", "green", "blue", "yellow")
SWAPPED = ("ground", "green", "red", "blue", "yellow")


def table(names: tuple[str, ...]) -> ClassTable:
    return ClassTable.of(names, kinds=["background"] + ["thing"] * 4)


def test_a_base_model_of_another_class_order_is_told_by_name(tmp_path: Path) -> None:
    trained = fold_tables(table(SWAPPED), novel=("yellow",))
    weights = write_model(tmp_path / "base", tables=trained) / "model.safetensors"
    load_base(weights, tables=trained, split="fold0")
    mine = fold_tables(table(COLOURS), novel=("yellow",))
    told = r"model.safetensors: .* its class 1 is 1 'green' \(base\), the configuration's is 1 'red' \(base\)"
    for load in (load_base, load_base_head):
        with pytest.raises(ArtifactError, match=told):
            load(weights, tables=mine, split="fold0")
    head = write_head(tmp_path / "head", tmp_path / "base", tables=trained) / "model.safetensors"
    with pytest.raises(ArtifactError, match=r"its class 1 is 1 'green'"):
        load_head(head, tables=mine, split="fold0")


def test_the_head_alone_is_the_base_models(tmp_path: Path) -> None:
    tables = fold_tables(table(COLOURS), novel=("yellow",))
    weights = write_model(tmp_path / "base", tables=tables) / "model.safetensors"
    model, card = load_base(weights, tables=tables, split="fold0")
    head, same_card = load_base_head(weights, tables=tables, split="fold0")
    assert same_card == card
    assert not head.training
    expected = model.head.state_dict()
    assert head.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in head.state_dict().items())
    assert head_options(head) == head_options(model.head)


def test_what_is_no_base_model_of_pop_is_told_as_before(tmp_path: Path) -> None:
    """The comparison of classes does not hide what else is wrong with a file."""
    trained = fold_tables(table(SWAPPED), novel=("yellow",))
    mine = fold_tables(table(COLOURS), novel=("yellow",))
    weights = write_model(tmp_path / "base", tables=trained) / "model.safetensors"
    card = weights.with_suffix(".json")
    content = json.loads(card.read_text())
    for change in ({"tables": {}}, {"system": "raml"}):
        card.write_text(json.dumps({**content, **change}))
        for load in (load_base, load_base_head):
            with pytest.raises(WeightsError, match="classes_digest"):
                load(weights, tables=mine, split="fold0")
    card.write_text("{")
    with pytest.raises(ArtifactError, match="is damaged"):
        load_base(weights, tables=mine, split="fold0")
    with pytest.raises(ArtifactError, match="do not exist"):
        load_base(tmp_path / "none.safetensors", tables=mine, split="fold0")
