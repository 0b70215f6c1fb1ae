"""The course of a training: a file of JSON lines, one per line of the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from anyshot.engine.artifacts import write_failure, write_text


def append_line(path: Path, line: Mapping[str, float]) -> None:
    """Add one line. Raises ArtifactError when the file cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise write_failure(path, error) from error


def cut_curve(path: Path, step: int) -> None:
    """Keep the lines up to `step`; a broken line and what follows it are dropped, step 0 empties the file."""
    kept: list[str] = []
    if step and path.exists():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(text)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept.append(text + "\n")
    write_text(path, "".join(kept))
