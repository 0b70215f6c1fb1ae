"""SimFormer's part of the page and its summary, from a made-up run: alone, and beside the other systems."""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anyshot.data.classes import ClassTable
from anyshot.job import Job
from anyshot.page_options import Report
from anyshot.report import plots, sections
from anyshot.report.blocks import Gallery, GalleryRow, Panel, PanelRow
from anyshot.report.gallery import Painter
from anyshot.report.material import Material, Place, place_of, title_of
from anyshot.report.page import build
from anyshot.report.simformer import baseline_of, over_splits, variants_table
from anyshot.report.tables import SUMMARY_COLUMNS, VARIANTS, Scored
from anyshot.simformer.options import Summary
from tests.report import fabricated_simformer as fabricated
from tests.report.fabricated_pop import add_pop
from tests.report.fabricated_raml import add_raml, only
from tests.report.fabricated_run import NAMES, FabricatedRun, drawn_pictures
from tests.report.fabricated_simformer import add_simformer
from tests.report.test_pop import POP_PARTS
from tests.report.test_raml import RAML_PARTS, headings, text_of

OPTIONS = Report(title="Test", gallery_images=1, image_side=64)
PARTS = ["simformer-pictures", "simformer-classes", "simformer-similarity"]
SHARED = ["data", "training", "cost", "provenance"]
MEASURES = ("all", "base", "novel", "harmonic")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> FabricatedRun:
    """A run of all systems on the same data; SimFormer on two splits."""
    folder = tmp_path_factory.mktemp("four") / "results"
    run = FabricatedRun(folder, drawn_pictures(14), ClassTable.of(NAMES), {"fold0": [2, 3]})
    add_raml(run, "small", [4, 5])
    add_pop(run, "fold0", [2, 3])
    for split, novel in (("small1", [2, 3]), ("small2", [4, 5])):
        add_simformer(run, split, novel)
    return run


def run_alone(folder: Path, **options: Any) -> FabricatedRun:
    """SimFormer on one split."""
    run = FabricatedRun(folder / "results", drawn_pictures(14), ClassTable.of(NAMES), {})
    add_simformer(run, "small1", [2, 3], **options)
    run.files = only(run.files, "simformer")
    return run


def page_of(files: dict[str, list[Path]], **options: Any) -> str:
    return build(
        Material(paths=files, options=OPTIONS.model_copy(update=options), provenance={"anyshot": "1"})
    )


@pytest.fixture(scope="module")
def page(four: FabricatedRun) -> str:
    return page_of(only(four.files, "simformer"))


def entries(files: dict[str, list[Path]], split: str) -> list[dict[str, Any]]:
    (path,) = [path for path in files["miou"] if {"simformer", split} <= set(path.parts)]
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["variants"]
    return found


def test_page_of_simformer_alone(page: str) -> None:
    assert headings(page) == ["simformer", *PARTS, *SHARED]
    text = text_of(page)
    assert "SimFormer on toy" in text
    assert "SimFormer on small1, small2" in text
    assert "SIMFORMER" not in text
    assert "Protocol: IoU over all pixels of the subset whose truth is not void" in text
    assert "All masks (upper bound): the same network with the masks of novel classes, too." in text
    assert "Untrained teacher:" not in text  # what was not run is not explained
    assert "|joint (no_extras)|" in text  # a trained network and a stage with its cost
    assert not re.search(r"https?:", page)


@pytest.mark.usefixtures("quick_plots")
def test_page_of_four_systems(four: FabricatedRun) -> None:
    page = page_of(four.files)
    assert headings(page) == [
        "retab", "retab-pictures", "retab-classes", "retab-thresholds", "retab-confusion",
        "raml", *RAML_PARTS, "pop", *POP_PARTS, "simformer", *PARTS, *SHARED,
    ]  # fmt: skip
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "SimFormer joint (full), small1" in text_of(page)


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize("name", ["miou", "shown", "predict", "manifest", "classes", "curves"])
def test_absent_inputs_are_left_out(name: str, four: FabricatedRun) -> None:
    paths = {key: value for key, value in only(four.files, "simformer").items() if key != name}
    gone = {
        "miou": {"simformer-classes"},
        "shown": {"simformer-pictures"},
        "manifest": {"simformer-pictures"},
        "classes": {"simformer-pictures"},
        "curves": {"simformer-similarity"},
    }.get(name, set())
    found = page_of(paths)
    assert {"simformer", *PARTS} - gone == {"simformer", *PARTS} & set(headings(found))


