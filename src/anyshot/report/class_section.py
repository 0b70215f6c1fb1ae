"""IoU of every class, base and novel apart: bars, and the numbers on demand. For every system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyshot.report import plots
from anyshot.report.blocks import Block, Details, Figure, Section, css_colour
from anyshot.report.material import Material, finite
from anyshot.report.tables import VARIANTS, Scored, class_table_block


def class_section(
    material: Material, splits: Mapping[str, tuple[str, Sequence[Scored]]], *, anchor: str
) -> Section | None:
    """One part per split; `splits` maps it to the data set's name and what is drawn, each variant once."""
    parts = []
    for split, (dataset, found) in splits.items():
        scored = [item for item in found if item.classes]
        if scored:
            blocks = _blocks(scored, _colours(material, dataset), split)
            parts.append(Section(f"{anchor}-{split}", split, blocks))
    return Section(anchor, "Classes", (), subsections=parts) if parts else None


def _colours(material: Material, dataset: str) -> dict[int, str]:
    table = material.class_table(dataset)
    if table is None:
        return {}
    return {number: css_colour(colour) for number, colour in zip(table.ids, table.colours, strict=True)}


def _blocks(scored: Sequence[Scored], colours: Mapping[int, str], split: str) -> list[Block]:
    longest = max(scored, key=lambda item: len(item.classes)).classes
    scored_entries = [entry for entry in longest if entry.get("role") != "ignore"]
    entries = sorted(scored_entries, key=lambda entry: entry.get("role") == "novel")
    series = {item.variant: _per_class(item, entries) for item in scored}
    names = [str(entry.get("name", entry["id"])) for entry in entries]
    uri = plots.class_bars(names, [entry.get("role") == "novel" for entry in entries], series, VARIANTS)
    shots = sorted({item.shots for item in scored if item.shots})
    caption = f"{', '.join(map(str, shots))} support images per novel class" if shots else ""
    return [
        Figure(uri, f"Bars of the IoU per class on {split}; the numbers are in the table below.", caption),
        Details("Numbers", [class_table_block(scored, colours, caption=f"IoU per class, {split}")]),
    ]


def _per_class(item: Scored, entries: Sequence[Mapping[str, Any]]) -> list[float | None]:
    iou = {entry["id"]: finite(entry.get("iou")) for entry in item.classes}
    return [iou.get(entry["id"]) for entry in entries]
