"""POP's part of the page and its summary, from a made-up run: alone, without novel classes, and beside RETAB
and RAML."""

from __future__ import annotations

import base64
import html
import importlib
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
from anyshot.pop.options import Summary
from anyshot.pop.scores import prototype_cosines
from anyshot.report import plots
from anyshot.report.few_shot import Protocol, draws_table
from anyshot.report.gallery import Painter
from anyshot.report.material import Material, SplitResult
from anyshot.report.page import build
from anyshot.report.pop import DIAM
from anyshot.report.tables import (
    SUMMARY_COLUMNS,
    Scored,
    label,
    mean_over_splits,
    scored_variants,
    summary_frame,
)
from tests.report.fabricated_pop import METHODS, SEEDS, SHOTS, add_pop
from tests.report.fabricated_raml import add_raml, only
from tests.report.fabricated_run import NAMES, FabricatedRun, drawn_pictures
from tests.report.test_raml import RAML_PARTS, headings, text_of

OPTIONS = Report(title="Test", gallery_images=1, image_side=64)
POP_PARTS = ["pop-shots", "pop-classes", "pop-prototypes", "pop-pictures", "pop-supports"]
SHARED = ["data", "training", "cost", "provenance"]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> FabricatedRun:
    """A run of RETAB, RAML and POP on the same data; POP on two splits."""
    folder = tmp_path_factory.mktemp("three") / "results"
    run = FabricatedRun(folder, drawn_pictures(14), ClassTable.of(NAMES), {"fold0": [2, 3]})
    add_raml(run, "small", [4, 5])
    for split, novel in (("fold0", [2, 3]), ("fold1", [4, 5])):
        add_pop(run, split, novel)
    return run


def run_of_pop(folder: Path, split: str, novel: list[int], **options: Any) -> FabricatedRun:
    run = FabricatedRun(folder / "results", drawn_pictures(14), ClassTable.of(NAMES), {})
    add_pop(run, split, novel, **options)
    run.files = only(run.files, "pop")
    return run


def page_of(files: dict[str, list[Path]], **options: Any) -> str:
    return build(
        Material(paths=files, options=OPTIONS.model_copy(update=options), provenance={"anyshot": "1"})
    )


@pytest.fixture(scope="module")
def page_of_pop(three: FabricatedRun) -> str:
    return page_of(only(three.files, "pop"))


def entries(files: dict[str, list[Path]], split: str) -> list[dict[str, Any]]:
    (path,) = [path for path in files["miou"] if {"pop", split} <= set(path.parts)]
    return json.loads(path.read_text(encoding="utf-8"))["variants"]


def test_page_of_pop_alone(page_of_pop: str) -> None:
    assert headings(page_of_pop) == ["pop", *POP_PARTS, *SHARED]
    text = text_of(page_of_pop)
    assert "POP on toy" in text
    assert "RAML" not in text
    assert "Protocol: POP: IoU over all pixels" in text
    assert "Beside it: DIaM, BCM: the same IoU" in text
    assert "Published: MODELS.md." in text
    assert "|novel_update (no_residual/5shot)|" in text  # a stage with its cost
    assert not re.search(r"https?:", page_of_pop)


@pytest.mark.usefixtures("quick_plots")
def test_page_of_three_systems(three: FabricatedRun) -> None:
    page = page_of(three.files)
    assert headings(page) == [
        "retab", "retab-pictures", "retab-classes", "retab-thresholds", "retab-confusion",
        "raml", *RAML_PARTS, "pop", *POP_PARTS, *SHARED,
    ]  # fmt: skip
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("quick_plots")
@pytest.mark.parametrize("name", ["miou", "shown", "supports", "manifest", "classes", "curves"])
def test_absent_inputs_are_left_out(name: str, three: FabricatedRun) -> None:
    paths = {key: value for key, value in only(three.files, "pop").items() if key != name}
    found = headings(page_of(paths))
    pictures = {"pop-pictures", "pop-supports"}
    gone = {
        "miou": {"pop-shots", "pop-classes", "pop-prototypes"},
        "shown": {"pop-pictures"},
        "supports": {"pop-supports"},
        "manifest": pictures,
        "classes": pictures,
    }.get(name, set())
    assert {"pop", *POP_PARTS} - gone == {"pop", *POP_PARTS} & set(found)


