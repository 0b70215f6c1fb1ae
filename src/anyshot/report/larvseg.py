"""LarvSeg's sections of the report: headline numbers, classes, what is taken for what."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anyshot.report import few_shot, plots, sections
from anyshot.report.blocks import (
    Block,
    Cell,
    Details,
    Figure,
    Figures,
    RowGroup,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    css_colour,
)
from anyshot.report.material import Material, SplitResult, finite, place_of, read_curve
from anyshot.report.tables import (
    MEASURES,
    VARIANTS,
    Scored,
    class_table_block,
    gain,
    measures,
    percent,
    rank,
    reference_of,
)

SYSTEM = "larvseg"
ATTENTIVE, BASELINE, ORACLE = "attentive", "baseline", "oracle"
METHOD = (
    "LarvSeg segments a large vocabulary with masks of a small one. Images with masks teach pixels; images of"
    " which only the classes are known teach logits that are pooled over the image. Features of an image are"
    " compared with a bank of features of the same class in other images: where they agree, and agree less"
    " with the image's other classes, is the class's attention, and a second loss pools there. Novel are the"
    " classes that no mask was learnt of; covered ones have image labels, the others nothing."
)
REMARKS: Mapping[str, str] = {
    "pixel_only": "no image label is learnt from, so novel classes are told by chance",
    BASELINE: "image labels by the plain mean over the image",
    ORACLE: "the masks of the image-labelled sources are learnt from, too",
}
GROUPS: Mapping[str, str] = {
    "covered": "covered",
    "uncovered": "not covered",
    "rare": "rare",
    "common": "common",
    "frequent": "frequent",
}
ACCURACIES: Mapping[str, str] = {"pixels": "pixels", "mean": "classes"}
WARM = sections.SHARES  # ends the columns of train.jsonl that this is about
WARM_REMARK = (
    "The attention to a label counts once the bank has been filled with its class as often as"
    " `attention.warm_up` says. Of the labels of a source's crops, this share counted."
)
MOST_BARS = 48  # classes that are drawn; the tables have all
EXTREMES = 8  # best and worst classes listed
NEAR = 0.75  # share of letters in common above which two names are near


@dataclass(frozen=True)
class Measured:
    """One method on one target of one experiment; all numbers are fractions, None where undefined.

    reference: published means of the same, where the settings are the published ones.
    """

    split: str
    method: str
    target: str
    values: Mapping[str, float | None]
    groups: Mapping[str, float | None]
    accuracy: Mapping[str, float | None]
    classes: Sequence[Mapping[str, Any]]
    confused: Sequence[Mapping[str, Any]]
    reference: Mapping[str, float | None] | None = None

    @property
    def name(self) -> str:
        """The method, for people."""
        return VARIANTS.get(self.method, self.method)

    @property
    def scored(self) -> Scored:
        """For the tables and bars that all systems share."""
        return Scored(self.method, self.split, self.values, classes=self.classes)


def measured(result: SplitResult) -> dict[str, list[Measured]]:
    """What was measured in an experiment by target, the first target first; methods in a table's order."""
    found: dict[str, list[Measured]] = {}
    for entry in result.miou.get("variants") or ():
        target = str(entry.get("target", ""))
        found.setdefault(target, []).append(
            Measured(
                result.split,
                str(entry.get("method") or entry["variant"]),
                target,
                measures(entry["mean"]),
                _numbers(entry, "groups"),
                _numbers(entry, "accuracy"),
                entry.get("classes") or (),
                entry.get("confused") or (),
                reference_of(result.miou.get("reference"), str(entry["variant"])),
            )
        )
    return {target: sorted(members, key=lambda one: rank(one.method)) for target, members in found.items()}


def _numbers(entry: Mapping[str, Any], key: str) -> dict[str, float | None]:
    return {str(name): finite(value) for name, value in (entry.get(key) or {}).items()}


