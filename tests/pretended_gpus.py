"""Leases on GPUs that are only pretended."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from anyshot import lease

SOURCES = Path(lease.__file__).parents[1]


@contextmanager
def pretended_gpus(ids: Sequence[str], locks: Path) -> Iterator[None]:
    """These GPUs alone may be leased, here and in processes started here; locks: folder of the lock files."""
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        for name in (lease.VISIBLE, lease.HELD, lease.TIMEOUT, "SLURM_JOB_ID", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        patch.setenv(lease.FOLDER, str(locks))
        patch.setenv(lease.POOL, ",".join(ids))
        patch.setenv("PYTHONPATH", str(SOURCES))
        yield
    os.environ.clear()  # `lease` itself sets variables
    os.environ.update(before)
