"""Sections that every system shares: training, cost, provenance."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from anyshot.engine.stores import Store
from anyshot.job import duration
from anyshot.report import plots
from anyshot.report.blocks import Block, Cell, Code, Details, Figure, Figures, RowGroup, Section, Table
from anyshot.report.material import Material, Place, finite, place_of, read_curve, read_json, title_of
from anyshot.report.tables import ABSENT, number

DRAW = re.compile(r"_seed\d+$")  # of support images, in a variant's name
STORES = ("cam", "psa_walk", "retab_walk", "shown")

# Columns of train.jsonl that are no part of the loss.
CURVE_COLUMNS = {
    "step",
    "steps",
    "epoch",
    "learning_rate",
    "images_per_second",
    "milliseconds_per_step",
    "peak_mib",
    "eta_seconds",
    "seconds",
    "time",
    "distilled",
    "similar_f1",
    "dissimilar_f1",
}
SHARES = "_warm"  # ends the columns that say how much of a source's attention counts


def training(material: Material) -> Section | None:
    """Loss parts and learning rate of every trained network, with its speed and memory."""
    figures: list[Figure] = []
    groups: dict[str, list[list[Cell]]] = {}
    for path in sorted(material.files("curves"), key=lambda path: place_of(path).order):
        lines = [line for line in read_curve(path) if finite(line.get("step")) is not None]
        if not lines:
            continue
        place, last = place_of(path), lines[-1]
        title = _where(place)
        losses = [key for key in last if key not in CURVE_COLUMNS and not key.endswith(SHARES)]
        parts = [key for key in losses if any(finite(line.get(key)) for line in lines)]
        uri = plots.training_curve(lines, parts, title=title, points=material.options.curve_points)
        ends = (f"{_loss(line)} at step {line['step']}" for line in (lines[0], last))
        alt = f"Training of {title}: loss " + ", then ".join(ends) + "."
        figures.append(Figure(uri, alt, width=520))
        groups.setdefault(title_of(place.system), []).append(
            [
                Cell(place.title),
                Cell(place.split),
                number(last.get("steps") or last["step"]),
                Cell(_loss(lines[0]), number=True),
                Cell(_loss(last), number=True),
                Cell(_median(lines, "milliseconds_per_step", "{:.0f}"), number=True),
                Cell(_median(lines, "images_per_second", "{:.1f}"), number=True),
                Cell(_largest(lines, "peak_mib"), number=True),
            ]
        )
    if not figures:
        return None
    columns = ["Network", "split", "steps", "first loss", "last loss", "ms/step", "images/s", "peak MiB"]
    footnote = (
        "ms/step and images/s: medians over the run. First and last loss: the first and the last logged step."
    )
    rows = [RowGroup(system, group) for system, group in groups.items()]
    table = Table("Trained networks", columns, rows, footnote=footnote)
    return Section("training", "Training", [table, Figures(figures)])


def _where(place: Place) -> str:
    """A stage of a split of a system, for people: `RETAB affinity (mixed), fold0`."""
    title = " ".join(filter(None, (title_of(place.system), place.title)))
    return f"{title}, {place.split}" if place.split else title


def _loss(line: Mapping[str, Any]) -> str:
    value = finite(line.get("loss"))
    return ABSENT if value is None else f"{value:.4f}"


def _median(lines: Sequence[Mapping[str, Any]], key: str, pattern: str) -> str:
    values = pd.Series([line.get(key) for line in lines], dtype=float).dropna()
    return pattern.format(values.median()) if len(values) else ABSENT


def _largest(lines: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [value for line in lines if (value := finite(line.get(key))) is not None]
    return f"{max(values):,.0f}".replace(",", "\u202f") if values else ABSENT


def cost(material: Material) -> Section | None:
    """Seconds and peak memory of every stage, from the benchmark files; its shards and draws as one."""
    found: dict[Place, list[tuple[float, float | None]]] = {}
    for path in material.files("benchmarks"):
        table = pd.read_csv(path, sep="\t")
        if "s" in table:
            memory = _numbers(table, "max_rss").max() if "max_rss" in table else math.nan
            seconds = float(_numbers(table, "s").sum())
            place = place_of(path)
            stage = replace(place, variant=DRAW.sub("", place.variant))
            found.setdefault(stage, []).append((seconds, finite(float(memory))))
    if not found:
        return None
    longest = max(sum(seconds for seconds, _ in jobs) for jobs in found.values()) or 1
    groups: dict[str, list[list[Cell]]] = {}
    for place in sorted(found, key=lambda place: place.order):
        seconds = sum(seconds for seconds, _ in found[place])
        peak = max((memory for _, memory in found[place] if memory is not None), default=None)
        groups.setdefault(" ".join((title_of(place.system), place.split)), []).append([
            Cell(place.title),
            number(len(found[place])),
            Cell(duration(seconds), number=True, bar=seconds / longest),
            Cell(f"{seconds:.1f}", number=True),
            Cell(ABSENT, number=True) if peak is None else number(peak),
        ])  # fmt: skip
    total = sum(seconds for jobs in found.values() for seconds, _ in jobs)
    footnote = f"All jobs, one after the other: {duration(total)}. Memory: the largest resident set of a job."
    columns = ["Stage", "jobs", "time", "seconds", "peak memory, MiB"]
    rows = [RowGroup(name, group) for name, group in groups.items()]
    return Section("cost", "Time and memory", [Table("Cost per stage", columns, rows, footnote=footnote)])


def total_seconds(material: Material) -> float:
    """Seconds of all jobs together, from the benchmark files."""
    tables = [pd.read_csv(path, sep="\t") for path in material.files("benchmarks")]
    return sum(float(_numbers(table, "s").sum()) for table in tables if "s" in table)


def _numbers(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers; short jobs have `-` or `NA` where nothing could be measured."""
    return pd.to_numeric(table[column], errors="coerce")


