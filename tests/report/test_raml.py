"""RAML's part of the page and its summary, from a made-up run: alone, and beside RETAB."""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anyshot.job import Job
from anyshot.page_options import Report
from anyshot.raml.options import Summary
from anyshot.report.few_shot import draws_table
from anyshot.report.gallery import Painter
from anyshot.report.material import Material, SplitResult
from anyshot.report.page import build
from anyshot.report.tables import SUMMARY_COLUMNS, label, scored_variants, summary_frame
from tests.report.fabricated_raml import SEEDS, VARIANTS, only
from tests.report.fabricated_run import FabricatedRun

OPTIONS = Report(title="Test", gallery_images=1, image_side=64)
RAML_PARTS = ["raml-pictures", "raml-classes", "raml-anomaly"]


def raml_of(run: FabricatedRun) -> Material:
    return Material(paths=only(run.files, "raml"), options=OPTIONS, provenance={"anyshot": "0.1.0"})


@pytest.fixture(scope="module")
def page_of_raml(both: FabricatedRun) -> str:
    return build(raml_of(both))


def headings(page: str) -> list[str]:
    return [
        name
        for name in re.findall(r'<section id="([^"]+)"', page)
        if "small" not in name and "fold" not in name
    ]


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "|", re.sub(r'src="[^"]*"', "", page)))


def test_page_of_raml_alone(page_of_raml: str) -> None:
    assert headings(page_of_raml) == ["raml", *RAML_PARTS, "data", "training", "cost", "provenance"]
    text = text_of(page_of_raml)
    assert "RAML on toy" in text
    assert "RETAB" not in text.replace("RETAB walk", "")
    assert "Protocol: IoU over all pixels" in text
    assert "Published: table of RAML." in text
    assert "closed_set" in text  # a trained network and a stage with its cost
    assert "|novel_bank (5shot)|" in text


@pytest.mark.usefixtures("quick_plots")
def test_page_of_both_systems(both: FabricatedRun) -> None:
    page = build(Material(paths=both.files, options=OPTIONS, provenance={"anyshot": "0.1.0"}))
    found = headings(page)
    assert found == [
        "retab", "retab-pictures", "retab-classes", "retab-thresholds", "retab-confusion",
        "raml", *RAML_PARTS, "data", "training", "cost", "provenance",
    ]  # fmt: skip
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "RAML closed_set, small" in text_of(page)


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize("name", ["miou", "anomaly", "shown", "regions", "predict", "manifest", "curves"])
def test_absent_inputs_are_left_out(name: str, both: FabricatedRun) -> None:
    paths = {key: value for key, value in only(both.files, "raml").items() if key != name}
    found = headings(build(Material(paths=paths, options=OPTIONS)))
    gone = {
        "miou": "raml-classes",
        "anomaly": "raml-anomaly",
        "shown": "raml-pictures",
        "manifest": "raml-pictures",
    }
    assert gone.get(name) not in found
    assert "raml" in found


def test_numbers_of_every_variant_with_spread_and_reference(both: FabricatedRun, page_of_raml: str) -> None:
    text = text_of(page_of_raml)
    (path,) = [path for path in both.files["miou"] if "raml" in path.parts]
    for row in json.loads(path.read_text(encoding="utf-8"))["variants"]:
        for key, value in row["mean"].items():
            assert f"{100 * value:.2f}" in text
            if row["spread"][key] is not None:
                assert f"{100 * value:.2f} ± {100 * row['spread'][key]:.2f}" in text
    assert "53.21" in text  # published