@pytest.mark.usefixtures("quick_plots")
def test_no_pictures_where_none_were_kept_or_are_wanted(four: FabricatedRun, tmp_path: Path) -> None:
    assert "simformer-pictures" not in headings(page_of(run_alone(tmp_path, shown=0).files))
    assert "simformer-pictures" not in headings(page_of(only(four.files, "simformer"), gallery_images=0))


def scored(variant: str, novel: float, split: str = "split1") -> Scored:
    return Scored(variant, split, {"all": 0.5, "base": 0.6, "novel": novel, "harmonic": 0.4})


def test_table_by_hand() -> None:
    group = [scored("no_extras", 0.2), scored("full", 0.35), scored("oracle", 0.5)]
    table = variants_table({"split1": group})
    assert table.columns == ["Variant", "all", "base", "novel", "harmonic", "novel gain"]
    rows = table.groups[0].rows
    assert [[cell.text for cell in row] for row in rows] == [
        ["Without complementary loss and distillation", "50.00", "60.00", "20.00", "40.00", ""],
        ["SimFormer", "50.00", "60.00", "35.00", "40.00", "+15.00"],
        ["All masks (upper bound)", "50.00", "60.00", "50.00", "40.00", "+30.00"],
    ]
    assert [cell.text for row in rows for cell in row if cell.strong] == ["35.00"]
    assert "points above “Without complementary loss and distillation”" in table.footnote
    assert "±" not in table.footnote


def test_gain_is_from_the_first_baseline_there_is() -> None:
    full, ignore, half = scored("full", 0.3), scored("ignore_novel", 0.0), scored("no_distillation", 0.2)
    assert baseline_of([ignore, half, full]) is half
    assert baseline_of([ignore, full]) is ignore
    assert baseline_of([full, scored("oracle", 0.5), scored("retrained", 0.4)]) is None
    table = variants_table({"split1": [full]})
    assert table.columns == ["Variant", *MEASURES]
    assert "gain" not in table.footnote


def test_mean_and_deviation_over_the_splits() -> None:
    splits = [[scored("full", 0.2), scored("oracle", 0.5)], [scored("full", 0.4, "split2")]]
    (mean,) = over_splits(splits)
    assert mean.values["novel"] == pytest.approx(0.3)
    assert mean.spread["novel"] == pytest.approx(0.02**0.5)  # ((0.1)^2 + (0.1)^2) / (2 - 1)
    table = variants_table({"mean": [mean]})
    assert table.groups[0].rows[0][3].text == "30.00 ± 14.14"
    assert "sample standard deviation over the splits" in table.footnote


def test_numbers_of_every_split_and_their_mean(four: FabricatedRun, page: str) -> None:
    text = text_of(page)
    rows = {
        (split, row["variant"]): row["mean"]
        for split in ("small1", "small2")
        for row in entries(four.files, split)
    }
    for values in rows.values():
        for name in MEASURES:
            assert f"|{100 * values[name]:.2f}|" in text
    for variant in fabricated.VARIANTS:
        novel = [100 * rows[split, variant]["novel"] for split in ("small1", "small2")]
        assert f"|{np.mean(novel):.2f} ± {np.std(novel, ddof=1):.2f}|" in text
    assert "|mean of 2 splits|" in text
    assert f"|{VARIANTS['full']}, novel mIoU|" in text


