"""Tables and the summary: checked by hand on small numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from anyshot.errors import ArtifactError
from anyshot.report.material import Place, SplitResult, place_of, read_curve, split_results
from anyshot.report.tables import (
    SUMMARY_COLUMNS,
    Scored,
    gain_over_cam,
    headline_table,
    mean_over_splits,
    percent,
    reference_of,
    scored_variants,
    summary_frame,
)
from tests.report.fabricated_run import FabricatedRun


def result(split: str, novel: float) -> SplitResult:
    best = {"all": 0.5, "base": 0.6, "novel": novel, "harmonic": None, "classes": []}
    reference = {"cam": {"all": 48.0, "base": 51.4, "novel": 37.4}}
    scores = {
        "variants": {"cam": {"best": best, "threshold": 0.2}},
        "reference": reference,
        "subset": "train",
    }
    return SplitResult("retab", split, scores=scores, miou={"dataset": "toy"})


def test_percent_has_two_decimals() -> None:
    assert [percent(value) for value in (0.70891, 1.0, 0.0, None)] == ["70.89", "100.00", "0.00", "–"]


def test_harmonic_mean_is_filled_in_where_absent() -> None:
    (scored,) = scored_variants(result("fold0", 0.3))
    assert scored.values["harmonic"] == pytest.approx(0.4)  # 2 * .6 * .3 / .9


def test_reference_in_percent_or_fractions() -> None:
    expected = {"all": 0.48, "base": 0.514, "novel": 0.374, "harmonic": None}
    in_percent = reference_of({"cam": {"all": 48.0, "base": 51.4, "novel": 37.4}}, "cam")
    assert in_percent == pytest.approx(expected)
    assert (
        reference_of({"cam": {"all": 0.48, "base": 0.514, "novel": 0.374}, "source": "x"}, "cam") == expected
    )
    assert reference_of({"all": 0.5}, "segmentation") is not None
    assert reference_of({"all": 0.5}, "cam") is None
    assert reference_of({}, "cam") is None


def test_mean_over_splits_only_of_what_all_have() -> None:
    splits = [scored_variants(result("fold0", 0.3)), scored_variants(result("fold1", 0.5))]
    (mean,) = mean_over_splits(splits)
    assert mean.values["novel"] == pytest.approx(0.4)
    assert mean.reference is not None
    assert mean_over_splits([splits[0], []]) == []


def test_headline_marks_the_best_novel_score_and_shows_the_reference() -> None:
    table = headline_table(
        [scored_variants(result("fold0", 0.3)), scored_variants(result("fold1", 0.5))], caption="x"
    )
    assert [group.heading for group in table.groups] == ["mean of 2 splits", "fold0", "fold1"]
    (row,) = table.groups[1].rows
    texts = [cell.text for cell in row]
    assert texts[:7] == ["CAM", "train", "50.00", "60.00", "30.00", "40.00", ""]
    assert texts[7:] == ["48.00", "51.40", "37.40"]
    assert [cell.strong for cell in row].index(True) == 4


def test_gain_is_only_told_on_the_same_images() -> None:
    cam = Scored("cam", "fold0", {"novel": 0.3}, subset="train")
    walk = Scored("retab_walk", "fold0", {"novel": 0.425}, subset="train")
    final = Scored("segmentation", "fold0", {"novel": 0.5}, subset="val")
    group = [cam, walk, final]
    assert [gain_over_cam(scored, group) for scored in group] == ["", "+12.50", ""]


def test_undefined_scores_are_dashes() -> None:
    empty = result("fold0", float("nan"))
    (row,) = headline_table([scored_variants(empty)], caption="x").groups[0].rows
    assert [cell.text for cell in row][4:6] == ["–", "–"]
    assert not any(cell.strong for cell in row)


def test_summary_has_the_columns_and_full_numbers(fabricated: FabricatedRun) -> None:
    frame = summary_frame(fabricated.files["miou"], fabricated.files["scores"])
    assert tuple(frame.columns) == SUMMARY_COLUMNS
    assert len(frame) == 2 * 5
    assert list(frame["variant"][:5]) == ["cam", "psa_walk", "retab_walk", "pseudo_label", "segmentation"]
    assert set(frame["split"]) == {"fold0", "fold1"}
    assert frame["novel"].between(0, 1).all()
    last = frame.iloc[4]
    assert (last["subset"], last["images"], last["seconds"], last["dataset"]) == ("val", 7, 4.25, "toy")
    assert "0.21" in frame.iloc[0]["protocol"]
    content = json.loads(fabricated.files["miou"][0].read_text(encoding="utf-8"))
    assert last["all"] == content["miou"]["all"]


def test_summary_script(fabricated: FabricatedRun, tmp_path: Path) -> None:
    import importlib.util

    from anyshot.job import Job
    from anyshot.retab.options import Summary

    script = Path(__file__).parents[2] / "workflow/scripts/retab/summary.py"
    spec = importlib.util.spec_from_file_location("summary_script", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    inputs = {name: fabricated.files[name] for name in ("miou", "scores")}
    module.main(
        Job.for_tests("retab.summary", Summary(), inputs=inputs, outputs={"summary": tmp_path / "s.csv"})
    )
    assert list(pd.read_csv(tmp_path / "s.csv").columns) == list(SUMMARY_COLUMNS)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("r/retab/fold0/miou.json", Place("retab", "fold0", "miou")),
        ("r/retab/fold0/score_maps/scores.json", Place("retab", "fold0", "score_maps")),
        ("r/retab/fold0/affinity/mixed/train.jsonl", Place("retab", "fold0", "affinity", "mixed")),
        ("r/retab/fold0/random_walk/retab/1of4.h5", Place("retab", "fold0", "random_walk", "retab")),
        ("r/retab/shared/random_walk/psa/1of1.h5", Place("retab", "shared", "random_walk", "psa")),
        ("/home/retab/pop/r/retab/fold0/predict/2of3/labels.csv", Place("retab", "fold0", "predict")),
        (
            "r/benchmarks/retab/fold0/random_walk.retab.1of4.tsv",
            Place("retab", "fold0", "random_walk", "retab"),
        ),
        ("r/benchmarks/retab/shared/cam.2of2.tsv", Place("retab", "shared", "cam")),
        ("r/benchmarks/retab/summary.tsv", Place("retab", "", "summary")),
        ("r/data/voc/card.json", Place("", "", "voc")),
    ],
)
def test_places_are_read_from_folders(path: str, expected: Place) -> None:
    assert place_of(Path(path)) == expected


def test_broken_files_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "retab/fold0/miou.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"miou": ', encoding="utf-8")
    with pytest.raises(ArtifactError, match=re_escaped(broken)):
        split_results([broken], [])
    broken.write_text("[]", encoding="utf-8")
    with pytest.raises(ArtifactError, match="expected a JSON object"):
        split_results([broken], [])
    broken.write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match="second miou file"):
        split_results([broken, broken], [])


def re_escaped(path: Path) -> str:
    import re

    return re.escape(str(path))


def test_curve_cut_off_by_a_crash_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste', encoding="utf-8")
    assert read_curve(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n', encoding="utf-8")
    with pytest.raises(ArtifactError, match="line 2"):
        read_curve(path)
