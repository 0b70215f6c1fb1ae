"""SimFormer's sections of the report: headline numbers, classes, what the similarity network knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from anyshot.report import few_shot, plots
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
)
from anyshot.report.material import Material, finite, place_of, read_curve
from anyshot.report.tables import (
    MEASURES,
    VARIANTS,
    Scored,
    deviation,
    gain,
    mean_over_splits,
    percent,
    rank,
    scored_variants,
)

SYSTEM = "simformer"
FULL, RETRAINED, UPPER_BOUND = "full", "retrained", "oracle"
METHOD = (
    "SimFormer learns to segment all classes from masks of the base classes and the mere names of the novel"
    " ones in an image. A MaskFormer cuts the image into proposals, each a class and a mask; that a mask"
    " covers an object is learned from base masks, so a proposal that is only told to be a novel class has a"
    " mask already. A similarity network learns from base pixels whether two pixels of two images show the"
    " same class, and teaches what it finds on novel pixels. A complementary loss holds novel masks to what"
    " base masks leave over."
)
VARIANT_REMARKS: Mapping[str, str] = {
    "ignore_novel": "the names of novel classes are not read, so none is ever predicted",
    "no_extras": "MaskFormer alone, which is told the names of novel classes",
    "no_similarity": "the teacher of the distillation has learned nothing",
    RETRAINED: "a new network that learns the first one's predictions of novel classes as if they were masks",
    UPPER_BOUND: "the same network with the masks of novel classes, too",
}
# What the gain is measured from: the first one there is.
BASELINES = ("no_extras", "no_distillation", "no_similarity", "no_complementary", "ignore_novel")
IN_BARS = ("no_extras", FULL, RETRAINED, UPPER_BOUND)  # more bars to a class would be too thin
SIMILARITY_CURVES: Mapping[str, str] = {
    "similar_f1": "same class, F1",
    "dissimilar_f1": "different classes, F1",
    "distilled": "pairs of images that share a novel class",
}
SIMILARITY_REMARK = (
    "How well the similarity network tells pairs of pixels of the training images apart, as F1 of both"
    " answers at a probability of one half; and the share of pairs of images in which it taught, which are"
    " those that share a novel class."
)


def _by_split(material: Material) -> dict[str, list[Scored]]:
    """Everything scored by split, in the order of the tables."""
    return {
        result.split: sorted(scored, key=lambda item: rank(item.variant))
        for result in material.results_of(SYSTEM)
        if (scored := scored_variants(result))
    }


def over_splits(splits: Sequence[Sequence[Scored]]) -> list[Scored]:
    """Means over the splits of what all of them have, with the splits' sample standard deviation."""
    means = []
    for mean in mean_over_splits(splits):
        same = [item for scored in splits for item in scored if item.variant == mean.variant]
        spread = {name: deviation([item.values[name] for item in same]) for name in MEASURES}
        means.append(replace(mean, spread=spread))
    return means


def results(material: Material) -> Section | None:
    """The numbers to take home, the protocol in words, and a row per variant."""
    splits = _by_split(material)
    if not splits:
        return None
    means = over_splits(list(splits.values())) if len(splits) > 1 else []
    groups = {f"mean of {len(splits)} splits": means} if means else splits
    found = [result for result in material.results_of(SYSTEM) if result.split in splits]
    present = {item.variant for scored in splits.values() for item in scored}
    remarks = [
        f"{VARIANTS[variant]}: {remark}." for variant, remark in VARIANT_REMARKS.items() if variant in present
    ]
    blocks: list[Block] = [
        Tiles(_tiles(groups)),
        Text([METHOD, *few_shot.circumstances(found)]),
        variants_table(groups),
        *([Details("Every split", [variants_table(splits)])] if groups != splits else ()),
        Text(remarks),
    ]
    return Section(SYSTEM, few_shot.heading("SimFormer", found), blocks)


def baseline_of(scored: Sequence[Scored]) -> Scored | None:
    """What the gain of a group is measured from; None where nothing simpler was trained."""
    known = {item.variant: item for item in scored}
    return next((known[name] for name in BASELINES if name in known), None)


