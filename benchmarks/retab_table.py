"""The committed table of a finished RETAB run: scores per fold and mean, seconds and memory per stage.

    python benchmarks/retab_table.py results/bench/retab_voc256 --config config/bench/retab_voc256.yaml

Reads scores.json, miou.json and the workflow's benchmark files; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

VARIANTS = {"cam": "CAM", "psa_walk": "PSA walk", "retab_walk": "RETAB walk"}
MEANS = ("all", "base", "novel")


def percent(values: dict[str, float]) -> str:
    """all / base / novel in percent."""
    return " / ".join(f"{100 * values[mean]:.2f}" for mean in MEANS)


def fold_rows(root: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Per split, per column of the table: all, base, novel."""
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for path in sorted(root.glob("retab/*/score_maps/scores.json")):
        variants = json.loads(path.read_text())["variants"]
        row = {
            f"{title}, best t": variants[name]["best"] for name, title in VARIANTS.items() if name in variants
        }
        row |= {
            f"{VARIANTS[name]}, argmax": variants[name]["png"] for name in VARIANTS if "png" in variants[name]
        }
        segmenter = json.loads((path.parents[1] / "miou.json").read_text())
        row["segmenter on val"] = segmenter["miou"]
        rows[path.parents[1].name] = row
    return rows


def stage_rows(root: Path) -> dict[str, list[dict[str, float]]]:
    """Per stage the measurements of all its jobs: s, cpu_time, max_rss (MiB)."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for path in sorted(root.glob("benchmarks/retab/*/*.tsv")):
        with path.open() as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        keys = ("s", "cpu_time", "max_rss")
        values = {key: float(row[key]) for key in keys if row[key] not in ("NA", "-")}
        found[path.name.split(".")[0]].append(values)
    return found


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


def print_stages(stages: dict[str, list[dict[str, float]]]) -> float:
    print("| stage | jobs | seconds of all jobs | CPU seconds of all jobs | largest memory of a job, MiB |")
    print("|---|---|---|---|---|")
    for stage, jobs in sorted(stages.items(), key=lambda item: -sum(job["s"] for job in item[1])):
        seconds, cpu = sum(job["s"] for job in jobs), sum(job.get("cpu_time", 0) for job in jobs)
        memory = max((job.get("max_rss", 0) for job in jobs), default=0)
        print(f"| {stage} | {len(jobs)} | {seconds:.0f} | {cpu:.0f} | {memory:.0f} |")
    total = sum(job["s"] for jobs in stages.values() for job in jobs)
    print(f"| **all** | {sum(map(len, stages.values()))} | **{total:.0f}** | | |")
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    rows, stages = fold_rows(arguments.results), stage_rows(arguments.results)
    first = json.loads(next(arguments.results.glob("retab/*/miou.json")).read_text())
    print(f"Command: `snakemake --cores 2 --configfile {arguments.config} -- all_folds`  ")
    print(
        f"Commit of the results: {first.get('commit', 'not in a checkout')}; versions: {first['versions']}  "
    )
    cores = len(os.sched_getaffinity(0))
    processor = platform.processor() or platform.machine()
    print(f"Machine: {processor}, {cores} cores, Python {platform.python_version()}; ")
    print(f"seed {first['seed']}, one run per fold. Protocol: {first['protocol']}\n")
    mean = print_scores(rows)
    print()
    total = print_stages(stages)
    print("\n" + json.dumps({"mean": mean, "job_seconds": total, "folds": list(rows)}))


if __name__ == "__main__":
    main()
