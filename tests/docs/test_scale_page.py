"""docs/scale.md: its tables are those that the benchmark prints, its formulas those of the code."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from anyshot.config import Config, load, merged
from benchmarks.scale_costs import CASES, RATE, Case, configuration, print_case
from benchmarks.scale_counts import stages, total_jobs

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES, ids=[case.title[:40] for case in CASES])
def test_a_table_is_the_one_that_the_benchmark_prints(case: Case) -> None:
    overlays = [REPOSITORY / "config" / "paper" / f"{name}.yaml" for name in case.overlays]
    with redirect_stdout(io.StringIO()) as printed:
        print_case(configuration(overlays, case.change), case.data, RATE)
    assert f"### {case.title}\n\n{printed.getvalue().strip()}\n" in PAGE


# --- jobs, by the formulas of the page ---

CHANGES: dict[str, dict[str, Any]] = {
    "retab": {"shards": 3, "folds": ["fold0", "fold2"]},
    "raml": {"shards": 4, "shots": [1, 5]},
    "pop": {"shards": 3, "folds": ["fold0", "fold1", "fold3"]},
    "simformer": {"shards": 5},
    "larvseg": {"shards": 3},
}


def symbols(system: str, config: Config) -> dict[str, int]:
    """What the letters of the page mean in a configuration."""
    one = getattr(config, system)
    found = {"S": one.shards}
    if system == "larvseg":
        targets = sum(len(one.targets(split)) for split in one.built())
        return found | {"E": len(one.built()), "m": len(one.methods), "T": targets}
    found["F"] = len(one.splits) if system in ("raml", "simformer") else len(one.folds)
    if system == "raml":
        found["B"] = len(one.banks())
    if system == "pop":
        found |= {"D": len(one.draws()), "H": len(one.heads(one.folds[0]))}
    if system == "simformer":
        found["V"] = len(one.variants)
    return found


def value(formula: str, letters: dict[str, int]) -> int:
    """A formula of the page, `F (2 + V S) + 1`, whose products are written without a sign."""
    code = re.sub(r"(?<=[\w)]) (?=[\w(])", "*", formula.replace(" + ", "+"))
    assert re.fullmatch(r"[\w()+*]+", code), formula
    return int(eval(code, {"__builtins__": {}}, letters))


def formulas(system: str) -> list[str]:
    """The formulas of a system's row, its second cell; the words between them aside."""
    (cell,) = re.findall(rf"^\| {system}\b[^|]*\|([^|]*)\|", PAGE, re.MULTILINE | re.IGNORECASE)[:1]
    parts = re.split(r",|;|\band\b|with `\w+(?:: \w+)?`", cell)
    return [part.strip() for part in parts if re.fullmatch(r"[\dA-Zm ()+]*[A-Z][\dA-Zm ()+]*", part.strip())]


def jobs(system: str, change: dict[str, Any]) -> tuple[int, dict[str, int]]:
    content = merged([REPOSITORY / "config.yaml"])
    content["systems"] = [system]
    for path, given in (CHANGES[system] | change).items():
        group, _, key = path.rpartition(".")
        (content[system][group] if group else content[system])[key] = given
    config = load(content)
    return total_jobs(stages(config)), symbols(system, config)


def test_the_formula_of_jobs_is_the_code_s() -> None:
    for system in ("retab", "raml", "pop", "simformer"):
        count, letters = jobs(system, {"novel_update.mode": "exact"} if system == "pop" else {})
        assert value(formulas(system)[0], letters) == count, (system, letters)


def test_further_jobs_of_pop_where_features_are_kept() -> None:
    base, more, views = formulas("pop")
    count, letters = jobs("pop", {"novel_update.mode": "cached", "views.number": 0})
    assert value(base, letters) + value(more, letters) == count
    again, _ = jobs("pop", {"novel_update.mode": "cached", "views.number": 2})
    assert count + value(views, letters) == again


def test_jobs_of_simformer_with_retraining() -> None:
    _, again = formulas("simformer")
    count, letters = jobs("simformer", {"retraining": True})
    assert value(again, letters) == count


def test_larvseg_has_one_more_job_per_data_set_and_image_set() -> None:
    sets = len(load(merged([REPOSITORY / "config.yaml"])).larvseg.data_sets())
    (formula,) = formulas("larvseg")
    count, letters = jobs("larvseg", {})
    assert value(formula, letters) + sets == count