def as_float(value: Any) -> float | None:
    """A finite number, also from text; None for what is none."""
    try:
        return finite(float(value))
    except (TypeError, ValueError):
        return None


def provenance(material: Material) -> Section | None:
    """Where the numbers come from: versions, commit, and the options of every stage that recorded them."""
    records = [(_where(place), record) for place, record in _records(material)]
    if material.provenance:
        records.append(("report", dict(material.provenance)))
    if not records:
        return None
    rows = [[Cell(title), *(Cell(text) for text in _record_cells(record))] for title, record in records]
    columns = ["Stage", "anyshot", "torch", "commit", "seed", "seconds", "fingerprint"]
    options: dict[str, list[str]] = {}
    for title, record in records:
        if record.get("options"):
            options.setdefault(_pretty(record["options"]), []).append(title)
    blocks: list[Block] = [Table("Versions", columns, [RowGroup("", rows)])]
    if options:  # splits mostly share their options: shown once
        inner = [Details("; ".join(titles), [Code(text)]) for text, titles in options.items()]
        blocks.append(Details("Options by stage", inner))
    return Section("provenance", "Provenance", blocks)


def _records(material: Material) -> list[tuple[Place, dict[str, Any]]]:
    """What model cards, score stores (one shard of each) and results say of themselves, in pipeline order."""
    found: dict[Place, dict[str, Any]] = {}
    for path in material.files("model_cards"):
        found[place_of(path)] = read_json(path)
    for path in (path for name in STORES for path in material.files(name)):
        if place_of(path) not in found:
            found[place_of(path)] = dict(Store(path).attributes)
    for result in material.results:
        for stage, content in (("score_maps", result.scores), ("evaluate", result.miou)):
            if content:
                found[Place(result.system, result.split, stage)] = dict(content)
    return sorted(found.items(), key=lambda item: item[0].order)


def short_commit(commit: str) -> str:
    """The first characters of a commit, and whether the checkout had been changed."""
    return commit[:10] + "-dirty" * commit.endswith("-dirty")


def _record_cells(record: Mapping[str, Any]) -> list[str]:
    versions = record.get("versions")
    merged = {**(versions if isinstance(versions, Mapping) else {}), **record}

    def first(*keys: str) -> str:
        return next((str(merged[key]) for key in keys if merged.get(key)), ABSENT)

    seconds = as_float(merged.get("seconds"))
    return [
        first("anyshot", "anyshot_version", "version"),
        first("torch", "torch_version"),
        short_commit(first("commit", "git_commit")),
        first("seed"),
        ABSENT if seconds is None else f"{seconds:.1f}",
        first("fingerprint", "options_hash")[:12],
    ]


def _pretty(options: Any) -> str:
    if not options:
        return ""
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except ValueError:
            return str(options)
    return json.dumps(options, indent=1, sort_keys=True, ensure_ascii=False)
