"""benchmarks/networks.py: its smallest form runs, and the formulas of docs/scale.md are what torch counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import anyshot
from benchmarks.networks import ALLOWED, NETWORKS, operations


def test_all_networks_run(repository: Path) -> None:
    arguments = ["--small", "--threads", "1", "--runs", "1"]
    done = subprocess.run(
        [sys.executable, str(repository / "benchmarks" / "networks.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(anyshot.__file__).parents[1])},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["benchmark"], found["small"], found["device"]) == ("networks", True, "cpu")
    assert [row["system"] for row in found["items"]] == ["retab", "raml", "pop", "simformer", "larvseg"]
    for row in found["items"]:
        assert row["gmac"] > 0
        assert 2.9 < row["training_in_passes"] < 3.4
        for mode, passes in (("forward", 1), ("training", 3)):
            seconds, rate = row[mode]["seconds_per_image"], row[mode]["tflops"]
            assert seconds > 0
            assert rate * seconds == pytest.approx(passes * 2 * row["gmac"] / 1e3)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_formulas_are_what_torch_counts(name: str) -> None:
    network = NETWORKS[name]
    model = network.model(small=False).to("meta")
    counted = operations(model, network.side, training=False) / 2
    assert counted == pytest.approx(network.formula, rel=ALLOWED)
