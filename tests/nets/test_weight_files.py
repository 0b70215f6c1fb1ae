"""Weights files: nothing is executed, nothing wrong goes unsaid."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from anyshot.errors import WeightsError
from anyshot.nets.weight_files import load_exactly, read_state


class Malicious:
    """Unpickling this would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path: Path, form: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / "a.pth"
    content = {"weight": torch.ones(2), "extra": Malicious(trap)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(WeightsError, match=r"a\.pth was refused"):
        read_state(path)
    assert not trap.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"a{suffix}"
    state = {"weight": torch.randn(64, 64)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsError, match=r"get it again|was refused"):
        read_state(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a\.pth does not exist"):
        read_state(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [torch.ones(2), {}, {"weight": [1, 2]}, [torch.ones(1)]])
def test_other_contents_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"no state dict|not a state dict"):
        read_state(tmp_path / "a.pth")


def test_usual_wrappings_are_opened(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {"module.a.weight": torch.ones(2)}}, tmp_path / "a.pth")
    assert list(read_state(tmp_path / "a.pth")) == ["a.weight"]


def test_first_differences_are_listed_and_nothing_is_changed() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = {name: value + 1 for name, value in before.items() if name != "1.bias"}
    state |= {f"stray{index}": torch.ones(1) for index in range(7)}
    state["0.weight"] = torch.ones(4, 4)
    with pytest.raises(WeightsError) as caught:
        load_exactly(network, state, source="file.pth")
    message = str(caught.value)
    assert "file.pth does not fit Sequential" in message
    assert "1 missing: 1.bias" in message
    assert "7 unexpected: stray0, stray1, stray2, stray3, stray4 and 2 more" in message
    assert "1 with another shape: 0.weight (4, 4) instead of (3, 2)" in message
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_ignored_names_are_reported() -> None:
    network = nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2), "bias": torch.ones(3), "head.weight": torch.ones(1)}
    assert load_exactly(network, state, source="file.pth", ignored={"head.weight"}) == ["head.weight"]
    assert torch.equal(network.weight, torch.ones(3, 2))
