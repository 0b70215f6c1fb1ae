"""What Snakemake costs with 100, 1,000 and 10,000 jobs: our rules on stages that only touch their outputs.

    python benchmarks/scale.py [--small] [--longest SECONDS]

For each number of jobs, in a throw-away copy of the workflow with all five systems of `config.yaml` (only
splits, draws and `shards` differ): a dry run with nothing made, a run with 2 and with 8 cores, a run with
nothing to do, and a run with nothing to do of which one job alone is wanted. Seconds are wall clock, in
brackets CPU seconds of all processes; memory is the peak of the largest one. A run that would take more than
`--longest` seconds, by the seconds per job of the next smaller number, is not made: its seconds are computed
and marked so, and its outputs and records are made without running a job. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.scale_checkout import REPOSITORY, Checkout, configuration

JOBS = (100, 1000, 10_000)
CORES = (2, 8)
TARGETS = ("all_folds", "report")
STUB_CALLS = 20


def timed(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Seconds of a command, CPU seconds of all its processes, and the peak MiB of the largest of them."""
    log = folder / "command.log"
    begin = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: status {process.returncode}\n{log.read_text()[-3000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu": cpu, "mib": usage.ru_maxrss / 2**10}


def stub_seconds(checkout: Checkout) -> float:
    """Seconds of one pretended stage without Snakemake."""
    script = checkout.folder / "workflow" / "scripts" / "retab" / "cam.py"
    begin = time.perf_counter()
    for _ in range(STUB_CALLS):
        subprocess.run([sys.executable, str(script)], check=True)
    return (time.perf_counter() - begin) / STUB_CALLS


def measure(jobs: int, folder: Path, per_job: dict[int, float], longest: float) -> dict[str, Any]:
    """One row of the table. `per_job` holds seconds per job by cores of the next smaller number."""
    content, exact = configuration(jobs)
    shards = content["retab"]["shards"]
    row: dict[str, Any] = {"jobs": exact, "shards": shards}
    checkout = Checkout.make(folder / f"{jobs}", content)
    row["stub_seconds"] = stub_seconds(checkout)
    row["dry_run"] = timed(checkout.command("-n", "--", *TARGETS), checkout.folder)
    for cores in CORES:
        expected = exact * per_job.get(cores, 0.0)
        if expected > longest:
            row[f"run_{cores}"] = None
            row[f"run_{cores}_computed"] = expected
            continue
        checkout = Checkout.make(folder / f"{jobs}_{cores}", content)
        row[f"run_{cores}"] = timed(checkout.command("--", *TARGETS, cores=cores), checkout.folder)
        per_job[cores] = row[f"run_{cores}"]["seconds"] / exact
    if not any(row[f"run_{cores}"] for cores in CORES):
        checkout.make_all(TARGETS)
    row["nothing_to_do"] = timed(checkout.command("--", *TARGETS), checkout.folder)
    one = f"results/retab/fold0/random_walk/retab/1of{shards}.h5"
    row["one_job"] = timed(checkout.command("--", one), checkout.folder)
    row["files"] = sum(len(names) for _, _, names in os.walk(checkout.folder / "results"))
    row["records"] = sum(len(names) for _, _, names in os.walk(checkout.folder / ".snakemake" / "metadata"))
    print(json.dumps(row), file=sys.stderr)
    return row


def cell(value: dict[str, float]) -> str:
    return f"{value['seconds']:.1f} s ({value['cpu']:.1f})"


def print_table(rows: list[dict[str, Any]]) -> None:
    heads = ["jobs", "shards", "dry run", "nothing to do", "one job of a finished run", "memory"]
    heads += [f"run, {cores} cores" for cores in CORES] + [f"per job, {cores} cores" for cores in CORES]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        cells = [f"{row['jobs']:,}", str(row["shards"])]
        cells += [cell(row[name]) for name in ("dry_run", "nothing_to_do", "one_job")]
        cells.append(f"{max(row['dry_run']['mib'], row['nothing_to_do']['mib']):.0f} MiB")
        for cores in CORES:
            run = row[f"run_{cores}"]
            cells.append(cell(run) if run else f"{row[f'run_{cores}_computed']:.0f} s, computed")
        for cores in CORES:
            run = row[f"run_{cores}"]
            cells.append(f"{1000 * run['seconds'] / row['jobs']:.0f} ms" if run else "-")
        print(f"| {' | '.join(cells)} |")


def print_origin(load: float) -> None:
    commit = subprocess.run(
        ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"],
        check=True, text=True, stdout=subprocess.PIPE,
    ).stdout.strip()  # fmt: skip
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.machine()
    )  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    print(f"Command: `python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}`  ")
    print(f"Commit: {commit}  ")
    print(
        f"Machine: {processor}, {cores} cores, Python {platform.python_version()}; load before: {load:.1f}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--small", action="store_true", help="100 jobs only, to see that it runs")
    parser.add_argument("--longest", type=float, default=600, metavar="SECONDS", help="longest run (600)")
    parser.add_argument("--folder", type=Path, help="where the throw-away copies lie (the temporary folder)")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    per_job: dict[int, float] = {}
    with tempfile.TemporaryDirectory(prefix="anyshot-scale-", dir=arguments.folder) as folder:
        rows = [
            measure(jobs, Path(folder), per_job, arguments.longest)
            for jobs in (JOBS[:1] if arguments.small else JOBS)
        ]
    print_origin(load)
    print_table(rows)
    print(json.dumps({"small": arguments.small, "benchmark": "scale", "load": load, "rows": rows}))


if __name__ == "__main__":
    main()
