"""Numbers into rows: the summary file of a system, and the tables of the report.

Scores are fractions in [0, 1] in every file and percent with two decimals in every table for people.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from anyshot.engine.artifacts import atomic_path
from anyshot.ops.metrics import harmonic_mean
from anyshot.report.blocks import Cell, RowGroup, Table
from anyshot.report.material import SplitResult, finite, split_results

SUMMARY_COLUMNS = (
    "system", "dataset", "split", "variant", "subset", "shot", "seed", "protocol",
    "all", "base", "novel", "harmonic", "images", "seconds",
)  # fmt: skip
MEASURES = ("all", "base", "novel", "harmonic")
ABSENT = "–"

VARIANTS: Mapping[str, str] = {
    "cam": "CAM",
    "psa_walk": "PSA walk",
    "retab_walk": "RETAB walk",
    "pseudo_label": "Pseudo label",
    "segmentation": "Segmentation",
    "closed_set": "Closed set",
    "npm": "NPM (DMLNet)",
    "raml": "RAML",
    "raml_reject_known": "RAML, known rejected",
    "base": "Base model",
    "finetune": "Fine-tuning",
    "prototype": "Mean features (CAPL-like)",
    "pop": "POP",
    "no_orthogonality": "POP without orthogonality",
    "no_residual": "POP, background from the whole feature",
    "ignore_novel": "Novel classes ignored",
    "no_extras": "Without complementary loss and distillation",
    "no_complementary": "Without complementary loss",
    "no_similarity": "Untrained teacher",
    "no_distillation": "Without distillation",
    "full": "SimFormer",
    "retrained": "SimFormer, trained again",
    "pixel_only": "Masks alone",
    "baseline": "Baseline, mean pooling",
    "attentive": "LarvSeg",
    "oracle": "All masks (upper bound)",
}


@dataclass(frozen=True)
class Scored:
    """One thing scored on one split: fractions in [0, 1], None where undefined.

    `threshold` is the constant background score the numbers were taken at, None for plain label maps. Of what
    was made from support images, `values` are means over the draws, `draws` the values of each by its seed,
    and `spread` their sample standard deviation. `others` holds the numbers of further protocols by name.
    """

    variant: str
    split: str
    values: Mapping[str, float | None]
    subset: str = ""
    classes: Sequence[Mapping[str, Any]] = ()
    reference: Mapping[str, float | None] | None = None
    threshold: float | None = None
    shots: int | None = None
    draws: Mapping[int, Mapping[str, float | None]] = field(default_factory=dict)
    spread: Mapping[str, float | None] = field(default_factory=dict)
    others: Mapping[str, Scored] = field(default_factory=dict)


def rank(variant: str) -> int:
    """Where a variant stands in a table."""
    order = list(VARIANTS)
    return order.index(variant) if variant in VARIANTS else len(order)


def label(scored: Scored) -> str:
    """What was scored, for people."""
    name = VARIANTS.get(scored.variant, scored.variant)
    return name if scored.shots is None else f"{name}, {shots_of(scored.shots)}"


def shots_of(number: int) -> str:
    """A number of support images per class, for people."""
    return f"{number} shot{'s' * (number > 1)}"


def percent(value: float | None) -> str:
    """A fraction as percent with two decimals."""
    return ABSENT if value is None else f"{100 * value:.2f}"


def number(value: float) -> Cell:
    """A count, thousands set apart."""
    return Cell(f"{value:,.0f}".replace(",", "\u202f"), number=True)


def gain(value: float | None, before: float | None) -> str:
    """The difference of two fractions in points, with its sign."""
    return ABSENT if value is None or before is None else f"{100 * (value - before):+.2f}"


def measures(content: Mapping[str, Any]) -> dict[str, float | None]:
    """all, base, novel, harmonic of a MIOU object; the harmonic mean is computed where the file has none."""
    values = {name: finite(content.get(name)) for name in MEASURES}
    if values["harmonic"] is None:
        values["harmonic"] = harmonic_of(values)
    return values


def harmonic_of(values: Mapping[str, float | None]) -> float | None:
    """The harmonic mean of the base and the novel mIoU in `values`, None where one of them is.

    Of values that are means over draws or splits it is the harmonic mean of these means, not the mean of the
    draws' and splits' harmonic means, which is `values["harmonic"]` (pop.md 4.1).
    """
    base, novel = values.get("base"), values.get("novel")
    return None if base is None or novel is None else harmonic_mean(base, novel)


def reference_of(reference: Any, variant: str) -> dict[str, float | None] | None:
    """The paper's numbers for a variant, as fractions.

    `reference` maps variants to numbers, or is the numbers of the final segmenter itself. Published tables
    are in percent; a table with any number above 1 is taken to be.
    """
    if not isinstance(reference, Mapping) or not reference:
        return None
    content: Any = reference.get(variant)
    if content is None and variant == "segmentation" and any(name in reference for name in MEASURES):
        content = reference
    if not isinstance(content, Mapping):
        return None
    values = {name: finite(content.get(name)) for name in MEASURES}
    present = [value for value in values.values() if value is not None]
    if not present:
        return None
    scale = 0.01 if max(present) > 1 else 1.0
    return {name: None if value is None else value * scale for name, value in values.items()}


def scored_variants(result: SplitResult) -> list[Scored]:
    """Everything scored on a split, in the order in which the pipeline makes it.

    A score map counts at its best threshold, as the paper's table does; a label map as it is. A result that
    lists variants of its own (RAML's, POP's) counts as those.
    """
    if result.miou.get("variants"):
        return [_few_shot(result, entry) for entry in result.miou["variants"]]
    reference = result.miou.get("reference") or result.scores.get("reference")
    scores, miou = result.scores, result.miou
    found: list[tuple[str, Mapping[str, Any], Any, Any]] = []  # variant, measured, subset, threshold
    for variant, content in (scores.get("variants") or {}).items():
        threshold = content.get("threshold") if content.get("best") else None
        found.append(
            (variant, content.get("best") or content.get("png") or {}, scores.get("subset"), threshold)
        )
    if miou.get("miou"):
        whole = {**miou["miou"], "classes": miou.get("classes")}
        found.append(("segmentation", whole, miou.get("subset"), None))
    order = list(VARIANTS)
    found.sort(key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    return [
        Scored(
            variant=variant,
            split=result.split,
            values=measures(content),
            subset=str(subset or ""),
            classes=content.get("classes") or (),
            reference=reference_of(reference, variant),
            threshold=finite(threshold),
        )
        for variant, content, subset, threshold in found
        if content
    ]


def _few_shot(result: SplitResult, entry: Mapping[str, Any]) -> Scored:
    """An entry of `variants` in `miou.json`; `closed_set` and `base` have no support images."""
    shots = int(entry.get("shots") or 0)
    variant = str(entry["variant"])
    seeds = entry.get("support_seeds") or ()

    def scored(content: Mapping[str, Any], **more: Any) -> Scored:
        each = zip(seeds, content.get("each") or (), strict=True) if shots else ()
        return Scored(
            variant=variant,
            split=result.split,
            values=measures(content["mean"]),
            subset=str(result.miou.get("subset") or ""),
            shots=shots or None,
            draws={int(seed): measures(values) for seed, values in each},
            spread={name: finite((content.get("spread") or {}).get(name)) for name in MEASURES},
            **more,
        )

    return scored(
        entry,
        classes=entry.get("classes") or (),
        reference=reference_of(result.miou.get("reference"), f"{variant}_{shots}shot" if shots else variant),
        others={name: scored(content) for name, content in (entry.get("protocols") or {}).items()},
    )


def summary_rows(results: Iterable[SplitResult]) -> list[dict[str, Any]]:
    """One row per thing scored, the columns of `SUMMARY_COLUMNS`, numbers in full as fractions."""
    rows = []
    for result in results:
        for scored in scored_variants(result):
            own = result.scores if scored.variant in (result.scores.get("variants") or ()) else result.miou
            protocol = str(own.get("protocol", ""))
            if scored.threshold is not None:
                protocol += f"; background score {scored.threshold:g}, chosen on this subset's ground truth"
            seed = None if result.miou.get("variants") else own.get("seed")  # closed set: not drawn
            draws: dict[Any, Mapping[str, float | None]] = {**scored.draws} or {seed: scored.values}
            for draw, values in draws.items():
                rows.append({
                    "system": result.system, "dataset": result.dataset, "split": result.split,
                    "variant": scored.variant, "subset": own.get("subset"), "shot": scored.shots,
                    "seed": draw, "protocol": protocol, **values,
                    "images": own.get("images"), "seconds": own.get("seconds"),
                })  # fmt: skip
    return rows


def summary_frame(mious: Sequence[Path], scores: Sequence[Path] = ()) -> pd.DataFrame:
    """The summary of a system from its `miou.json` and `scores.json` files, one row per thing scored and draw
    of support images."""
    frame = pd.DataFrame(summary_rows(split_results(mious, scores)), columns=list(SUMMARY_COLUMNS))
    for column in ("shot", "seed"):
        frame[column] = pd.to_numeric(frame[column]).astype("Int64")  # whole numbers beside empty cells
    return frame


def write_summary(path: Path, mious: Sequence[Path], scores: Sequence[Path] = ()) -> int:
    """Write `summary_frame` as csv; returns the number of rows."""
    frame = summary_frame(mious, scores)
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n")
    return len(frame)


def mean_over_splits(splits: Sequence[Sequence[Scored]]) -> list[Scored]:
    """Means over the splits of every variant and number of shots that all splits have: means of some would
    compare unlike things.

    A mean of references is only given where every split has one. The spread is that of the draws' means over
    the splits, given where all splits have the same draws.
    """
    means = []
    for one in splits[0] if splits else ():
        same = (one.variant, one.shots)
        found = [scored for split in splits for scored in split if (scored.variant, scored.shots) == same]
        if len(found) == len(splits):
            means.append(_mean_scored(found))
    return means


def _mean_scored(found: Sequence[Scored]) -> Scored:
    first = found[0]
    references = [scored.reference for scored in found if scored.reference]
    drawn_alike = all(scored.draws.keys() == first.draws.keys() for scored in found)
    draws = {seed: _mean([scored.draws[seed] for scored in found]) for seed in first.draws if drawn_alike}
    return Scored(
        variant=first.variant,
        split="mean",
        values=_mean([scored.values for scored in found]),
        subset=first.subset,
        reference=_mean(references) if len(references) == len(found) else None,
        shots=first.shots,
        draws=draws,
        spread={name: deviation([values[name] for values in draws.values()]) for name in MEASURES},
        others={
            name: _mean_scored([scored.others[name] for scored in found])
            for name in first.others
            if all(name in scored.others for scored in found)
        },
    )


def deviation(values: Sequence[float | None]) -> float | None:
    """Sample standard deviation; None for a single value and where one is undefined."""
    known = [value for value in values if value is not None]
    return statistics.stdev(known) if len(known) == len(values) > 1 else None


def _mean(several: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in MEASURES:
        values = [values[name] for values in several]
        known = [value for value in values if value is not None]
        means[name] = math.fsum(known) / len(known) if len(known) == len(values) and known else None
    return means


def gain_over_cam(scored: Scored, group: Sequence[Scored]) -> str:
    """Points of novel mIoU above the CAM, "" for the CAM itself and for what was scored on other images."""
    cam = next((other for other in group if other.variant == "cam"), None)
    if cam is None or scored is cam or scored.subset != cam.subset:
        return ""
    return gain(scored.values["novel"], cam.values["novel"])


def headline_table(splits: Sequence[Sequence[Scored]], *, caption: str) -> Table:
    """Variants by measures: the mean over the splits first, then each split; best novel score in bold."""
    groups = [(scored[0].split, list(scored)) for scored in splits if scored]
    if len(groups) > 1:
        groups.insert(0, (f"mean of {len(groups)} splits", mean_over_splits(splits)))
    with_reference = any(scored.reference for _, group in groups for scored in group)
    columns = ["Variant", "scored on", "all", "base", "novel", "harmonic", "novel gain"]
    spans = [("", 2), ("measured, mIoU in %", 5)]
    if with_reference:
        columns += ["all", "base", "novel"]
        spans.append(("published", 3))
    rows = [RowGroup(name, _headline_rows(group, with_reference)) for name, group in groups]
    footnote = "Bold: best novel mIoU of the group. Novel gain: points above the CAM on the same images."
    return Table(caption, columns, rows, tuple(spans), footnote)


def _headline_rows(group: Sequence[Scored], with_reference: bool) -> list[list[Cell]]:
    known = [scored.values["novel"] for scored in group if scored.values["novel"] is not None]
    best = max(known, default=None)
    rows = []
    for scored in group:
        row = [Cell(VARIANTS.get(scored.variant, scored.variant)), Cell(scored.subset, muted=True)]
        for name in MEASURES:
            value = scored.values[name]
            strong = name == "novel" and value is not None and value == best
            row.append(Cell(percent(value), strong=strong, number=True))
        row.append(Cell(gain_over_cam(scored, group), muted=True, number=True))
        if with_reference:
            reference = scored.reference or {}
            row += [Cell(percent(reference.get(name)), muted=True, number=True) for name in MEASURES[:3]]
        rows.append(row)
    return rows


def class_table_block(scored: Sequence[Scored], colours: Mapping[int, str], *, caption: str) -> Table:
    """IoU per class (rows, novel ones first) and variant (columns), with the share of scored pixels."""
    names: dict[Any, Mapping[str, Any]] = {}
    for entry in (entry for item in scored for entry in item.classes):
        names.setdefault(entry["id"], entry)
    iou = {(item.variant, entry["id"]): finite(entry.get("iou")) for item in scored for entry in item.classes}
    total = sum(finite(entry.get("pixels")) or 0 for entry in names.values())
    groups = []
    for role in dict.fromkeys(
        sorted((str(e.get("role", "")) for e in names.values()), key=lambda r: r != "novel")
    ):
        rows = []
        for identity, entry in names.items():
            if str(entry.get("role", "")) != role:
                continue
            values = [iou.get((item.variant, identity)) for item in scored]
            best = max((value for value in values if value is not None), default=None)
            row = [Cell(str(entry.get("name", identity)), swatch=colours.get(identity))]
            row += [Cell(percent(v), number=True, bar=v, strong=v is not None and v == best) for v in values]
            pixels = finite(entry.get("pixels"))
            row.append(
                Cell(
                    percent(pixels / total) if pixels is not None and total else ABSENT,
                    number=True,
                    muted=True,
                )
            )
            rows.append(row)
        groups.append(RowGroup(f"{role} classes" if role else "", rows))
    heads = [", ".join(filter(None, (VARIANTS.get(i.variant, i.variant), i.subset))) for i in scored]
    columns = ["Class", *heads, f"% of {scored[0].subset} pixels".replace("  ", " ")]
    return Table(caption, columns, groups, footnote="IoU in %. Bold: best of the row.")
