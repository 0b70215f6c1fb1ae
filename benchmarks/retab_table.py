"""The committed table of a finished RETAB run: scores per fold and mean, seconds and memory per stage.

    python benchmarks/retab_table.py results/bench/retab_voc256 --config config/bench/retab_voc256.yaml

Reads scores.json, miou.json and the workflow's benchmark files; the last line is one JSON object.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from run_tables import arguments, print_origin, print_stages, read_json, stage_rows

VARIANTS = {"cam": "CAM", "psa_walk": "PSA walk", "retab_walk": "RETAB walk"}
MEANS = ("all", "base", "novel")


def percent(values: dict[str, float]) -> str:
    """all / base / novel in percent."""
    return " / ".join(f"{100 * values[mean]:.2f}" for mean in MEANS)


def fold_rows(root: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Per split, per column of the table: all, base, novel."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(root.glob("retab/*/score_maps/scores.json")):
        variants = read_json(path)["variants"]
        row = {
            f"{title}, best t": variants[name]["best"] for name, title in VARIANTS.items() if name in variants
        }
        row |= {
            f"{VARIANTS[name]}, argmax": variants[name]["png"] for name in VARIANTS if "png" in variants[name]
        }
        segmenter = read_json(path.parents[1] / "miou.json")
        row["segmenter on val"] = segmenter["miou"]
        rows[path.parents[1].name] = row
    return rows


def print_scores(rows: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    columns = list(next(iter(rows.values())))
    print("| fold | " + " | ".join(f"{column}: all / base / novel" for column in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for split, row in rows.items():
        print(f"| {split} | " + " | ".join(percent(row[column]) for column in columns) + " |")
    mean = {
        column: {m: statistics.mean(row[column][m] for row in rows.values()) for m in MEANS}
        for column in columns
    }
    print("| **mean** | " + " | ".join(f"**{percent(mean[column])}**" for column in columns) + " |")
    return mean


def main() -> None:
    given = arguments(__doc__)
    rows, stages = fold_rows(given.results), stage_rows(given.results, "retab")
    first = read_json(next(given.results.glob("retab/*/miou.json")))
    print_origin(first, config=given.config, target="all_folds")
    print(f"seed {first['seed']}, one run per fold. Protocol: {first['protocol']}\n")
    mean = print_scores(rows)
    print()
    total = print_stages(stages)
    print("\n" + json.dumps({"mean": mean, "job_seconds": total, "folds": list(rows)}))


if __name__ == "__main__":
    main()
