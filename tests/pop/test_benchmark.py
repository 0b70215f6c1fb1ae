"""benchmarks/pop.py in its smallest form: every item runs, and both ways agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import anyshot


def test_all_items_run(repository: Path, tmp_path: Path) -> None:
    variables = {"PYTHONPATH": str(Path(anyshot.__file__).parents[1]), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(repository / "benchmarks" / "pop.py"), "--small", "--threads", "1"],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "computed for a support set of 1500 steps" in done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["benchmark"], found["small"], found["threads"]) == ("pop", True, 1)
    assert [row["item"] for row in found["items"]] == ["head", "cross entropy", "labels"]
    for row in found["items"]:
        assert row["relative_difference"] < 1e-4
        assert row["gradient_difference"] < 1e-2
        assert row["seconds"] > 0
    update = found["update"]
    assert 0 < update["reading_seconds"] < update["seconds_per_step"]
    assert update["published_steps"] == 500 * 3  # epochs and base classes, one shot
    per_set = 1500 * update["seconds_per_step"]
    assert update["seconds_per_support_set_computed"] == pytest.approx(per_set)
    assert 0 < update["loss"] < 100
    assert not list(tmp_path.rglob("*.h5"))  # the store of features is gone