@pytest.mark.usefixtures("quick_plots")
def test_no_gallery_images_means_no_pictures(three: FabricatedRun) -> None:
    found = headings(page_of(only(three.files, "pop"), gallery_images=0))
    assert not {"pop-pictures", "pop-supports"} & set(found)


def test_numbers_with_spread_in_both_protocols(three: FabricatedRun, page_of_pop: str) -> None:
    text = text_of(page_of_pop)
    for row in (row for split in ("fold0", "fold1") for row in entries(three.files, split)):
        for content, names in ((row, row["mean"]), (row["protocols"]["diam"], DIAM.measures)):
            for name in names:
                shown = f"{100 * content['mean'][name]:.2f}"
                if (spread := content["spread"][name]) is not None:
                    shown += f" ± {100 * spread:.2f}"
                assert f"|{shown}|" in text
    assert "56.55" in text  # published
    assert "mean of 2 splits" in text


def scored(split: str, values: list[float]) -> Scored:
    """One method, its draws' novel mIoU, and base mIoU 0.5."""
    draws = {seed: {"all": 0.5, "base": 0.5, "novel": value, "harmonic": 0.5}
             for seed, value in enumerate(values)}  # fmt: skip
    mean = {**draws[0], "novel": float(np.mean(values))}
    return Scored("pop", split, mean, shots=5, draws=draws, others={"diam": Scored("pop", split, mean)})


def test_spread_of_the_mean_is_over_draws_not_splits() -> None:
    (mean,) = mean_over_splits([[scored("fold0", [0.1, 0.2])], [scored("fold1", [0.5, 0.8])]])
    assert (mean.shots, mean.values["novel"]) == (5, pytest.approx(0.4))
    assert [mean.draws[seed]["novel"] for seed in (0, 1)] == pytest.approx([0.3, 0.5])
    assert mean.spread["novel"] == pytest.approx(0.2 / 2**0.5)
    assert mean.others["diam"].values["novel"] == pytest.approx(0.4)
    assert label(mean) == "POP, 5 shots"
    (other,) = mean_over_splits([[scored("fold0", [0.1, 0.2])], [scored("fold1", [0.5])]])
    assert (other.draws, other.spread["novel"]) == ({}, None)  # draws that are not of all splits
    assert mean_over_splits([[scored("fold0", [0.1])], []]) == []


def test_table_by_hand() -> None:
    mean = {"all": 0.5, "base": 0.6, "novel": 0.3, "harmonic": 0.4}
    other = {"all": 0.45, "base": 0.58, "novel": 0.3, "harmonic": 0.39}
    spread = dict.fromkeys(mean, 0.01)
    content = {"mean": mean, "spread": spread, "each": [mean, mean]}
    diam = {"diam": {"mean": other, "spread": spread, "each": [other, other]}}
    drawn = {"variant": "pop", "shots": 1, "support_seeds": [3, 4], **content, "protocols": diam}
    base = {"variant": "base", "shots": 0, "support_seeds": [0], "mean": {**mean, "novel": 0.0},
            "spread": dict.fromkeys(mean), "each": [mean]}  # fmt: skip
    result = SplitResult("pop", "fold0", miou={
        "variants": [base, drawn, {**drawn, "variant": "finetune", "mean": {**mean, "novel": 0.2}}],
        "reference": {"pop_1shot": {"novel": 0.3674, "base": 0.7381}},
    })  # fmt: skip
    further = (Protocol("diam", "DIaM", ("all", "base", "harmonic")),)
    table = draws_table({"fold0": scored_variants(result)}, further=further)
    assert table.spans == (("", 2), ("mIoU in %", 4), ("DIaM", 3))
    assert [group.heading for group in table.groups] == ["fold0", "fold0, 1 shot"]
    rows = [row for group in table.groups for row in group.rows]
    assert [[cell.text for cell in row] for row in rows[:3]] == [
        ["Base model", "–", "50.00", "60.00", "0.00", "40.00", "–", "–", "–"],
        ["POP", "2", "50.00 ± 1.00", "60.00 ± 1.00", "30.00 ± 1.00", "40.00 ± 1.00",
         "45.00 ± 1.00", "58.00 ± 1.00", "39.00 ± 1.00"],
        ["POP, published", "–", "–", "73.81", "36.74", "–", "–", "–", "–"],
    ]  # fmt: skip
    assert [cell.text for row in rows for cell in row if cell.strong] == ["30.00 ± 1.00"]


