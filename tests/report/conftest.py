"""One made-up run for all tests of the report, read-only."""

from __future__ import annotations

from pathlib import Path

import pytest

from anyshot.data.classes import ClassTable
from anyshot.page_options import Report
from anyshot.report import plots
from anyshot.report.material import Material
from anyshot.report.page import build
from tests.report.fabricated_raml import add_raml
from tests.report.fabricated_run import NAMES, FabricatedRun, drawn_pictures

SPLITS = {"fold0": [2, 3], "fold1": [4, 5]}
PROVENANCE = {
    "anyshot": "0.1.0",
    "torch": "2.11",
    "commit": "0123456789" * 4,
    "options": "{}",
    "seconds": "1.0",
}


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> FabricatedRun:
    folder = tmp_path_factory.mktemp("run") / "results"
    return FabricatedRun(folder, drawn_pictures(14), ClassTable.of(NAMES), SPLITS)


@pytest.fixture(scope="session")
def material(fabricated: FabricatedRun) -> Material:
    options = Report(title="Test <run> & report", gallery_images=2)
    return Material(paths=fabricated.files, options=options, provenance=PROVENANCE)


@pytest.fixture(scope="session")
def both(tmp_path_factory: pytest.TempPathFactory) -> FabricatedRun:
    """A run of RETAB and RAML on the same data."""
    folder = tmp_path_factory.mktemp("both") / "results"
    run = FabricatedRun(folder, drawn_pictures(14), ClassTable.of(NAMES), {"fold0": [2, 3]})
    add_raml(run, "small", [4, 5])
    return run


@pytest.fixture(scope="session")
def page(material: Material) -> str:
    return build(material)


@pytest.fixture
def quick_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty pictures instead of plots, for tests that build many pages and look at other things."""
    for name in (
        "training_curve",
        "threshold_curves",
        "class_bars",
        "confusion",
        "anomaly_curves",
        "shot_curves",
        "prototype_cosines",
    ):
        monkeypatch.setattr(plots, name, lambda *_, **__: "data:image/svg+xml;base64,")


@pytest.fixture
def results(fabricated: FabricatedRun) -> Path:
    return fabricated.folder
