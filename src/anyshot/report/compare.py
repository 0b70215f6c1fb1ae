"""What changed between two results folders: options and versions of the stages, and the numbers.

Files are paired by their path below the two folders: cards of weights (`model.json`), score stores (the
first of a stage's shards speaks for all), `scores.json` and `miou.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anyshot.engine.stores import Store
from anyshot.errors import ArtifactError
from anyshot.report.material import SHARD, SplitResult, read_json, split_results
from anyshot.report.tables import ABSENT, MEASURES, label, percent, scored_variants

RECORDS = ("model.json", "scores.json", "miou.json")
# Entries beside the options that say how a result came about; hashes differ whenever these or the inputs do.
CIRCUMSTANCES = ("seed", "anyshot", "torch", "commit", "device", "precision")
MISSING = "(absent)"


def compare(folder_a: Path, folder_b: Path) -> str:
    """Text for people: stages only one run has, options that differ, numbers side by side.

    Raises ArtifactError when a folder holds nothing that could be compared.
    """
    records_a, records_b = _records(folder_a), _records(folder_b)
    results_a, results_b = _results(folder_a), _results(folder_b)
    for folder, records, results in ((folder_a, records_a, results_a), (folder_b, records_b, results_b)):
        if not records and not results:
            raise ArtifactError(
                f"{folder} holds no results (no {', '.join(RECORDS)}, no .h5 below it);"
                " give two results folders, e.g. results and results.old"
            )
    head = [f"a: {folder_a}", f"b: {folder_b}"]
    parts = [
        head,
        _only_one(records_a, records_b),
        _changes(records_a, records_b),
        _numbers(results_a, results_b),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    """Per stage folder or file, relative to `folder`: what its card or attributes say, `options` unpacked."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.name in RECORDS:
            found[path.relative_to(folder).as_posix()] = _unpacked(read_json(path))
        elif path.suffix == ".h5" and not path.name.startswith("."):
            name = path.parent if SHARD.fullmatch(path.stem) else path
            key = name.relative_to(folder).as_posix()
            if key not in found:
                found[key] = _unpacked(Store(path).attributes)
    return found


def _unpacked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options and circumstances of a record as one flat mapping `optimiser.epochs -> 8`."""
    options = record.get("options") or {}
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError:
            options = {"options": options}
    merged = {**(record.get("versions") or {}), **record}
    flat = dict(_flat(options if isinstance(options, Mapping) else {"options": options}, ""))
    return {
        **flat,
        **{f"[{key}]": str(merged[key]) for key in CIRCUMSTANCES if merged.get(key) not in (None, "")},
    }


def _flat(content: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _only_one(records_a: Mapping[str, Any], records_b: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, own, other in (("a", records_a, records_b), ("b", records_b, records_a)):
        lines += [f"  only in {name}: {key}" for key in own if key not in other]
    return ["Results that only one run has", *lines] if lines else []


def _changes(records_a: Mapping[str, dict[str, Any]], records_b: Mapping[str, dict[str, Any]]) -> list[str]:
    """Table of the entries that differ; circumstances that differ alike everywhere are told once."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for stage in (key for key in records_a if key in records_b):
        a, b = records_a[stage], records_b[stage]
        for key in dict.fromkeys([*a, *b]):
            if a.get(key, MISSING) != b.get(key, MISSING):
                change = (key, _shown(a.get(key, MISSING)), _shown(b.get(key, MISSING)))
                rows.setdefault(change, []).append(stage)
    if not rows:
        return ["Options: no differences"]
    table = [[_stages(stages), *change] for change, stages in rows.items()]
    return ["Options that differ", *aligned(["stage", "option", "a", "b"], table)]


def _stages(stages: Sequence[str]) -> str:
    return stages[0] if len(stages) == 1 else f"{stages[0]} and {len(stages) - 1} more"


def _shown(value: Any, longest: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _results(folder: Path) -> list[SplitResult]:
    return split_results(sorted(folder.rglob("miou.json")), sorted(folder.rglob("scores.json")))


def _numbers(results_a: Sequence[SplitResult], results_b: Sequence[SplitResult]) -> list[str]:
    scored_a, scored_b = _values(results_a), _values(results_b)
    rows = []
    for key in dict.fromkeys([*scored_a, *scored_b]):
        a, b = scored_a.get(key, {}), scored_b.get(key, {})
        row = list(key)
        for name in MEASURES:
            before, after = a.get(name), b.get(name)
            change = ABSENT if before is None or after is None else f"{100 * (after - before):+.2f}"
            row += [percent(before), percent(after), change]
        rows.append(row)
    if not rows:
        return []
    columns = ["system", "split", "variant"]
    for name in MEASURES:
        columns += [f"{name} a", "b", "b-a"]
    return ["mIoU in %", *aligned(columns, rows, numbers_from=3)]


def _values(results: Sequence[SplitResult]) -> dict[tuple[str, str, str], Mapping[str, float | None]]:
    return {
        (result.system, result.split, label(scored)): scored.values
        for result in results
        for scored in scored_variants(result)
    }


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int = 99) -> list[str]:
    """Lines of a text table; columns from `numbers_from` on are set to the right."""
    widths = [max(len(line[i]) for line in (columns, *rows)) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if i >= numbers_from else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return ("  " + "  ".join(padded)).rstrip()

    return [line(columns), "  " + "  ".join("-" * width for width in widths), *(line(row) for row in rows)]
