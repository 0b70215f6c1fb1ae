"""The dates of files after a clock was set back, or on machines whose clocks differ.

Snakemake deletes an output that is older than an input: such a stage would lose its work in the end.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from anyshot.errors import ArtifactError

logger = logging.getLogger("anyshot")

TOLERATED = 60.0  # s that an input may lie in the future; the stage waits for them when it is done


def _newest(paths: Sequence[Path]) -> tuple[float, Path]:
    return max(((path.stat().st_mtime, path) for path in paths if path.exists()), default=(0.0, Path()))


def _mend(path: Path) -> str:
    folder = shlex.quote(path.parts[0] if not path.is_absolute() else str(path.parent))
    return f"t=$(date +%s); find {folder} -newermt @$t -exec touch -d @$t {{}} +"


def check_dates(inputs: Sequence[Path]) -> None:
    """Raise ArtifactError when an input is from the future, with the command that mends it."""
    date, path = _newest(inputs)
    if date > time.time() + TOLERATED:
        raise ArtifactError(
            f"{path} is from the future ({datetime.fromtimestamp(date):%Y-%m-%d %H:%M:%S}): the clock was set"
            " back, and Snakemake would delete what is made now. Give such files the present time, and run"
            f" again: {_mend(path)}"
        )


def wait_for_dates(inputs: Sequence[Path]) -> None:
    """Wait until the newest input is of the past, or has been given the present time."""
    date, path = _newest(inputs)
    if date > time.time() + TOLERATED:
        logger.warning(
            "the clock was set back in the meantime: waiting until %s is of the past; to go on at once: %s",
            path,
            _mend(path),
        )
    while (left := _newest(inputs)[0] - time.time()) > 0:
        time.sleep(min(left, 1.0))