def test_mean_of_harmonics_and_harmonic_of_means() -> None:
    """Folds with base 60 and 40 and novel 20 and 40 %: H is 30 and 40 %, of the means 50 and 30 37.5 %."""
    folds = {
        split: [
            Scored("pop", split, {"all": 0.5, "base": base, "novel": novel, "harmonic": harmonic}, shots=1)
        ]
        for split, base, novel, harmonic in (("fold0", 0.6, 0.2, 0.3), ("fold1", 0.4, 0.4, 0.4))
    }
    means = mean_over_splits(list(folds.values()))
    table = draws_table({"mean": means, **folds}, of_means=True)
    assert table.columns == ["Variant", "draws", "all", "base", "novel", "harmonic", "H of means"]
    assert table.spans == (("", 2), ("mIoU in %", 5))
    rows = [[cell.text for cell in row] for group in table.groups for row in group.rows]
    assert rows == [
        ["POP", "–", "50.00", "50.00", "30.00", "35.00", "37.50"],
        ["POP", "–", "50.00", "60.00", "20.00", "30.00", "30.00"],
        ["POP", "–", "50.00", "40.00", "40.00", "40.00", "40.00"],
    ]
    assert "H of means: harmonic mean of the base and novel mIoU of this row" in table.footnote
    reference = {"all": None, "base": 0.7381, "novel": 0.3674, "harmonic": 0.49}
    published = Scored("pop", "fold0", means[0].values, shots=1, reference=reference)
    *_, last = draws_table({"fold0": [published]}, of_means=True).groups[0].rows
    assert [cell.text for cell in last[-2:]] == ["49.00", "49.06"]


