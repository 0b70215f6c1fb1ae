"""What a whole run leaves behind: the list of files, the numbers' form, and nothing to do the second time."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.end_to_end.checkout import Checkout, files_of, succeeded

EXPECTED = Path(__file__).with_name("outputs.txt").read_text().split()


def test_the_files_of_a_run(finished_run: Checkout) -> None:
    found = [
        path
        for path in files_of(finished_run.folder / "results")
        if not path.endswith((".png", ".jpg", ".txt"))
    ]
    assert found == sorted(EXPECTED)


def test_a_second_run_has_nothing_to_do(finished_run: Checkout) -> None:
    def times() -> dict[Path, int]:
        found = (finished_run.folder / "results").rglob("*")
        return {path: path.stat().st_mtime_ns for path in found if path.is_file()}

    before = times()
    succeeded(finished_run.run("all_folds", "results/report.html"))
    assert times() == before


def test_miou_says_what_it_is(finished_run: Checkout) -> None:
    content = json.loads((finished_run / "retab/fold0/miou.json").read_text())
    assert {
        "system",
        "dataset",
        "split",
        "subset",
        "protocol",
        "miou",
        "classes",
        "reference",
        "options_hash",
    } <= set(content)
    assert (content["system"], content["dataset"], content["split"], content["images"]) == (
        "retab",
        "scenes",
        "fold0",
        6,
    )
    assert [row["role"] for row in content["classes"]].count("novel") == 5
    assert len(content["classes"]) == 21
    assert content["classes"][0]["role"] == "base"
    assert content["reference"] == {}, "these are not the published settings"


def test_summary_has_a_row_per_variant(finished_run: Checkout) -> None:
    with (finished_run / "retab/summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == {
        "cam",
        "psa_walk",
        "retab_walk",
        "pseudo_label",
        "segmentation",
    }
    assert {row["split"] for row in rows} == {"fold0"}
    assert {row["subset"] for row in rows if row["variant"] == "segmentation"} == {"val"}
