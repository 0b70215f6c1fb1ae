"""benchmarks/depthwise.py in its smallest form: every item runs, and both ways agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anyshot


def test_all_items_run(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repository / "benchmarks" / "depthwise.py"), "--small"],
        env={**os.environ, "PYTHONPATH": str(Path(anyshot.__file__).parents[1])},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [row["item"] for row in found["items"]] == ["early", "middle", "dilated", "backbone"]
    assert all(row["relative_difference"] < 1e-3 and row["seconds"] > 0 for row in found["items"])
    assert any(row["gradient_difference"] > 0 for row in found["items"])  # two ways, not one twice
