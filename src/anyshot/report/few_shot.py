"""What the parts of systems that learn from drawn support images share: tables, remarks, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from anyshot.report.blocks import Cell, RowGroup, Section, Table
from anyshot.report.class_section import class_section
from anyshot.report.material import Material, SplitResult
from anyshot.report.tables import (
    ABSENT,
    MEASURES,
    VARIANTS,
    Scored,
    harmonic_of,
    percent,
    scored_variants,
    shots_of,
)

OF_MEANS = "H of means"


class Protocol(NamedTuple):
    """Columns of a further protocol, `name` in `Scored.others`."""

    name: str
    heading: str
    measures: Sequence[str]


def heading(title: str, found: Sequence[SplitResult]) -> str:
    """The system's title and its data sets."""
    names = ", ".join(dict.fromkeys(result.dataset for result in found if result.dataset))
    return f"{title} on {names}" if names else title


def circumstances(found: Sequence[SplitResult]) -> list[str]:
    """Paragraphs on what was scored how, and where the published numbers come from."""
    where = [
        f"{r.split} on `{r.miou.get('subset', '')}` ({r.miou.get('images', ABSENT)} images)" for r in found
    ]
    protocols = dict.fromkeys(str(result.miou.get("protocol") or "") for result in found)
    sources = dict.fromkeys(str((r.miou.get("reference") or {}).get("source") or "") for r in found)
    return [
        f"Scored: {'; '.join(where)}.",
        *(f"Protocol: {text}" for text in protocols if text),
        *(f"Published: {source}." for source in sources if source),
    ]


def of_most_shots(scored: Sequence[Scored]) -> list[Scored]:
    """What knows no support images and what was made of the largest number of them: each variant once."""
    most = max((item.shots or 0 for item in scored), default=0)
    return [item for item in scored if item.shots in (None, most)]


def classes(
    material: Material, system: str, wanted: Callable[[SplitResult], Sequence[str]]
) -> Section | None:
    """IoU per class of the variants `wanted` of a split, in this order, with the most support images."""
    splits = {}
    for result in material.results_of(system):
        scored = {item.variant: item for item in of_most_shots(scored_variants(result))}
        drawn = [scored[name] for name in wanted(result) if name in scored]
        splits[result.split] = (result.dataset, drawn)
    return class_section(material, splits, anchor=f"{system}-classes")


def draws_table(
    splits: Mapping[str, Sequence[Scored]],
    *,
    measured: str = "mIoU in %",
    further: Sequence[Protocol] = (),
    of_means: bool = False,
) -> Table:
    """Variants by measures for each split and number of shots, mean and spread over the draws.

    `further` protocols have columns of their own, published numbers a row of their own. With `of_means` the
    harmonic mean of the mean base and the mean novel mIoU stands beside the mean of the harmonic means.
    """
    everything = [item for scored in splits.values() for item in scored]
    columns = ["Variant", "draws", *MEASURES, *([OF_MEANS] if of_means else ())]
    spans = [("", 2), (measured, len(MEASURES) + of_means)]
    for protocol in further:
        columns += protocol.measures
        spans.append((protocol.heading, len(protocol.measures)))
    groups = [
        RowGroup(f"{split}, {shots_of(number)}" if number else split, _rows(members, further, of_means))
        for split, scored in splits.items()
        for number, members in _by_shots(scored).items()
    ]
    footnote = "Bold: best novel mIoU of a number of shots."
    if any(value is not None for item in everything for value in item.spread.values()):
        footnote += " ±: sample standard deviation over the draws of support images."
    if of_means:
        footnote += (
            f" harmonic: mean over draws and splits of their harmonic means; {OF_MEANS}: harmonic mean of"
        )
        footnote += " the base and novel mIoU of this row."
    caption = "mIoU over all, base (old) and novel classes, and the harmonic mean of base and novel"
    return Table(caption, columns, groups, tuple(spans), footnote)


def _by_shots(scored: Sequence[Scored]) -> dict[int, list[Scored]]:
    """What was scored by the number of support images, 0 where none is known, ascending."""
    groups: dict[int, list[Scored]] = {}
    for item in sorted(scored, key=lambda item: item.shots or 0):
        groups.setdefault(item.shots or 0, []).append(item)
    return groups


def _rows(scored: Sequence[Scored], further: Sequence[Protocol], of_means: bool) -> list[list[Cell]]:
    """Rows of one number of shots."""
    best = max((item.values["novel"] or 0.0 for item in scored if item.shots), default=0.0)
    rows = []
    for item in scored:
        name = VARIANTS.get(item.variant, item.variant)
        row = [Cell(name), Cell(str(len(item.draws) or ABSENT), number=True)]
        row += _measured(item, MEASURES, best or None)
        if of_means:
            row.append(Cell(percent(harmonic_of(item.values)), number=True))
        for protocol in further:
            other = item.others.get(protocol.name)
            row += _empty(len(protocol.measures)) if other is None else _measured(other, protocol.measures)
        rows.append(row)
        if item.reference:
            published = [Cell(percent(item.reference.get(key)), muted=True, number=True) for key in MEASURES]
            if of_means:
                published.append(Cell(percent(harmonic_of(item.reference)), muted=True, number=True))
            rest = _empty(sum(len(protocol.measures) for protocol in further))
            rows.append([Cell(f"{name}, published", muted=True), *_empty(1), *published, *rest])
    return rows


def _empty(count: int) -> list[Cell]:
    return [Cell(ABSENT, muted=True, number=True)] * count


def _measured(item: Scored, names: Iterable[str], best: float | None = None) -> list[Cell]:
    """Cells of means and spreads; a novel mIoU that is `best` in bold."""
    cells = []
    for name in names:
        value, spread = item.values[name], item.spread.get(name)
        text = percent(value) + ("" if spread is None else f" ± {percent(spread)}")
        cells.append(Cell(text, strong=name == "novel" and value is not None and value == best, number=True))
    return cells
