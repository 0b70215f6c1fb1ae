"""What the commands tell the person at the terminal while they work; no torch here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from anyshot.job import Job
from anyshot.options import StageOptions

Item = TypeVar("Item")

log = logging.getLogger("anyshot")


def start_log() -> None:
    """Show messages on stderr, plain: stdout is for results."""
    log.setLevel(logging.INFO)
    log.propagate = False
    for old in log.handlers[:]:
        log.removeHandler(old)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)


def progress(name: str, items: Iterable[Item], total: int) -> Iterator[Item]:
    """`items`, with a bar on a terminal, else a line with the remaining time every 10 s."""
    job = Job(stage=name, options=StageOptions(), input_paths={}, output_paths={}, log=log)
    return job.progress(items, total=total)