def test_one_split_has_no_deviation(tmp_path: Path) -> None:
    found = page_of(run_alone(tmp_path, variants=("full",)).files)
    text = text_of(found)
    assert "±" not in text
    assert "Every split" not in text
    assert "novel gain" not in text
    assert "simformer-classes" in headings(found)


def test_pictures_of_every_variant_proposals_and_similarities(four: FabricatedRun, page: str) -> None:
    text = text_of(page)
    for name in ("Photograph", "Truth", *(VARIANTS[one] for one in fabricated.VARIANTS)):
        assert f"|{name}|" in text
    assert text.count("|Surest proposals|") == text.count("|Similarity to the marked point|") == 4
    alternatives = [html.unescape(alt) for alt in re.findall(r'alt="([^"]+)"', page)]
    proposals = [alt for alt in alternatives if alt.startswith("proposal of ")]
    assert sum(alt.endswith("background, probability 0.94") for alt in proposals) == 4
    marked = [alt for alt in alternatives if "similarity to the marked point" in alt]
    assert len(marked) == 8
    assert sum(alt.endswith(", background") for alt in marked) == 4
    shown = {alt.split()[2].rstrip(":") for alt in proposals}
    novel = {picture.id for picture in four.pictures if {2, 3, 4, 5} & set(picture.labels)}
    assert shown <= novel


@pytest.mark.usefixtures("quick_plots")
def test_pictures_without_the_method_itself(tmp_path: Path) -> None:
    files = run_alone(tmp_path).files
    files["shown"] = [path for path in files["shown"] if "full" not in path.parts]
    text = text_of(page_of(files))
    assert "|SimFormer|" in text  # its maps are there
    assert "Surest proposals" not in text


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).astype(int)


def test_proposals_are_tinted_and_outlined_at_one_half() -> None:
    painter = Painter(colours={3: (255, 0, 0)}, names={}, roles={}, side=60, quality=98)
    mask = np.zeros((120, 120), np.float32)
    mask[40:80, 40:80], mask[:20] = 1, 0.4
    pixels = pixels_of(painter.proposal(np.full((60, 60, 3), 100, np.uint8), mask, 3))
    assert pixels.shape == (60, 60, 3)
    assert np.abs(pixels[30, 30] - [215, 49, 49]).max() < 15  # 0.35 of the grey 140, 0.65 of the red
    assert np.abs(pixels[5, 30] - [170, 104, 104]).max() < 15  # 0.74 and 0.26: less sure, not outlined
    assert np.abs(pixels[50, 50] - 140).max() < 6
    assert pixels[30, 18:23].sum(axis=1).max() > 650  # the white rim


def test_the_marked_point_has_a_ring() -> None:
    painter = Painter(colours={}, names={}, roles={}, side=320, quality=98)
    image, flat = np.full((160, 640, 3), 100, np.uint8), np.zeros((160, 640), np.float32)
    plain, marked = (pixels_of(painter.heat(image, flat, mark=mark)) for mark in (None, (80, 160)))
    changed = np.argwhere(np.abs(marked - plain).max(axis=2) > 60)
    assert plain.shape == (80, 320, 3)
    assert changed.mean(axis=0) == pytest.approx([40, 80], abs=1)
    assert (changed.max(axis=0) - changed.min(axis=0) < 22).all()
    assert np.abs(marked[40, 80] - plain[40, 80]).max() < 10  # the point itself can be seen


def test_further_rows_of_panels_decide_how_wide_a_gallery_is() -> None:
    panels = [Panel("a", "data:", "a")] * 4
    assert Gallery("", [GalleryRow("1", "", panels[:3], [])]).is_narrow
    assert not Gallery("", [GalleryRow("1", "", panels[:3], [], below=[PanelRow("b", panels)])]).is_narrow


