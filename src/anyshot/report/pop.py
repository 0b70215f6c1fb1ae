"""POP's sections of the report: headline numbers, curves over shots, classes, cosines of the prototypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anyshot.report import few_shot, plots
from anyshot.report.blocks import Block, Details, Figure, Section, Table, Text, Tile, Tiles
from anyshot.report.few_shot import Protocol
from anyshot.report.material import Material
from anyshot.report.tables import (
    VARIANTS,
    Scored,
    label,
    mean_over_splits,
    percent,
    rank,
    scored_variants,
)

SYSTEM = "pop"
METHOD = (
    "POP learns novel classes from a few labelled images and keeps the base classes. Every class has a"
    " prototype, a direction in the feature space: its logit comes from a pixel's feature projected onto that"
    " direction, the logit of the background from what all projections leave over. A loss holds the"
    " prototypes at right angles, so that classes learned later do not disturb those learned before. Network"
    " and base prototypes are frozen when the novel prototypes and one small classifier are trained."
)
VARIANT_REMARK = (
    "Base model: before any support image; it cannot name a novel class. Mean features and fine-tuning are"
    " baselines on the same frozen network: the cosine to a class's mean feature decides, as in CAPL; or all"
    " prototypes and classifiers are trained on, with cross entropy alone. The two variants of POP leave out"
    " one of its parts each, in this second stage only: the base model is the same for all, trained with"
    " orthogonality and with the background from what the projections leave over."
)
PROTOCOL_REMARK = (
    "The two protocols differ in what they average, and must not be compared; their novel mIoU is the same"
    " number. Published numbers are of POP's protocol."
)
DIAM = Protocol("diam", "DIaM's and BCM's protocol", ("all", "base", "harmonic"))
IN_BARS = ("base", "finetune", "prototype", "pop")  # more bars to a class would be too thin


def _by_split(material: Material) -> dict[str, list[Scored]]:
    """Everything scored by split, in the order of the tables."""
    return {
        result.split: sorted(scored, key=lambda item: (item.shots or 0, rank(item.variant)))
        for result in material.results_of(SYSTEM)
        if (scored := scored_variants(result))
    }


def _main_groups(splits: Mapping[str, list[Scored]]) -> dict[str, list[Scored]]:
    """What a reader wants first: where several splits have novel classes the means over those, beside the
    splits that have none; otherwise all splits."""
    averaged = [scored for scored in splits.values() if any(item.shots for item in scored)]
    means = mean_over_splits(averaged) if len(averaged) > 1 else []
    if not means:
        return dict(splits)
    rest = {split: scored for split, scored in splits.items() if scored not in averaged}
    return {f"mean of {len(averaged)} splits": means, **rest}


def results(material: Material) -> Section | None:
    """The numbers to take home, the protocols in words, and a row per method and number of shots."""
    splits = _by_split(material)
    if not splits:
        return None
    groups = _main_groups(splits)
    found = [result for result in material.results_of(SYSTEM) if result.split in splits]
    others = dict.fromkeys(str((r.miou.get("protocols") or {}).get(DIAM.name) or "") for r in found)
    beside = [f"Beside it: {text}" for text in others if text]
    blocks: list[Block] = [
        Tiles(_tiles(groups)),
        Text([METHOD, *few_shot.circumstances(found), *beside]),
        _table(groups),
        *([Details("Every split", [_table(splits)])] if groups != splits else ()),
        Text([VARIANT_REMARK, PROTOCOL_REMARK]),
    ]
    return Section(SYSTEM, few_shot.heading("POP", found), blocks)


def _table(groups: Mapping[str, Sequence[Scored]]) -> Table:
    return few_shot.draws_table(groups, measured="POP's protocol, mIoU in %", further=(DIAM,), of_means=True)


def _tiles(groups: Mapping[str, Sequence[Scored]]) -> list[Tile]:
    """POP's novel mIoU by the number of shots, and what became of the base classes; of the first group, which
    is the mean where there are several."""
    novel = {name: found for name, found in groups.items() if any(item.variant == "pop" for item in found)}
    split, scored = next(iter((novel or groups).items()))
    tiles = []
    for item in (item for item in scored if item.variant == "pop"):
        spread = item.spread.get("novel")
        remark = split if spread is None else f"± {percent(spread)}, {split}"
        tiles.append(Tile(f"{label(item)}, novel mIoU", percent(item.values["novel"]), remark))
    base = next((item for item in scored if item.variant == "base"), None)
    if tiles and base is not None:
        last = [item for item in scored if item.variant == "pop"][-1]
        remark = f"base model {percent(base.values['base'])}, {split}"
        tiles.append(Tile(f"{label(last)}, base mIoU", percent(last.values["base"]), remark))
    elif base is not None:
        tiles.append(Tile("Base model, mIoU", percent(base.values["all"]), split))
    return tiles


def shots(material: Material) -> Section | None:
    """Novel and base mIoU over the number of support images, with the draws' spread as error bars."""
    splits = _by_split(material)
    groups = _main_groups(splits)
    main = [_shot_curves(split, scored) for split, scored in groups.items() if _has_curves(scored)]
    if not main:
        return None
    blocks: list[Block] = [*main]
    if groups != splits:
        each = [_shot_curves(split, scored) for split, scored in splits.items() if _has_curves(scored)]
        blocks.append(Details("Every split", each))
    return Section(f"{SYSTEM}-shots", "Over the number of support images", blocks)