def first_target(result: SplitResult) -> str:
    """The target that leads the results, whose data set is the result's; "" where nothing was scored."""
    return next(iter(measured(result)), "")


def by_place(material: Material) -> dict[tuple[str, str], list[Measured]]:
    """Everything measured by experiment and target."""
    return {
        (result.split, target): members
        for result in material.results_of(SYSTEM)
        for target, members in measured(result).items()
    }


def results(material: Material) -> Section | None:
    """The numbers to take home, the protocol in words, and a row per method and target."""
    places = by_place(material)
    if not places:
        return None
    found = [result for result in material.results_of(SYSTEM) if measured(result)]
    present = {item.method for members in places.values() for item in members}
    remarks = [f"{VARIANTS[name]}: {remark}." for name, remark in REMARKS.items() if name in present]
    blocks: list[Block] = [
        Tiles(_tiles(places)),
        Text([METHOD, *few_shot.circumstances(found)]),
        results_table(places),
        Text(remarks),
    ]
    return Section(SYSTEM, few_shot.heading("LarvSeg", found), blocks)


def _tiles(places: Mapping[tuple[str, str], Sequence[Measured]]) -> list[Tile]:
    """Novel mIoU of the method and the upper bound, and base mIoU, on the first experiment's first target."""
    (split, target), members = next(iter(places.items()))
    known, place = {item.method: item for item in members}, title_of_place(split, target)
    tiles = []
    for method in (ATTENTIVE, ORACLE):
        if method in known:
            remark = place
            if method == ATTENTIVE and BASELINE in known:
                remark += f", {percent(known[BASELINE].values['novel'])} {VARIANTS[BASELINE].lower()}"
            value = percent(known[method].values["novel"])
            tiles.append(Tile(f"{VARIANTS[method]}, novel mIoU", value, remark))
    if ATTENTIVE in known:
        value = percent(known[ATTENTIVE].values["base"])
        tiles.append(Tile(f"{VARIANTS[ATTENTIVE]}, base mIoU", value, place))
    return tiles


def title_of_place(split: str, target: str) -> str:
    """An experiment and a target, for people."""
    return f"{split}, on {target}" if target else split


def results_table(places: Mapping[tuple[str, str], Sequence[Measured]]) -> Table:
    """Methods by measures for each experiment and target."""
    everything = [item for members in places.values() for item in members]
    groups = [name for name in GROUPS if any(item.groups.get(name) is not None for item in everything)]
    shares = [name for name in ACCURACIES if any(item.accuracy.get(name) is not None for item in everything)]
    with_gain = any(item.method == BASELINE for item in everything)
    spans = [("", 1), ("mIoU in %", len(MEASURES) + with_gain)]
    spans += [("mIoU of classes, %", len(groups))] * bool(groups)
    spans += [("right, %", len(shares))] * bool(shares)
    columns = ["Method", *MEASURES, *["novel gain"] * with_gain]
    columns += [GROUPS[name] for name in groups] + [ACCURACIES[name] for name in shares]
    rows = [
        RowGroup(title_of_place(*place), _rows(members, groups, shares, with_gain=with_gain))
        for place, members in places.items()
    ]
    footnote = "Bold: best novel mIoU, the upper bound aside."
    if with_gain:
        footnote += f" Novel gain: points above “{VARIANTS[BASELINE]}”."
    if {"covered", "uncovered"} & set(groups):
        footnote += " Covered and not covered: novel classes with and without image labels."
    if {"rare", "common", "frequent"} & set(groups):
        footnote += " Rare to frequent: by the number of training images that show a class."
    return Table("Every method on every target", columns, rows, tuple(spans), footnote)