def test_curves_of_the_similarity_network_are_no_losses(
    four: FabricatedRun, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[str]] = {}

    def note(rows: Any, parts: list[str], *, title: str, **_: Any) -> str:
        drawn[title] = list(parts)
        return "data:image/svg+xml;base64,"

    monkeypatch.setattr(plots, "training_curve", note)
    page_of(only(four.files, "simformer"))
    losses = ["loss", *fabricated.LOSSES, *fabricated.PAIR_LOSSES[:3]]
    assert drawn["SimFormer joint (full), small1"] == losses
    assert drawn["SimFormer joint (oracle), small1"] == ["loss", *fabricated.LOSSES]
    assert drawn["SimFormer, small1"] == [
        "same class, F1", "different classes, F1", "pairs of images that share a novel class",
    ]  # fmt: skip
    assert "All masks (upper bound), small1" not in drawn  # it has no similarity network
    last = json.loads(
        next(path for path in four.files["curves"] if {"small1", "full"} <= set(path.parts))
        .read_text(encoding="utf-8")
        .splitlines()[-1]
    )
    alternatives = html.unescape(" ".join(re.findall(r'alt="([^"]+)"', page)))
    assert f"same class, F1 {100 * last['similar_f1']:.2f}" in alternatives


def curve_of(folder: Path, values: list[dict[str, float]]) -> Material:
    path = folder / "simformer/split1/joint/full/train.jsonl"
    path.parent.mkdir(parents=True)
    lines = [json.dumps({"step": number + 1, "loss": 1.0, **row}) for number, row in enumerate(values)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Material(paths={"curves": [path]}, options=OPTIONS)


def test_a_loss_that_is_zero_throughout_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def note(rows: Any, parts: list[str], **_: Any) -> str:
        drawn.extend(parts)
        return "data:image/svg+xml;base64,"

    monkeypatch.setattr(plots, "training_curve", note)
    rows = [{"complementary": 0.0, "distillation": 0.0}, {"complementary": 0.0, "distillation": -0.1}]
    assert sections.training(curve_of(tmp_path, rows)) is not None
    assert drawn == ["loss", "distillation"]


@pytest.mark.parametrize("parts", [3, 8])
def test_curve_shows_negative_losses_and_names_every_part(parts: int) -> None:
    names = [f"part{number}" for number in range(parts)]
    rows = [{"step": step, **dict.fromkeys(names, -0.5 * step)} for step in (1, 2, 3)]
    uri = plots.training_curve(rows, names, title="x", points=10, ylabel="share")
    picture = base64.b64decode(uri.partition(",")[2]).decode()
    assert all(f">{name}</text>" in picture for name in names)
    assert ">−1.4<" in picture  # a tick below zero
    assert ">share</text>" in picture


def test_places_and_names() -> None:
    assert place_of(Path("r/simformer/split1/predict/full/1of2/shown.h5")) == Place(
        "simformer", "split1", "predict", "full"
    )
    assert place_of(Path("r/benchmarks/simformer/split1/predict.no_extras.1of1.tsv")) == Place(
        "simformer", "split1", "predict", "no_extras"
    )
    stages = ("pairs", "joint", "pseudo_label", "retrain", "predict", "evaluate")
    places = [Place("simformer", "split1", stage) for stage in stages]
    assert sorted(places, key=lambda place: place.order) == places
    assert (title_of("simformer"), title_of("retab")) == ("SimFormer", "RETAB")


def test_summary_has_a_row_per_variant(four: FabricatedRun, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "workflow/scripts/simformer/summary.py"
    spec = importlib.util.spec_from_file_location("simformer_summary_script", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    inputs = {"miou": only(four.files, "simformer")["miou"]}
    outputs = {"summary": tmp_path / "s.csv"}
    module.main(Job.for_tests("simformer.summary", Summary(), inputs=inputs, outputs=outputs))
    frame = pd.read_csv(tmp_path / "s.csv")
    assert tuple(frame.columns) == SUMMARY_COLUMNS
    assert list(frame["variant"]) == [*fabricated.VARIANTS, *fabricated.VARIANTS]
    assert frame[["shot", "seed"]].isna().all(axis=None)
    first = entries(four.files, "small1")[0]
    assert frame["novel"][0] == pytest.approx(first["mean"]["novel"])
