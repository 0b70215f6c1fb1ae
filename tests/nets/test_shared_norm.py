"""Batch norms of two processes against those of one that has the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anyshot
from anyshot.errors import ConfigError
from anyshot.nets import shared_norm
from anyshot.nets.shared_norm import share_norms
from tests.nets.shared_norm_device import SHARES, Alone, batch, network, run

Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> list[Results]:
    """What each of two processes has found."""
    folder = tmp_path_factory.mktemp("devices")
    source = Path(anyshot.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{repository}", "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("shared_norm_device.py"))
    both = [
        subprocess.Popen([sys.executable, script, rank, str(folder)], env=environment) for rank in ("0", "1")
    ]
    assert [one.wait(timeout=300) for one in both] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", SHARES)
def test_two_devices_equal_one_with_the_whole_batch(name: str, devices: list[Results]) -> None:
    """Outputs, gradients, running statistics, and what the network says with these."""
    expected = run(network(), *batch(name))
    ours, theirs = (found[name] for found in devices)
    assert ours.keys() == theirs.keys() == expected.keys()
    for key, value in expected.items():
        of_images = key in ("outputs", "images", "afterwards")
        found = torch.cat([ours[key], theirs[key]]) if of_images else ours[key]
        # one device computes the variance of values far from zero with fewer digits
        tolerance = 1e-4 if name == "far from zero" else 1e-5
        assert torch.allclose(found, value, rtol=tolerance, atol=tolerance), key
        assert of_images or torch.equal(ours[key], theirs[key]), key


def test_parts_that_are_normalised_one_by_one_are_not_shared(devices: list[Results]) -> None:
    torch.manual_seed(1)
    expected = Alone()(torch.randn(8, 3))
    found = torch.cat([one["alone"]["outputs"] for one in devices])
    torch.testing.assert_close(found, expected)


def test_half_the_digits(devices: list[Results]) -> None:
    """Maps of a mixed-precision training; statistics are float32 all the same."""
    torch.manual_seed(1)
    torch.randn(8, 3)
    expected = run(nn.BatchNorm2d(3), torch.randn(4, 3, 5, 5).bfloat16(), torch.tensor(2.0))
    for key in ("outputs", "images"):
        found = torch.cat([one["bfloat16"][key] for one in devices])
        assert found.dtype == torch.bfloat16
        assert torch.allclose(found.float(), expected[key].float(), rtol=1e-2, atol=1e-2), key
    for key in ("running_mean", "running_var"):
        torch.testing.assert_close(devices[0]["bfloat16"][key], expected[key], rtol=1e-5, atol=1e-5)


def test_one_device_keeps_its_norms() -> None:
    model = network()
    kinds = [type(module) for module in model.modules()]
    with share_norms(model):
        assert [type(module) for module in model.modules()] == kinds


def test_several_devices_share_what_trains_and_have_their_own_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_norm, "device_count", lambda: 2)
    model: Any = network()
    names = list(model.state_dict())
    with share_norms(model):
        kinds = [type(model[number]).__name__ for number in (1, 4, 5, 6, 9)]
        assert kinds == ["SharedNorm2d", "SharedNormAct2d", "SharedNorm2d", "BatchNorm2d", "SharedNorm1d"]
        assert list(model.state_dict()) == names
    assert not any(isinstance(module, shared_norm.SharedNorm) for module in model.modules())


def test_an_unknown_norm_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_norm, "device_count", lambda: 2)
    known = "BatchNorm3d; known are BatchNorm1d, BatchNorm2d, BatchNormAct2d"
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm3d(2))
    with pytest.raises(ConfigError, match=known), share_norms(model):
        pass