def _rows(
    members: Sequence[Measured], groups: Sequence[str], shares: Sequence[str], *, with_gain: bool
) -> list[list[Cell]]:
    novel = [item.values["novel"] for item in members if item.method != ORACLE]
    best = max((value for value in novel if value), default=None)
    baseline = next((item for item in members if item.method == BASELINE), None)
    rows = []
    for item in members:
        bound = item.method == ORACLE
        row = [Cell(item.name, muted=bound)]
        for name in MEASURES:
            strong = name == "novel" and best is not None and item.values[name] == best and not bound
            row.append(Cell(percent(item.values[name]), strong=strong, muted=bound, number=True))
        if with_gain:
            above = baseline is not None and item is not baseline
            text = gain(item.values["novel"], baseline.values["novel"]) if above and baseline else ""
            row.append(Cell(text, muted=True, number=True))
        row += [Cell(percent(item.groups.get(name)), muted=bound, number=True) for name in groups]
        row += [Cell(percent(item.accuracy.get(name)), muted=True, number=True) for name in shares]
        rows.append(row)
        if item.reference:
            found = [percent(item.reference.get(name)) for name in MEASURES]
            found += [""] * (len(row) - 1 - len(MEASURES))
            rows.append([Cell(f"{item.name}, published", muted=True),
                         *(Cell(text, muted=True, number=True) for text in found)])  # fmt: skip
    return rows


def classes(material: Material) -> Section | None:
    """Per experiment and target: bars of base and novel classes, the best and worst ones, all numbers."""
    parts = []
    for result in material.results_of(SYSTEM):
        for number, (target, members) in enumerate(measured(result).items()):
            scored = [item for item in members if item.classes]
            if scored:
                # only the first target's data set is that of the result
                colours = _colours(material, result.dataset) if number == 0 else {}
                title = title_of_place(result.split, target)
                anchor = f"{SYSTEM}-classes-{result.split}-{target}"
                parts.append(Section(anchor, title, _class_blocks(scored, colours, title)))
    return Section(f"{SYSTEM}-classes", "Classes", (), subsections=parts) if parts else None


def _colours(material: Material, dataset: str) -> dict[int, str]:
    table = material.class_table(dataset)
    if table is None:
        return {}
    return {number: css_colour(colour) for number, colour in zip(table.ids, table.colours, strict=True)}


def _class_blocks(members: Sequence[Measured], colours: Mapping[int, str], title: str) -> list[Block]:
    every = [entry for entry in members[0].classes if entry.get("role") != "ignore"]
    shown = sorted(every, key=lambda entry: -(finite(entry.get("pixels")) or 0))[:MOST_BARS]
    shown.sort(key=lambda entry: entry.get("role") == "novel")
    series = {}
    for item in members:
        iou = {entry["id"]: finite(entry.get("iou")) for entry in item.classes}
        series[item.method] = [iou.get(entry["id"]) for entry in shown]
    names = [str(entry.get("name", entry["id"])) for entry in shown]
    uri = plots.class_bars(names, [entry.get("role") == "novel" for entry in shown], series, VARIANTS)
    caption = f"The {MOST_BARS} classes with the most pixels, of {len(every)}" * (len(every) > MOST_BARS)
    table = class_table_block([item.scored for item in members], colours, caption=f"IoU per class, {title}")
    return [
        Figure(uri, f"Bars of the IoU per class, {title}; the numbers are in the table below.", caption),
        extremes_table(leading(members), compared=_baseline_of(members)),
        Details("Numbers", [table]),
    ]


def leading(members: Sequence[Measured]) -> Measured:
    """The method itself, or what comes last where it is not there."""
    return next((item for item in members if item.method == ATTENTIVE), members[-1])


def _baseline_of(members: Sequence[Measured]) -> Measured | None:
    return next((item for item in members if item.method == BASELINE), None)