def variants_table(groups: Mapping[str, Sequence[Scored]]) -> Table:
    """Variants by measures for each split, or for their mean."""
    columns = ["Variant", *MEASURES]
    baselines = {name: baseline_of(scored) for name, scored in groups.items()}
    named = list(dict.fromkeys(VARIANTS[one.variant] for one in baselines.values() if one is not None))
    footnote = "Bold: best novel mIoU, the upper bound aside."
    if named:
        columns.append("novel gain")
        footnote += f" Novel gain: points above “{'” or “'.join(named)}”."
    if any(item.spread.get("novel") is not None for scored in groups.values() for item in scored):
        footnote += " ±: sample standard deviation over the splits."
    rows = [
        RowGroup(name, _rows(scored, baselines[name], with_gain=bool(named)))
        for name, scored in groups.items()
    ]
    caption = "mIoU over all, base and novel classes, and the harmonic mean of base and novel"
    return Table(caption, columns, rows, (("", 1), ("mIoU in %", len(columns) - 1)), footnote)


def _rows(scored: Sequence[Scored], baseline: Scored | None, *, with_gain: bool) -> list[list[Cell]]:
    novel = [item.values["novel"] for item in scored if item.variant != UPPER_BOUND]
    best = max((value for value in novel if value), default=None)
    rows = []
    for item in scored:
        row = [Cell(VARIANTS.get(item.variant, item.variant), muted=item.variant == UPPER_BOUND)]
        for name in MEASURES:
            value, spread = item.values[name], item.spread.get(name)
            text = percent(value) + ("" if spread is None else f" ± {percent(spread)}")
            strong = name == "novel" and value is not None and value == best and item.variant != UPPER_BOUND
            row.append(Cell(text, strong=strong, muted=item.variant == UPPER_BOUND, number=True))
        if with_gain:
            above = baseline is not None and item is not baseline
            text = gain(item.values["novel"], baseline.values["novel"]) if above and baseline else ""
            row.append(Cell(text, muted=True, number=True))
        rows.append(row)
    return rows


def _tiles(groups: Mapping[str, Sequence[Scored]]) -> list[Tile]:
    """Novel mIoU of the method and of the network trained again, beside baseline and upper bound; of the
    first group, which is the mean where there are several splits."""
    name, scored = next(iter(groups.items()))
    known, baseline = {item.variant: item for item in scored}, baseline_of(scored)
    tiles = []
    for variant in (FULL, RETRAINED, UPPER_BOUND):
        if variant in known:
            remark = name
            if variant == FULL and baseline is not None:
                remark += f", {percent(baseline.values['novel'])} {VARIANTS[baseline.variant].lower()}"
            value = percent(known[variant].values["novel"])
            tiles.append(Tile(f"{VARIANTS[variant]}, novel mIoU", value, remark))
    best = known.get(RETRAINED) or known.get(FULL)
    if best is not None:
        tiles.append(Tile(f"{VARIANTS[best.variant]}, base mIoU", percent(best.values["base"]), name))
    return tiles


def classes(material: Material) -> Section | None:
    """IoU per class of baseline, method, network trained again and upper bound."""
    return few_shot.classes(material, SYSTEM, lambda result: IN_BARS)


def similarity(material: Material) -> Section | None:
    """How well the similarity network tells pixels apart in the course of every training that has one."""
    figures = []
    for path in sorted(material.files("curves", system=SYSTEM), key=lambda path: place_of(path).order):
        lines = [line for line in read_curve(path) if finite(line.get("similar_f1")) is not None]
        if not lines:
            continue
        place = place_of(path)
        title = f"{VARIANTS.get(place.variant, place.variant)}, {place.split}"
        rows = [
            {"step": line["step"], **{label: line.get(name) for name, label in SIMILARITY_CURVES.items()}}
            for line in lines
        ]
        uri = plots.training_curve(
            rows,
            list(SIMILARITY_CURVES.values()),
            title=title,
            points=material.options.curve_points,
            ylabel="F1, share",
        )
        last = rows[-1]
        ends = "; ".join(f"{label} {percent(finite(last[label]))}" for label in SIMILARITY_CURVES.values())
        figures.append(Figure(uri, f"{title}. At the end, in %: {ends}.", width=520))
    if not figures:
        return None
    return Section(
        f"{SYSTEM}-similarity", "Similarity network", [Text([SIMILARITY_REMARK]), Figures(figures)]
    )