def test_committed_tables_have_the_harmonic_of_means(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    print_scores = importlib.import_module("variants_table").print_scores
    folds = {
        split: {"variants": [
            {"variant": "pop", "shots": 1, "spread": None,
             "mean": {"all": 0.5, "base": base, "novel": novel, "harmonic": harmonic}},
            {"variant": "oracle", "shots": 0, "spread": None, "mean": {"all": 0.5, "base": 0.5}},
        ]}
        for split, base, novel, harmonic in (("fold0", 0.6, 0.2, 0.3), ("fold1", 0.4, 0.4, 0.4))
    }  # fmt: skip
    means = print_scores(folds, "base")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| split | variant | shots | all | base | novel | harmonic | H of means |"
    assert lines[2] == "| fold0 | pop | 1 | 50.00 | 60.00 | 20.00 | 30.00 | 30.00 |"
    assert lines[-2].endswith("| **30.00 ± 14.14** | **35.00 ± 7.07** | **37.50** |")
    assert lines[-1].endswith("| **50.00 ± 0.00** | **-** | **-** | **-** |")
    assert means["pop 1"]["harmonic_of_means"] == pytest.approx(0.375)


@pytest.mark.usefixtures("quick_plots")
def test_split_without_novel_classes(tmp_path: Path) -> None:
    run = run_of_pop(tmp_path, "joint", [])
    assert "supports" not in run.files
    page = page_of(run.files)
    found = [name for name in headings(page) if "joint" not in name]
    assert found == ["pop", "pop-classes", "pop-prototypes", "pop-pictures", *SHARED]
    text = text_of(page)
    assert "|Base model, mIoU|" in text
    assert "±" not in text
    assert "novel pairs" not in text
    frame = summary_frame(run.files["miou"])
    assert (len(frame), frame["novel"].isna().all()) == (1, True)


@pytest.mark.usefixtures("quick_plots")
def test_joint_beside_folds_is_no_part_of_their_mean(tmp_path: Path) -> None:
    run = run_of_pop(tmp_path, "fold0", [2, 3])
    add_pop(run, "joint", [])
    assert "mean of 2 splits" not in text_of(page_of(run.files))
    add_pop(run, "fold1", [4, 5])
    assert "mean of 2 splits" in text_of(page_of(run.files))


@pytest.mark.usefixtures("quick_plots")
def test_one_draw_has_no_spread(tmp_path: Path) -> None:
    run = run_of_pop(tmp_path, "fold0", [2, 3], seeds=(123,))
    add_pop(run, "fold1", [4, 5], seeds=(123,))
    page = page_of(run.files)
    assert "±" not in text_of(page)
    assert "standard deviation" not in page
    assert "pop-shots" in headings(page)


def test_pictures_of_every_method_and_of_the_supports(page_of_pop: str) -> None:
    text = text_of(page_of_pop)
    for name in ("Photograph", "Truth", "Base model", "Fine-tuning", "Mean features (CAPL-like)", "POP"):
        assert f"|{name}|" in text
    assert f"Evaluation images, 5-shot draw {SEEDS[0]}" in text
    assert f"|5-shot draw {SEEDS[0]}|" in text
    alternatives = [html.unescape(alt) for alt in re.findall(r'alt="([^"]+)"', page_of_pop)]
    for name in NAMES[2:]:
        assert sum(alt.endswith(f" supports {name}") for alt in alternatives) == SHOTS[-1]


def test_curves_and_cosines_tell_their_numbers(three: FabricatedRun, page_of_pop: str) -> None:
    alternatives = html.unescape(" ".join(re.findall(r'alt="([^"]+)"', page_of_pop)))
    rows = {(row["variant"], row["shots"]): row["mean"]["novel"] for row in entries(three.files, "fold0")}
    assert f"POP {100 * rows['pop', 1]:.2f} at 1, {100 * rows['pop', 5]:.2f} at 5" in alternatives
    assert "POP, 5-shot draw 123: mean |cosine| of base pairs 0." in alternatives


def test_cosines_by_hand() -> None:
    found = prototype_cosines(np.array([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]]))
    assert found == [[1.0, -0.8, 0.0], [-0.8, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_curves_without_spread_or_novel_score() -> None:
    points = {1: (0.5, None), 5: (None, None)}
    uri = plots.shot_curves({"pop": {"novel": points, "base": points}}, {"base": None}, {})
    assert uri.startswith("data:image/svg+xml")


@pytest.mark.parametrize("classes", [1, 4])
def test_cosine_picture_leaves_its_matrix_alone(classes: int) -> None:
    matrix = np.eye(classes) - 0.1
    before = matrix.copy()
    uri = plots.prototype_cosines({"Base model": matrix}, [f"c{i}" for i in range(classes)], classes)
    assert uri.startswith("data:image/svg+xml")
    assert np.array_equal(matrix, before)


def test_outlined_areas_have_the_colour_of_their_class() -> None:
    painter = Painter(colours={3: (255, 0, 0)}, names={}, roles={}, side=60, quality=98)
    mask = np.zeros((60, 60), np.uint8)
    mask[20:40, 20:40], mask[:5] = 3, 255
    uri = painter.outlined(np.full((60, 60, 3), 100, np.uint8), mask, [3], tinted=3)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))).astype(int)
    assert pixels.shape == (60, 60, 3)
    assert np.abs(pixels[30, 30] - [154, 65, 65]).max() < 12  # inside: tinted
    assert np.abs(pixels[50, 50] - 100).max() < 6  # outside and void: as they are
    assert np.abs(pixels[1, 50] - 100).max() < 6
    assert pixels[30, 18:23].sum(axis=1).max() > 450  # the white rim


def test_summary_has_a_row_per_draw(three: FabricatedRun, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "workflow/scripts/pop/summary.py"
    spec = importlib.util.spec_from_file_location("pop_summary_script", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    inputs = {"miou": only(three.files, "pop")["miou"]}
    module.main(
        Job.for_tests("pop.summary", Summary(), inputs=inputs, outputs={"summary": tmp_path / "s.csv"})
    )
    frame = pd.read_csv(tmp_path / "s.csv", dtype={"shot": str, "seed": str})
    assert tuple(frame.columns) == SUMMARY_COLUMNS
    assert len(frame) == 2 * (1 + len(METHODS) * len(SHOTS) * len(SEEDS))
    base = frame[frame["variant"] == "base"]
    assert base[["shot", "seed"]].isna().all(axis=None)
    of_split = frame["split"] == "fold0"
    drawn = frame[of_split & (frame["variant"] == "pop") & (frame["shot"] == "5")]
    assert list(drawn["seed"]) == [str(seed) for seed in SEEDS]
    row = next(row for row in entries(three.files, "fold0") if (row["variant"], row["shots"]) == ("pop", 5))
    assert drawn["novel"].to_list() == pytest.approx([one["novel"] for one in row["each"]])
    assert frame["protocol"].str.startswith("POP: ").all()
    together = summary_frame(three.files["miou"], three.files["scores"])
    assert set(together["system"]) == {"retab", "raml", "pop"}
