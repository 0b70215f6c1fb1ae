"""RAML's sections of the report: headline numbers, classes, anomaly scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyshot.report import few_shot, plots
from anyshot.report.blocks import Block, Cell, Figure, RowGroup, Section, Table, Text, Tile, Tiles
from anyshot.report.material import Material, SplitResult, finite, place_of, read_json
from anyshot.report.tables import label, percent, scored_variants

SYSTEM = "raml"
METHOD = (
    "RAML finds objects of classes that training has not seen, and names them from a few support images"
    " without training again. A closed-set network labels every pixel with a base class. Meta channels,"
    " learned beside it, light up where no base class explains the image; those that the support images"
    " select propose regions. Each region becomes a vector, and the cosines to the supports' prototypes"
    " decide: a novel class, or the closed-set labels as they are."
)
VARIANT_REMARK = (
    "Closed set: the network before any support image; it cannot name a novel class. NPM: the baseline of"
    " DMLNet on the same network, pixel by pixel. RAML, known rejected: regions that lie nearer to a base"
    " class than to the novel one keep their closed-set labels."
)
SCORES: Mapping[str, str] = {
    "max_softmax": "Maximum softmax",
    "max_logit": "Maximum logit",
    "mmsp": "MMSP (DMLNet)",
    "eds": "EDS (DMLNet)",
    "raml": "RAML's regions",
}
ANOMALY_MEASURES = ("auroc", "aupr", "fpr95", "fpr95_nearest")


def results(material: Material) -> Section | None:
    """The numbers to take home, the protocol in words, and a row per variant and number of shots."""
    found = [result for result in material.results_of(SYSTEM) if scored_variants(result)]
    if not found:
        return None
    paragraphs = [METHOD, *few_shot.circumstances(found)]
    tiles = [tile for result in found for tile in _tiles(result)]
    groups = {result.split: scored_variants(result) for result in found}
    blocks: list[Block] = [
        Tiles(tiles),
        Text(paragraphs),
        few_shot.draws_table(groups),
        Text([VARIANT_REMARK]),
    ]
    return Section(SYSTEM, few_shot.heading("RAML", found), blocks)


def chosen_variant(result: SplitResult) -> str:
    """The variant that stands at the top of `miou.json`: the one that the label maps show."""
    variant = str(result.miou.get("variant") or "raml")
    return "raml" if variant == "closed_set" else variant


def _tiles(result: SplitResult) -> list[Tile]:
    scored = {item.variant: item for item in few_shot.of_most_shots(scored_variants(result))}
    tiles = []
    for name in (chosen_variant(result), "npm"):
        if name in scored:
            item = scored[name]
            tiles.append(Tile(f"{label(item)}, novel mIoU", percent(item.values["novel"]), result.split))
    if tiles and "closed_set" in scored:
        before, after = (scored[name].values["base"] for name in ("closed_set", chosen_variant(result)))
        remark = f"{result.split}, closed set {percent(before)}"
        tiles.append(Tile(f"{label(scored[chosen_variant(result)])}, base mIoU", percent(after), remark))
    return tiles


def classes(material: Material) -> Section | None:
    """IoU per class: the closed set, the baseline and RAML, with the most support images there are."""
    return few_shot.classes(material, SYSTEM, lambda result: ("closed_set", "npm", chosen_variant(result)))


def anomaly(material: Material) -> Section | None:
    """How well each anomaly score finds what training has not seen: a table, and the curves of each split."""
    contents = {}
    for path in material.files("anomaly", system=SYSTEM):
        content = read_json(path)
        contents[str(content.get("split") or place_of(path).split)] = content
    if not contents:
        return None
    groups, figures = [], []
    for split, content in sorted(contents.items()):
        scores = content.get("scores") or {}
        groups.append(RowGroup(split, [_anomaly_row(name, entry) for name, entry in scores.items()]))
        curves = {name: entry.get("curves") or {} for name, entry in scores.items()}
        if any(curve for entry in curves.values() for curve in entry.values()):
            ranked = ", ".join(f"{SCORES.get(n, n)} {_pooled(e, 'auroc')}" for n, e in scores.items())
            alt = f"ROC and precision-recall curves on {split}. AUROC in %: {ranked}."
            figures.append(Figure(plots.anomaly_curves(curves, SCORES), alt, split, width=900))
    heads = ["AUROC", "AUPR", "FPR95", "FPR95, nearest"]
    spans = (("", 1), ("pooled over all pixels, %", 4), ("mean over the images, %", 4))
    footnote = "AUROC and AUPR: high is good. FPR95: low is good. Curves: all pixels pooled."
    table = Table("Finding the unseen classes", ["Score", *heads, *heads], groups, spans, footnote)
    protocols = dict.fromkeys(str(content.get("protocol") or "") for content in contents.values())
    texts = Text([f"Protocol: {text}" for text in protocols if text])
    return Section("raml-anomaly", "Anomaly", [texts, table, *figures])


def _pooled(entry: Mapping[str, Any], measure: str) -> str:
    return percent(finite((entry.get("pooled") or {}).get(measure)))


def _anomaly_row(name: str, entry: Mapping[str, Any]) -> list[Cell]:
    row = [Cell(SCORES.get(name, name))]
    for part in ("pooled", "per_image"):
        values = entry.get(part) or {}
        row += [Cell(percent(finite(values.get(key))), number=True) for key in ANOMALY_MEASURES]
    return row
