"""A Slurm for all tests of this folder, and checkouts of the project that run on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import Cluster, missing
from tests.end_to_end.checkout import CONFIG, Checkout

# The tiny run of tests/end_to_end, with GPUs asked for: two for one stage, one for the other networks.
GPUS = {"default": 1, "retab_affinity": 2}


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running Slurm; stopped at the end, also after a failure."""
    if reason := missing():
        pytest.skip(reason)
    running = Cluster()
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Callable[..., Checkout]:
    """Makes a throw-away checkout whose configuration is the tiny one with changes of its top-level keys."""

    def make(name: str, **changes: Any) -> Checkout:
        made = Checkout.make(tmp_path_factory.mktemp("cluster") / name, repository)
        content = yaml.safe_load(CONFIG.read_text())
        content = {**content, "systems": ["retab", "pop"], "gpus": GPUS, **changes}
        (made.folder / "config.yaml").write_text(yaml.safe_dump(content))
        return made

    return make
