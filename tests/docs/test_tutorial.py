"""The tutorial docs/own_data.md, run as a reader would: its files written, its commands run in order."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PARTS = ("Snakefile", "config.yaml", "rules", "workflow", "envs", "src", "docs")
BLOCK = re.compile(r"^```(bash|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def follow(page: Path, folder: Path) -> None:
    """Save a page's yaml blocks under the name in their first line and run its bash blocks, in order."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Threads that spin while they wait take the time of others where the cores are shared.
    environment = {**os.environ, "PATH": path, "OMP_WAIT_POLICY": "PASSIVE"}
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "yaml":
            target = folder / text.split("\n", 1)[0].removeprefix("# ")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


@pytest.mark.slow
def test_own_data(repository: Path, tmp_path: Path) -> None:
    for part in PARTS:
        (tmp_path / part).symlink_to(repository / part)
    follow(repository / "docs" / "own_data.md", tmp_path)
    scores = json.loads((tmp_path / "results/own/retab/first/miou.json").read_text())
    assert [row["name"] for row in scores["classes"] if row["role"] == "novel"] == ["triangle", "cross"]
    images = sorted((tmp_path / "datasets/shapes/images/val").iterdir())
    assert len(images) == 12
    for path in images:
        mask = Image.open(tmp_path / "results/own/masks" / f"{path.stem}.png")
        assert mask.mode == "P"
        assert mask.size == Image.open(path).size
        assert set(np.unique(np.asarray(mask)).tolist()) <= set(range(6))
    assert (tmp_path / "results/own/report.html").stat().st_size > 10_000
