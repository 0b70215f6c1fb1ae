"""LarvSeg's pictures in the report: maps of every method and the attention to each label."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyshot.data.classes import ClassTable
from anyshot.page_options import Report
from anyshot.report.blocks import Gallery, GalleryRow
from anyshot.report.larvseg_pictures import COLD, gallery
from anyshot.report.material import Material
from anyshot.report.tables import VARIANTS
from tests.report.fabricated_larvseg import add_larvseg
from tests.report.fabricated_raml import only
from tests.report.fabricated_run import NAMES, FabricatedRun, Picture, drawn_pictures

ORDER = ["baseline", "attentive", "oracle"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FabricatedRun:
    folder = tmp_path_factory.mktemp("pictures") / "results"
    run = FabricatedRun(folder, drawn_pictures(14), ClassTable.of(NAMES), {})
    add_larvseg(run, "one")
    run.files = only(run.files, "larvseg")
    return run


def rows_of(files: dict[str, list[Path]]) -> list[GalleryRow]:
    section = gallery(Material(paths=files, options=Report(title="Test", image_side=200, jpeg_quality=95)))
    assert section is not None
    (part,) = section.subsections
    assert part.heading == "one"
    (block,) = part.blocks
    assert isinstance(block, Gallery)
    return list(block.rows)


def kept(run: FabricatedRun) -> list[Picture]:
    return [picture for picture in run.pictures if picture.subset == "val"][:2]


def test_every_method_beside_photograph_and_truth(run: FabricatedRun) -> None:
    rows = rows_of(run.files)
    assert [row.image_id for row in rows] == [picture.id for picture in kept(run)]
    for row in rows:
        assert [panel.name for panel in row.panels] == [
            "Photograph", "Truth", *(VARIANTS[method] for method in ORDER)
        ]  # fmt: skip
        names = {entry.name: entry.role for entry in row.legend}
        assert names["background"] == ""  # no class of the target
        assert {names[NAMES[label]] for label in kept(run)[rows.index(row)].labels} <= {"base", "novel"}


def test_attention_has_a_panel_per_label(run: FabricatedRun) -> None:
    for row, picture in zip(rows_of(run.files), kept(run), strict=True):
        (below,) = row.below
        assert below.heading == "Attention to each label"
        assert [panel.name for panel in below.panels] == [NAMES[label] for label in picture.labels]
        colds = [""] * (len(picture.labels) - 1) + [COLD]
        assert [panel.score for panel in below.panels] == colds
        for panel, label in zip(below.panels, picture.labels, strict=True):
            assert panel.alt == f"attention of {picture.id} to {NAMES[label]}"


def test_attention_is_bright_where_it_is_high(run: FabricatedRun) -> None:
    row, picture = rows_of(run.files)[0], kept(run)[0]
    content = base64.b64decode(row.below[0].panels[0].uri.partition(",")[2])
    picture_of_panel = np.asarray(Image.open(io.BytesIO(content)).convert("L"), float)
    assert picture_of_panel.shape == picture.mask.shape
    inside = picture.mask == picture.labels[0]
    assert picture_of_panel[inside].mean() > picture_of_panel[picture.mask == 0].mean() + 40


def test_without_the_method_only_its_maps_are_shown(run: FabricatedRun) -> None:
    files = dict(run.files)
    files["shown"] = [path for path in files["shown"] if "attentive" not in path.parts]
    for row in rows_of(files):
        assert VARIANTS["attentive"] in [panel.name for panel in row.panels]
        assert list(row.below) == []


def test_other_targets_are_not_mixed_in(run: FabricatedRun, tmp_path: Path) -> None:
    """Label maps of a second target lie in their own folder and have other ids."""
    files = dict(run.files)
    other = tmp_path / "results/larvseg/one/predict/attentive/wide/1of1/labels.csv"
    files["predict"] = [*files["predict"], other]  # is not even opened
    assert [len(row.panels) for row in rows_of(files)] == [5, 5]