def extremes_table(item: Measured, *, compared: Measured | None, count: int = EXTREMES) -> Table:
    """The best and worst base and novel classes of a method, with the points above the baseline."""
    before = {entry["id"]: finite(entry.get("iou")) for entry in compared.classes} if compared else {}
    with_gain = compared is not None and compared is not item
    groups = []
    for role in ("novel", "base"):
        known = [
            (value, entry)
            for entry in item.classes
            if entry.get("role") == role and (value := finite(entry.get("iou"))) is not None
        ]
        known.sort(key=lambda pair: -pair[0])
        few = min(count, len(known) // 2)  # no class is both among the best and the worst
        for what, chosen in (("best", known[:few]), ("worst", known[len(known) - few :][::-1])):
            rows = []
            for value, entry in chosen:
                row = [
                    Cell(str(entry.get("name", entry["id"]))),
                    Cell(percent(value), number=True, bar=value),
                ]
                if with_gain:
                    row.append(Cell(gain(value, before.get(entry["id"])), muted=True, number=True))
                rows.append(row)
            if rows:
                groups.append(RowGroup(f"{what} {role} classes", rows))
    columns = ["Class", "IoU in %", *[f"above “{VARIANTS[BASELINE]}”"] * with_gain]
    return Table(f"Best and worst classes of “{item.name}”", columns, groups)


def confusions(material: Material) -> Section | None:
    """What the method takes for what, and whether the two have near names."""
    parts = []
    for (split, target), members in by_place(material).items():
        item = leading(members)
        if item.confused:
            title = title_of_place(split, target)
            table = confusion_table(item, material.options.confused_pairs)
            parts.append(Section(f"{SYSTEM}-confusions-{split}-{target}", title, [table]))
    return Section(f"{SYSTEM}-confusions", "Confusions", (), subsections=parts) if parts else None


def confusion_table(item: Measured, count: int) -> Table:
    """The largest shares of a class that another one is given, at most `count` rows."""
    roles = {str(entry.get("name")): str(entry.get("role", "")) for entry in item.classes}
    rows = []
    for pair in item.confused[:count]:
        truth, predicted = str(pair["truth"]), str(pair["predicted"])
        rows.append([
            Cell(truth),
            Cell(predicted),
            Cell(f"{roles.get(truth, '')} as {roles.get(predicted, '')}"),
            Cell("near" if are_near(truth, predicted) else "", muted=True),
            Cell(percent(finite(pair.get("share"))), number=True),
        ])  # fmt: skip
    columns = ["Truth", "predicted as", "roles", "names", "% of the class"]
    footnote = (
        "Near names share a word or most of their letters: such classes may be one thing (see Vocabulary)."
    )
    return Table(
        f"Most frequent confusions of “{item.name}”", columns, [RowGroup("", rows)], footnote=footnote
    )


def warm_up(material: Material) -> Section | None:
    """How many labels' attention counts in the course of the training, a line per source."""
    figures = []
    for path in sorted(material.files("curves", system=SYSTEM), key=lambda path: place_of(path).order):
        lines = [line for line in read_curve(path) if finite(line.get("step")) is not None]
        keys = [key for key in (lines[-1] if lines else {}) if key.endswith(WARM)]
        if not keys:
            continue
        sources = {key.removesuffix(WARM): key for key in keys}
        rows = [
            {"step": line["step"], **{name: line.get(key) for name, key in sources.items()}} for line in lines
        ]
        title, points = place_of(path).split, material.options.curve_points
        uri = plots.training_curve(rows, list(sources), title=title, points=points, ylabel="share of labels")
        ends = "; ".join(f"{name} {percent(finite(rows[-1][name]))}" for name in sources)
        figures.append(Figure(uri, f"Warm-up, {title}. At the end, in %: {ends}.", width=520))
    if not figures:
        return None
    return Section(f"{SYSTEM}-warm-up", "Warm-up of the attention", [Text([WARM_REMARK]), Figures(figures)])


def are_near(first: str, second: str) -> bool:
    """Whether two names share a word of three letters or more, or most of their letters."""
    words = [
        {word for word in name.casefold().replace("-", " ").replace("_", " ").split() if len(word) > 2}
        for name in (first, second)
    ]
    if words[0] & words[1]:
        return True
    return difflib.SequenceMatcher(None, first.casefold(), second.casefold()).ratio() >= NEAR
