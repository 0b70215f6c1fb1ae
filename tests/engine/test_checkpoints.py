import logging
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from anyshot.engine.checkpoints import load_into, load_state, load_weights, save_state, save_weights
from anyshot.errors import ArtifactError, WeightsError

CARD = {"system": "retab", "split": "fold0"}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.b = nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.norm = nn.BatchNorm1d(3)


def test_weights_round_trip(tmp_path: Path) -> None:
    model = Tied()
    path = tmp_path / "model.safetensors"
    save_weights(path, model.state_dict(), CARD)
    state, card = load_weights(path, expect={"system": "retab"})
    assert card["split"] == "fold0"
    assert sorted(os.listdir(tmp_path)) == ["model.json", "model.safetensors"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor)
        assert state[name].dtype == tensor.dtype


def test_card_mismatch_names_both(tmp_path: Path) -> None:
    save_weights(tmp_path / "m.safetensors", {"w": torch.zeros(1)}, CARD)
    with pytest.raises(WeightsError, match="split is 'fold0', expected 'fold1'"):
        load_weights(tmp_path / "m.safetensors", expect={"system": "retab", "split": "fold1"})


@pytest.mark.parametrize("fraction", [0, 0.3, 0.9])
def test_cut_weights(tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "m.safetensors"
    save_weights(path, {"w": torch.zeros(1000)}, CARD)
    os.truncate(path, int(path.stat().st_size * fraction))
    with pytest.raises(ArtifactError, match="damaged"):
        load_weights(path)


def test_missing_exchanged_and_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ArtifactError, match="do not exist"):
        load_weights(path)
    save_weights(path, {"w": torch.zeros(9)}, CARD)
    save_weights(tmp_path / "n.safetensors", {"w": torch.ones(9)}, CARD)
    (tmp_path / "n.safetensors").replace(path)
    with pytest.raises(ArtifactError, match=r"not the file that m\.json describes"):
        load_weights(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        load_weights(path)


def test_load_into_is_strict() -> None:
    state = Tied().state_dict()
    model = Tied()
    report = load_into(model, state)
    assert len(report.loaded) == len(state)
    assert report.missing == report.unexpected == ()
    assert torch.equal(model.a.weight, state["a.weight"])


def test_load_into_names_what_is_wrong_and_changes_nothing() -> None:
    model = Tied()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {**Tied().state_dict(), "head.weight": torch.zeros(2), "a.bias": torch.zeros(4)}
    del state["norm.num_batches_tracked"]
    with pytest.raises(WeightsError) as caught:
        load_into(model, state)
    text = str(caught.value)
    assert "1 missing: norm.num_batches_tracked" in text
    assert "1 unexpected: head.weight" in text
    assert "a.bias (4,) instead of (3,)" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_load_into_allows_prefixes_and_patterns() -> None:
    state = {**Tied().state_dict(), "head.weight": torch.zeros(2)}
    del state["norm.num_batches_tracked"]
    report = load_into(Tied(), state, allow_missing=["*.num_batches_tracked"], allow_unexpected=["head"])
    assert report.missing == ("norm.num_batches_tracked",)
    assert report.unexpected == ("head.weight",)
    with pytest.raises(WeightsError, match="head"):
        load_into(Tied(), Tied().state_dict() | {"header": torch.zeros(1)}, allow_unexpected=["head"])


def test_training_state(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state.pt"
    logging.getLogger("anyshot").propagate = True
    assert load_state(path, "f") is None
    save_state(path, {"fingerprint": "f", "step": 3, "model": {"w": torch.ones(2)}})
    state = load_state(path, "f")
    assert state is not None
    assert state["step"] == 3
    with caplog.at_level(logging.INFO, "anyshot"):
        assert load_state(path, "g") is None
    assert "other options or inputs" in caplog.text


@pytest.mark.parametrize("fraction", [0, 0.2, 0.7, 0.99])
def test_damaged_training_state_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fraction: float
) -> None:
    path = tmp_path / "state.pt"
    logging.getLogger("anyshot").propagate = True
    save_state(path, {"fingerprint": "f", "model": {"w": torch.ones(2000)}})
    os.truncate(path, int(path.stat().st_size * fraction))
    with caplog.at_level(logging.WARNING, "anyshot"):
        assert load_state(path, "f") is None
    assert "damaged training state" in caplog.text


def test_full_disk(small_disk: Path) -> None:
    """What was there before stays, no half file appears."""
    weights, state = small_disk / "m.safetensors", small_disk / "s.pt"
    small, big = {"w": torch.ones(10)}, {"w": torch.ones(400_000)}
    save_weights(weights, small, CARD)
    save_state(state, {"fingerprint": "f", **small})
    with pytest.raises(ArtifactError, match=r"cannot write .*m\.safetensors.*MiB free"):
        save_weights(weights, big, CARD)
    with pytest.raises(ArtifactError, match=r"cannot write .*s\.pt.*MiB free"):
        save_state(state, {"fingerprint": "f", **big})
    assert sorted(os.listdir(small_disk)) == ["m.json", "m.safetensors", "s.pt"]
    assert torch.equal(load_weights(weights)[0]["w"], small["w"])
    loaded = load_state(state, "f")
    assert loaded is not None
    assert torch.equal(loaded["w"], small["w"])