def test_draws_table_by_hand() -> None:
    mean = {"all": 0.5, "base": 0.6, "novel": 0.3, "harmonic": 0.4}
    spread = {"all": 0.01, "base": 0.02, "novel": 0.03, "harmonic": 0.04}
    entry = {"variant": "raml", "shots": 5, "support_seeds": [0, 1], "mean": mean, "spread": spread}
    closed = {"variant": "closed_set", "shots": 0, "support_seeds": [0], "spread": dict.fromkeys(mean)}
    nothing = {**mean, "novel": 0.0, "harmonic": 0.0}
    variants = [{**closed, "mean": nothing, "each": [nothing]}, {**entry, "each": [mean, mean]}]
    reference = {"raml_5shot": {"all": 0.706, "base": 0.697, "novel": 0.852, "harmonic": 0.767}}
    result = SplitResult("raml", "16_1", miou={"variants": variants, "reference": reference})
    scored = scored_variants(result)
    assert [label(item) for item in scored] == ["Closed set", "RAML, 5 shots"]
    closed_group, group = draws_table({"16_1": scored}).groups
    assert (closed_group.heading, group.heading) == ("16_1", "16_1, 5 shots")
    assert [[cell.text for cell in row] for row in (*closed_group.rows, *group.rows)] == [
        ["Closed set", "–", "50.00", "60.00", "0.00", "0.00"],
        ["RAML", "2", "50.00 ± 1.00", "60.00 ± 2.00", "30.00 ± 3.00", "40.00 ± 4.00"],
        ["RAML, published", "–", "70.60", "69.70", "85.20", "76.70"],
    ]  # fmt: skip
    assert [cell.strong for cell in group.rows[0]].index(True) == 4


def test_pictures_say_what_became_of_the_regions(page_of_raml: str) -> None:
    text = text_of(page_of_raml)
    for name in ("Photograph", "Closed set", "Meta channels", "Regions", "RAML", "Truth"):
        assert f"|{name}" in text
    assert "1: 沙发 0.91; nearest base class cat 0.40" in text
    assert "2: closed set kept; best novel class 沙发 0.60; nearest base class cat 0.70" in text
    assert text.count("|2 regions|") == 2


def test_anomaly_table(both: FabricatedRun, page_of_raml: str) -> None:
    text = text_of(page_of_raml)
    (path,) = both.files["anomaly"]
    for entry in json.loads(path.read_text(encoding="utf-8"))["scores"].values():
        for part in ("pooled", "per_image"):
            for value in entry[part].values():
                assert f"|{100 * value:.2f}|" in text
    assert "Protocol: anomalous: the unseen" in text


def test_regions_are_drawn_in_their_colours() -> None:
    painter = Painter(colours={}, names={}, roles={}, side=60)
    labels = np.zeros((15, 15), np.int32)
    labels[:, :7], labels[:3, 12:] = 1, 2
    uri = painter.regions(np.zeros((60, 60, 3), np.uint8), labels, {1: (255, 0, 0), 2: (0, 0, 255)})
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).astype(int)
    assert pixels.shape == (60, 60, 3)
    assert pixels[55, 5, 0] > pixels[55, 5, 2] + 100
    assert pixels[2, 57, 2] > pixels[2, 57, 0] + 60
    assert np.ptp(pixels[55, 50]) < 20  # outside: grey


def test_summary_has_a_row_per_draw(both: FabricatedRun, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "workflow/scripts/raml/summary.py"
    spec = importlib.util.spec_from_file_location("raml_summary_script", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    inputs = {"miou": only(both.files, "raml")["miou"]}
    module.main(
        Job.for_tests("raml.summary", Summary(), inputs=inputs, outputs={"summary": tmp_path / "s.csv"})
    )
    frame = pd.read_csv(tmp_path / "s.csv", dtype={"shot": str, "seed": str})
    assert tuple(frame.columns) == SUMMARY_COLUMNS
    assert len(frame) == 1 + len(VARIANTS) * 2 * len(SEEDS)
    closed = frame[frame["variant"] == "closed_set"]
    assert closed[["shot", "seed"]].isna().all(axis=None)
    drawn = frame[(frame["variant"] == "raml") & (frame["shot"] == "5")]
    assert list(drawn["seed"]) == ["0", "1", "2"]
    content = json.loads(inputs["miou"][0].read_text(encoding="utf-8"))
    entry = next(row for row in content["variants"] if (row["variant"], row["shots"]) == ("raml", 5))
    assert drawn["novel"].to_list() == pytest.approx([row["novel"] for row in entry["each"]])
    assert set(frame["subset"]) == {"val"}
    together = summary_frame(both.files["miou"], both.files["scores"])
    assert set(together["system"]) == {"retab", "raml"}
