"""The committed table of finished runs of RAML, POP, SimFormer or LarvSeg: scores, seconds by stage.

    python benchmarks/variants_table.py results/bench/pop_voc256 --config config/bench/pop_voc256.yaml

Several folders are runs with several seeds. Reads miou.json and the workflow's benchmark files; the last line
is one JSON object.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from typing import Any

from run_tables import arguments, print_origin, print_stages, read_json, stage_rows

from anyshot.report.tables import harmonic_of

OLD = {"raml": "old"}  # what a paper calls the classes that are not novel, if not base
Key = tuple[str, int]  # variant, shots


def cell(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def deviation(values: list[float]) -> float | None:
    """Sample standard deviation; None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def print_scores(contents: dict[str, dict[str, Any]], old: str) -> dict[str, Any]:
    columns = ("all", "base", "novel", "harmonic")  # as `miou.json` names them
    found: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    print("| split | variant | shots | " + " | ".join(columns).replace("base", old) + " | H of means |")
    print("|---" * (4 + len(columns)) + "|")
    for split, content in contents.items():
        for entry in content["variants"]:
            spread = entry["spread"] or {}
            cells = [cell(entry["mean"].get(name), spread.get(name)) for name in columns]
            cells.append(cell(harmonic_of(entry["mean"]), None))
            print(f"| {split} | {entry['variant']} | {entry['shots'] or '-'} | " + " | ".join(cells) + " |")
            found[entry["variant"], entry["shots"]].append(entry["mean"])
    means: dict[str, Any] = {}
    for (variant, shots), rows in found.items():
        given = {name: [row[name] for row in rows if row.get(name) is not None] for name in columns}
        mean = {name: statistics.mean(values) if values else None for name, values in given.items()}
        spread = {
            name: statistics.stdev(values) if len(values) > 1 else None for name, values in given.items()
        }
        print(
            f"| **mean** | {variant} | {shots or '-'} | "
            + " | ".join(f"**{cell(value, spread[name])}**" for name, value in mean.items())
            + f" | **{cell(harmonic_of(mean), None)}** |"
        )
        means[f"{variant} {shots}"] = {**mean, "harmonic_of_means": harmonic_of(mean)}
    return means


def main() -> None:
    given = arguments(__doc__, several=True)
    several = len(given.results) > 1
    contents = {
        f"{root.name} {path.parent.name}" if several else path.parent.name: read_json(path)
        for root in given.results
        for path in sorted(root.glob("*/*/miou.json"))
    }
    first = next(iter(contents.values()))
    system = first["system"]
    print_origin(first, config=given.config, target=f"{system}_all")
    spreads = "sample standard deviation over draws of support images; of the mean: over splits and seeds"
    harmonics = "harmonic: mean of the harmonic means; H of means: harmonic mean of the row's two means"
    print(f"In %. ±: {spreads}; {harmonics}.\n")
    means = print_scores(contents, OLD.get(system, "base"))
    print()
    stages: dict[str, list[dict[str, float]]] = defaultdict(list)
    for root in given.results:
        for stage, jobs in stage_rows(root, system).items():
            stages[stage] += jobs
    total = print_stages(stages)
    print("\n" + json.dumps({"mean": means, "job_seconds": total, "splits": list(contents)}))


if __name__ == "__main__":
    main()
