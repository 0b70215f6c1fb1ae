"""RETAB's sections of the report: headline numbers, pictures, classes, thresholds, confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anyshot.report import plots
from anyshot.report.blocks import (
    Block,
    Cell,
    Figure,
    Note,
    RowGroup,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
)
from anyshot.report.class_section import class_section
from anyshot.report.material import Material, SplitResult, finite
from anyshot.report.tables import (
    ABSENT,
    VARIANTS,
    Scored,
    gain_over_cam,
    headline_table,
    mean_over_splits,
    measures,
    percent,
    scored_variants,
)

SYSTEM = "retab"
METHOD = (
    "RETAB learns a segmenter of all classes from masks of the base classes and image labels of the "
    "novel ones. Class activation maps (CAM) of an image classifier say roughly where a class is. "
    "Affinities between neighbouring pixels and object boundaries, both learned from the base masks "
    "above all, carry these responses to the rest of the object along a random walk. The result labels "
    "the images of novel classes (pseudo labels), and the segmenter learns from masks and pseudo labels"
    " together."
)
THRESHOLD_REMARK = (
    "CAM and walks are scored with a constant background score t: a pixel is background where no class "
    "scores above t. As in the published evaluation, t was chosen on the ground truth of the very "
    "images that are scored, so these numbers flatter the method a little. Pseudo labels and the "
    "segmentation involve no such choice."
)

CONFUSION_CAPTION = "Percent of the true class's pixels; names of novel classes in orange."
PSEUDO_LABEL_REMARK = (
    "Pseudo labels are what the segmenter learns from: of base images their own masks, of novel images "
    "the walk's result. Their base and all scores are therefore not comparable with the walk's; the "
    "novel score is."
)


def _protocol(found: Sequence[SplitResult]) -> list[str]:
    """On which images was scored, and by which protocol, as the results themselves say; equal texts once."""
    where: list[str] = []
    texts: list[str] = []
    for result in found:
        for what, content in (("CAM, walks and pseudo labels", result.scores), ("segmentation", result.miou)):
            if content.get("subset"):
                images = f" ({content['images']} images)" if content.get("images") else ""
                where.append(f"{what} on `{content['subset']}`{images}")
            protocol = str(content.get("protocol") or "")
            if not any(protocol in text for text in texts):
                texts.append(protocol)
    lines = [f"Scored: {'; '.join(dict.fromkeys(where))}."] if where else []
    return lines + [f"Protocol: {text}" for text in texts]


def results(material: Material) -> Section | None:
    """The numbers to take home, the protocol in words, and the headline table."""
    found = material.results_of(SYSTEM)
    splits = [scored for result in found if (scored := scored_variants(result))]
    if not splits:
        return None
    paragraphs = [METHOD, *_protocol(found)]
    caption = "mIoU over all, base and novel classes, and the harmonic mean of base and novel"
    blocks: list[Block] = [Tiles(_tiles(splits)), Text(paragraphs), headline_table(splits, caption=caption)]
    present = {scored.variant for split in splits for scored in split}
    if any(scored.threshold is not None for split in splits for scored in split):
        blocks.append(Note(THRESHOLD_REMARK))
    if "pseudo_label" in present:
        blocks.append(Note(PSEUDO_LABEL_REMARK))
    sources = [str((result.scores.get("reference") or {}).get("source") or "") for result in found]
    if any(sources):
        blocks.append(Text([f"Published: {source}." for source in dict.fromkeys(sources) if source]))
    dataset = found[0].dataset or (material.datasets[0] if len(material.datasets) == 1 else "")
    return Section("retab", f"RETAB on {dataset}" if dataset else "RETAB", blocks)


def _tiles(splits: Sequence[Sequence[Scored]]) -> list[Tile]:
    chosen = mean_over_splits(splits) if len(splits) > 1 else list(splits[0])
    where = f"mean of {len(splits)} splits" if len(splits) > 1 else splits[0][0].split
    tiles = []
    for scored in chosen:
        if scored.values["novel"] is not None:
            above = gain_over_cam(scored, chosen)
            remark = f"{where}, {scored.subset}".rstrip(", ")
            if above and above != ABSENT:
                remark = f"{above[1:]} points {'below' if above.startswith('-') else 'above'} CAM"
            label = f"{VARIANTS.get(scored.variant, scored.variant)}, novel mIoU"
            tiles.append(Tile(label, percent(scored.values["novel"]), remark))
    return tiles


def classes(material: Material) -> Section | None:
    """IoU of every class and variant: a plot per split, the numbers on demand."""
    found = material.results_of(SYSTEM)
    splits = {result.split: (result.dataset, scored_variants(result)) for result in found}
    return class_section(material, splits, anchor="retab-classes")


def thresholds(material: Material) -> Section | None:
    """Threshold curves, the thresholds chosen from them, and what plain argmax gives."""
    blocks: list[Block] = []
    groups = []
    for result in material.results_of(SYSTEM):
        swept = {v: c for v, c in (result.scores.get("variants") or {}).items() if _sweep(c)}
        if not swept:
            continue
        sweeps = {v: {**c["sweep"], "best": finite(c.get("threshold"))} for v, c in swept.items()}
        alt = "; ".join(
            f"{VARIANTS.get(v, v)} best at t = {_t(c.get('threshold'))}" for v, c in swept.items()
        )
        uri = plots.threshold_curves(sweeps, VARIANTS)
        blocks.append(
            Figure(uri, f"mIoU against the background score on {result.split}: {alt}.", result.split)
        )
        groups.append(RowGroup(result.split, [_threshold_row(v, c) for v, c in swept.items()]))
        edge = [VARIANTS.get(v, v) for v, c in swept.items() if _at_edge(c)]
        if edge:
            text = f"{result.split}: the best t of {', '.join(edge)} lies at the edge of the sweep"
            blocks.append(Note(f"{text}; the true best may lie outside.", "warning"))
    if not groups:
        return None
    columns = ["Variant", "t", "all", "novel", "t", "novel", "all", "base", "novel"]
    spans = (
        ("", 1),
        ("best mIoU of all classes", 3),
        ("best novel mIoU", 2),
        ("argmax, own background score", 3),
    )
    table = Table(
        "Background scores chosen on the ground truth, and argmax without any choice", columns, groups, spans
    )
    return Section("retab-thresholds", "Background score", [table, *blocks])


def _sweep(content: Mapping[str, Any]) -> bool:
    return bool((content.get("sweep") or {}).get("thresholds"))


def _t(value: Any) -> str:
    known = finite(value)
    return ABSENT if known is None else f"{known:.2f}"


def _at_edge(content: Mapping[str, Any]) -> bool:
    if "at_sweep_edge" in content:
        return bool(content["at_sweep_edge"])
    swept, best = content["sweep"]["thresholds"], finite(content.get("threshold"))
    return best is not None and len(swept) > 1 and (best <= min(swept) + 1e-9 or best >= max(swept) - 1e-9)


def _threshold_row(variant: str, content: Mapping[str, Any]) -> list[Cell]:
    best = measures(content.get("best") or {})
    novel = [value for v in content["sweep"].get("novel") or () if (value := finite(v)) is not None]
    plain = measures(content.get("png") or {})
    texts = [
        _t(content.get("threshold")),
        percent(best["all"]),
        percent(best["novel"]),
        _t(content.get("best_novel_threshold")),
        percent(max(novel, default=None)),
        *(percent(plain[name]) for name in ("all", "base", "novel")),
    ]
    return [Cell(VARIANTS.get(variant, variant)), *(Cell(text, number=True) for text in texts)]


def confusions(material: Material) -> Section | None:
    """What the segmenter takes for what: the matrix, and the pairs that cost most."""
    parts = []
    for result in material.results_of(SYSTEM):
        entries = result.miou.get("classes") or []
        counts = np.asarray(result.miou.get("confusion") or [], dtype=float)
        if counts.ndim != 2 or min(counts.shape) < len(entries) or not entries:
            continue
        matrix = counts[: len(entries), : len(entries)]  # what may follow is void
        names = [str(entry.get("name", entry.get("id"))) for entry in entries]
        novel = [entry.get("role") == "novel" for entry in entries]
        alt = f"Confusion matrix on {result.split}; its largest entries are in the table below."
        blocks: list[Block] = [
            Figure(
                plots.confusion(matrix, names, novel), alt, CONFUSION_CAPTION, width=380 + 30 * len(names)
            ),
            _pairs(matrix, entries, names, material.options.confused_pairs),
        ]
        parts.append(Section(f"retab-confusion-{result.split}", result.split, blocks))
    return (
        Section("retab-confusion", "Confusions of the segmentation", (), subsections=parts) if parts else None
    )


def _pairs(
    matrix: np.ndarray, entries: Sequence[Mapping[str, Any]], names: Sequence[str], count: int
) -> Table:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    rows = []
    for flat in np.argsort(-wrong, axis=None, kind="stable")[:count]:
        truth, predicted = divmod(int(flat), len(names))
        if wrong[truth, predicted] == 0:
            break
        share = wrong[truth, predicted] / matrix[truth].sum()
        roles = f"{entries[truth].get('role', '')} as {entries[predicted].get('role', '')}"
        rows.append(
            [
                Cell(names[truth]),
                Cell(names[predicted]),
                Cell(roles),
                Cell(percent(float(share)), number=True),
                Cell(percent(wrong[truth, predicted] / wrong.sum()), number=True),
            ]
        )
    columns = ["Truth", "predicted as", "roles", "% of the class", "% of all wrong pixels"]
    return Table("Most frequent confusions", columns, [RowGroup("", rows)])
