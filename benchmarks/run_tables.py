"""What the tables of finished runs share: where they come from, and seconds and memory per stage."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def arguments(description: str | None, *, several: bool = False) -> argparse.Namespace:
    """What the command line says: `results`, the folder of the run (several: a list of them, which differ in
    their seed), and `config`, its overlay."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+" if several else None)
    parser.add_argument("--config", type=Path, required=True)
    return parser.parse_args()


def stage_rows(root: Path, system: str) -> dict[str, list[dict[str, float]]]:
    """Per stage the measurements of all its jobs: s, cpu_time, max_rss (MiB)."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for path in sorted(root.glob(f"benchmarks/{system}/*/*.tsv")):
        with path.open() as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        keys = ("s", "cpu_time", "max_rss")
        values = {key: float(row[key]) for key in keys if row[key] not in ("NA", "-")}
        found[path.name.split(".")[0]].append(values)
    return found


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


def print_origin(first: Mapping[str, Any], *, config: Path, target: str) -> None:
    """Command, commit, versions and machine of a run, of one of its `miou.json`."""
    print(f"Command: `snakemake --cores 2 --configfile {config} -- {target}`  ")
    print(
        f"Commit of the results: {first.get('commit', 'not in a checkout')}; versions: {first['versions']}  "
    )
    cores = len(os.sched_getaffinity(0))
    processor = platform.processor() or platform.machine()
    print(f"Machine: {processor}, {cores} cores, Python {platform.python_version()}; ")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