def _has_curves(scored: Sequence[Scored]) -> bool:
    return len({item.shots for item in scored if item.shots}) > 1


def _shot_curves(split: str, scored: Sequence[Scored]) -> Figure:
    curves: dict[str, dict[str, dict[int, tuple[float | None, float | None]]]] = {}
    for item in sorted(scored, key=lambda item: rank(item.variant)):
        for name in ("novel", "base") if item.shots else ():
            points = curves.setdefault(item.variant, {}).setdefault(name, {})
            points[item.shots or 0] = (item.values[name], item.spread.get(name))
    base = next((item.values["base"] for item in scored if item.variant == "base"), None)
    said = "; ".join(
        f"{VARIANTS.get(variant, variant)} "
        + ", ".join(f"{percent(value)} at {number}" for number, (value, _) in found["novel"].items())
        for variant, found in curves.items()
    )
    alt = f"Novel and base mIoU over shots, {split}. Novel mIoU in %: {said}."
    caption = f"{split}; bars: sample standard deviation over the draws of support images"
    drawn = any(spread is not None for found in curves.values() for _, spread in found["novel"].values())
    uri = plots.shot_curves(curves, {"base": base}, VARIANTS)
    return Figure(uri, alt, caption if drawn else split, width=1000)


def classes(material: Material) -> Section | None:
    """IoU per class: base model, baselines and POP, with the most support images there are."""
    return few_shot.classes(material, SYSTEM, lambda result: IN_BARS)


def prototypes(material: Material) -> Section | None:
    """How nearly orthogonal the prototypes are, before and after the novel classes were learned."""
    parts = []
    for result in material.results_of(SYSTEM):
        content = result.miou.get("cosines") or {}
        if content.get("before"):
            parts.append(Section(f"{SYSTEM}-prototypes-{result.split}", result.split, [_cosines(content)]))
    text = Text(
        ["0: at right angles, as the training wants them; 1: the same direction. Novel classes: orange."]
    )
    return Section(f"{SYSTEM}-prototypes", "Prototypes", [text], subsections=parts) if parts else None


def _cosines(content: Mapping[str, Any]) -> Figure:
    names, before = list(content["names"]), np.array(content["before"])
    matrices, said = {"Base model": before}, f"Base model: {_pairs(before, names, len(before))}"
    if content.get("after"):
        after, method = np.array(content["after"]), str(content["variant"])
        matrices["After the novel update"] = after
        said = (
            f"{VARIANTS.get(method, method)}, {content['shots']}-shot draw {content['support_seed']}:"
            f" {_pairs(after, names, len(before))}"
        )
    uri = plots.prototype_cosines(matrices, names, len(before))
    return Figure(
        uri, f"Cosines between the prototypes. {said}", said, width=1180 if len(matrices) > 1 else 640
    )


def _pairs(matrix: np.ndarray, names: Sequence[str], base: int) -> str:
    """Means over the pairs of base and novel classes, and the largest, in words."""
    rows, columns = np.triu_indices(len(matrix), k=1)
    values = np.abs(matrix[rows, columns])
    kinds = {
        "base pairs": columns < base,
        "novel pairs": rows >= base,
        "novel with base": (rows < base) & (columns >= base),
    }
    means = [f"{name} {values[kind].mean():.3f}" for name, kind in kinds.items() if kind.any()]
    if not means:
        return "one class"
    most = int(values.argmax())
    pair = f"{names[rows[most]]} and {names[columns[most]]} {values[most]:.2f}"
    return f"mean |cosine| of {', '.join(means)}; largest: {pair}"
