"""The smallest whole run of RETAB, made once for all end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.checkout import Checkout, succeeded


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Checkout:
    """A checkout in which `all_folds` and the report were built."""
    checkout = Checkout.make(tmp_path_factory.mktemp("tiny") / "finished", repository)
    succeeded(checkout.run("all_folds", "results/report.html"))
    return checkout
