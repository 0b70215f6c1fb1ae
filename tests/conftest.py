"""Fixtures for all tests: where the repository and the real data lie."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tiny networks are slower on several threads; stage scripts are given their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout; the test is skipped where there is none."""
    folder = Path(os.environ.get("ANYSHOT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set ANYSHOT_SHARED_DATA to the folder that holds voc256")
    return folder


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Handlers that a test gave to anyshot's logger go with it: they write to its captured streams."""
    log = logging.getLogger("anyshot")
    before, level, propagate = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = before, propagate
    log.setLevel(level)
