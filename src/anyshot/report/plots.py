"""Plots as SVG pictures in `data:` addresses. Matplotlib without pyplot: no display, no state left behind.

Text stays text (`svg.fonttype: none`), so class names in any script are drawn with the reader's fonts.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anyshot.report.blocks import data_uri

mpl.use("Agg")

# Okabe and Ito's colours: told apart with any colour vision, and in grey.
VARIANT_COLOURS: Mapping[str, str] = {
    "cam": "#a3a3a3",
    "psa_walk": "#e69f00",
    "retab_walk": "#0072b2",
    "pseudo_label": "#56b4e9",
    "segmentation": "#d55e00",
    "closed_set": "#a3a3a3",
    "npm": "#e69f00",
    "raml": "#0072b2",
    "raml_reject_known": "#56b4e9",
    "base": "#a3a3a3",
    "finetune": "#009e73",
    "prototype": "#e69f00",
    "pop": "#0072b2",
    "no_orthogonality": "#56b4e9",
    "no_residual": "#cc79a7",
    "ignore_novel": "#a3a3a3",
    "no_extras": "#e69f00",
    "no_complementary": "#56b4e9",
    "no_similarity": "#cc79a7",
    "no_distillation": "#009e73",
    "full": "#0072b2",
    "retrained": "#d55e00",
    "pixel_only": "#a3a3a3",
    "baseline": "#e69f00",
    "attentive": "#0072b2",
    "oracle": "#444444",
}
SERIES_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
MEASURE_STYLES: Mapping[str, tuple[str, str]] = {
    "all": ("#444444", "--"),
    "base": ("#0072b2", "-"),
    "novel": ("#d55e00", "-"),
}
NOVEL_SHADE = "#fdf1dc"
NOVEL_TEXT = "#b85c00"
CLASSES_PER_ROW = 24
LEGEND_INSIDE = 5  # entries for which a small plot has room

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "anyshot",
    "text.parse_math": False,
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.labelcolor": "#333333",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context(cast(Any, _STYLE))


def _svg(figure: Figure) -> str:
    """The figure as a `data:` address, without the outside addresses of matplotlib's preamble."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    return data_uri(text[text.index(b"<svg") :], "image/svg+xml")


def _layout(figure: Figure, *, bottom: float = 0.0) -> None:
    """Fit the axes into the figure, whose share `bottom` stays free."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.tight_layout(rect=(0, bottom, 1, 1))


def class_bars(
    names: Sequence[str],
    novel: Sequence[bool],
    series: Mapping[str, Sequence[float | None]],
    labels: Mapping[str, str],
) -> str:
    """IoU bars: per class one bar for each variant, novel classes on a shaded ground.

    `series` maps variants to IoU in [0, 1] per class (None = undefined, no bar); `labels` names the variants.
    More than `CLASSES_PER_ROW` classes continue on further rows.
    """
    parts = [slice(start, start + CLASSES_PER_ROW) for start in range(0, len(names), CLASSES_PER_ROW)]
    with _style():
        figure = Figure(figsize=(12, 3.3 * len(parts) + 0.3))
        for number, part in enumerate(parts):
            axes = figure.add_subplot(len(parts), 1, number + 1)
            _bars(
                axes, names[part], novel[part], {key: values[part] for key, values in series.items()}, labels
            )
            axes.set_xlim(-0.6, min(len(names), CLASSES_PER_ROW) - 0.4)
            if number == 0:
                axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(series) + 1, fontsize=9)
        _layout(figure)
        return _svg(figure)


def _bars(
    axes: Axes,
    names: Sequence[str],
    novel: Sequence[bool],
    series: Mapping[str, Sequence[float | None]],
    labels: Mapping[str, str],
) -> None:
    positions = np.arange(len(names))
    shaded = False
    for position in positions[np.asarray(novel, bool)]:
        axes.axvspan(
            position - 0.5,
            position + 0.5,
            color=NOVEL_SHADE,
            zorder=0,
            label=None if shaded else "novel class",
        )
        shaded = True
    width = 0.84 / max(len(series), 1)
    for number, (variant, values) in enumerate(series.items()):
        heights = np.array([np.nan if value is None else 100 * value for value in values])
        offset = (number - (len(series) - 1) / 2) * width
        colour = VARIANT_COLOURS.get(variant, SERIES_COLOURS[number % len(SERIES_COLOURS)])
        axes.bar(positions + offset, heights, width * 0.92, color=colour, label=labels.get(variant, variant))
    axes.set_xticks(positions, list(names), rotation=35, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 100)
    axes.set_ylabel("IoU, %")


def threshold_curves(sweeps: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> str:
    """mIoU against the constant background score t, one panel per variant, a line at the best t.

    A sweep has `thresholds`, `all`, `base`, `novel` (lists of equal length, fractions) and the `best` t.
    """
    with _style():
        figure = Figure(figsize=(4 * len(sweeps), 3.1))
        first: Axes | None = None
        for number, (variant, sweep) in enumerate(sweeps.items()):
            axes = figure.add_subplot(1, len(sweeps), number + 1, sharey=first)
            first = first or axes
            for name, (colour, style) in MEASURE_STYLES.items():
                values = [np.nan if value is None else 100 * value for value in sweep.get(name) or ()]
                if values:
                    axes.plot(sweep["thresholds"], values, style, color=colour, label=name, linewidth=1.6)
            if sweep.get("best") is not None:
                axes.axvline(sweep["best"], color="#444444", linewidth=0.8, linestyle=":")
            axes.set_title(labels.get(variant, variant))
            axes.set_xlabel("background score t")
            if number == 0:
                axes.set_ylabel("mIoU, %")
                axes.legend(loc="best", fontsize=8)
        _layout(figure)
        return _svg(figure)


def anomaly_curves(
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]] | None]], labels: Mapping[str, str]
) -> str:
    """ROC and precision-recall curves of anomaly scores, one line per score.

    `curves` maps scores to `roc` {fpr, tpr} and `precision_recall` {recall, precision}; None = no line.
    """
    with _style():
        figure = Figure(figsize=(9, 4))
        left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
        left.plot([0, 100], [0, 100], "--", color="#bbbbbb", linewidth=0.9)
        for number, (score, found) in enumerate(curves.items()):
            colour = SERIES_COLOURS[number % len(SERIES_COLOURS)]
            roc, precision_recall = found.get("roc"), found.get("precision_recall")
            if roc:
                rates, hits = (100 * np.asarray(roc[key], float) for key in ("fpr", "tpr"))
                left.plot(rates, hits, color=colour, linewidth=1.5, label=labels.get(score, score))
            if precision_recall:
                recall, precision = (
                    100 * np.asarray(precision_recall[key], float) for key in ("recall", "precision")
                )
                # a precision stands for the recalls up to its own, as the step-wise mean takes it
                steps = np.concatenate([[0], recall]), np.concatenate([precision[:1], precision])
                right.step(*steps, where="pre", color=colour, linewidth=1.5, label=labels.get(score, score))
        for axes, title, x, y in (
            (left, "ROC", "false positives, %", "recall, %"),
            (right, "Precision and recall", "recall, %", "precision, %"),
        ):
            axes.set(title=title, xlabel=x, ylabel=y, xlim=(-1, 101), ylim=(-1, 101))
        left.legend(loc="lower right", fontsize=8)
        _layout(figure)
        return _svg(figure)


def shot_curves(
    curves: Mapping[str, Mapping[str, Mapping[int, tuple[float | None, float | None]]]],
    levels: Mapping[str, float | None],
    labels: Mapping[str, str],
) -> str:
    """Novel and base mIoU against the number of support images, one line per variant.

    `curves` maps variants and measures to (mean, spread) by number of shots, spread None = no error bar;
    `levels` has the measures' values without support images, drawn as a dashed line.
    """
    shots = sorted({number for found in curves.values() for points in found.values() for number in points})
    with _style():
        figure = Figure(figsize=(10, 3.8))
        for panel, measure in enumerate(("novel", "base")):
            axes = figure.add_subplot(1, 2, panel + 1)
            for number, (variant, found) in enumerate(curves.items()):
                # side by side, where the error bars of equal means would hide each other
                shift = 0.05 * (number - (len(curves) - 1) / 2)
                places = [shots.index(one) + shift for one in found[measure]]
                means, spreads = (
                    [np.nan if value is None else 100 * value for value in values]
                    for values in zip(*found[measure].values(), strict=True)
                )
                axes.errorbar(
                    places, means, yerr=spreads, fmt="o-", capsize=3, markersize=4.5, linewidth=1.5,
                    color=VARIANT_COLOURS.get(variant, SERIES_COLOURS[number % len(SERIES_COLOURS)]),
                    label=labels.get(variant, variant),
                )  # fmt: skip
            if (level := levels.get(measure)) is not None:
                axes.axhline(100 * level, color="#777777", linewidth=1, linestyle="--", label="Base model")
            axes.set_xticks(range(len(shots)), [str(one) for one in shots])
            axes.set(title=f"{measure} classes", xlabel="support images per class", ylabel="mIoU, %")
            axes.set_xlim(-0.4, len(shots) - 0.6)
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="lower center", ncols=4, fontsize=8.5)
        _layout(figure, bottom=0.02 + 0.055 * -(-len(names) // 4))
        return _svg(figure)


def thinned(values: Sequence[float], points: int) -> np.ndarray:
    """Means of at most `points` runs of neighbouring values."""
    array = np.asarray(values, dtype=float)
    if len(array) <= points:
        return array
    edges = np.linspace(0, len(array), points + 1).astype(int)
    return np.array([array[a:b].mean() for a, b in itertools.pairwise(edges)])


def training_curve(
    rows: Sequence[Mapping[str, Any]], parts: Sequence[str], *, title: str, points: int, ylabel: str = "loss"
) -> str:
    """Loss parts (left axis) and learning rate (right axis) against the step, at most `points` per line.

    Rows without a learning rate have no right axis.
    """
    steps = thinned([row["step"] for row in rows], points)
    with _style():
        figure = Figure(figsize=(4.7, 2.8))
        axes = figure.add_subplot()
        for number, part in enumerate(parts):
            values = [np.nan if row.get(part) is None else float(row[part]) for row in rows]
            width = 1.8 if part == "loss" else 1.1
            colour = "#222222" if part == "loss" else SERIES_COLOURS[number % len(SERIES_COLOURS)]
            axes.plot(steps, thinned(values, points), color=colour, linewidth=width, label=part)
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)
        axes.set_title(title)
        axes.set_ylim(bottom=min(0.0, axes.dataLim.ymin))  # a loss may be negative
        rates = [row.get("learning_rate") for row in rows]
        handles, names = axes.get_legend_handles_labels()
        if all(isinstance(rate, int | float) for rate in rates):
            right = axes.twinx()
            right.plot(
                steps,
                thinned([float(rate) for rate in rates if rate is not None], points),
                ":",
                color="#888888",
            )
            right.set_ylabel("learning rate", color="#777777")
            right.set_ylim(bottom=0)
            right.grid(visible=False)
            right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
            handles.append(right.get_lines()[0])
            names.append("learning rate")
        lines = 0 if len(names) <= LEGEND_INSIDE else -(-len(names) // 3)
        if lines:
            figure.set_figheight(2.8 + 0.2 * lines)
            figure.legend(handles, names, loc="lower center", ncols=3, fontsize=8)
        else:
            axes.legend(handles, names, loc="best", fontsize=8)
        _layout(figure, bottom=0.06 * lines)
        return _svg(figure)


def confusion(matrix: np.ndarray, names: Sequence[str], novel: Sequence[bool]) -> str:
    """Shares of each row of a confusion matrix (truth, prediction); names of novel classes in orange."""
    rows = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count = len(names)
    side = min(max(0.36 * count + 2.2, 4.5), 12)
    with _style():
        figure = Figure(figsize=(side + 0.8, side))
        axes = figure.add_subplot()
        picture = axes.imshow(rows, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        _class_ticks(axes, names, novel)
        axes.set_xlabel("predicted")
        axes.set_ylabel("truth")
        if count <= 25:
            for row, column in zip(*np.nonzero(rows >= 0.005), strict=True):
                share = rows[row, column]
                colour = "white" if share > 0.55 else "#333333"
                axes.text(
                    column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6.5, color=colour
                )
        else:
            figure.colorbar(picture, ax=axes, fraction=0.04, pad=0.02, label="share of the true class")
        _layout(figure)
        return _svg(figure)


def _class_ticks(axes: Axes, names: Sequence[str], novel: Sequence[bool]) -> None:
    """Names of the classes along both sides of a matrix, of novel ones in orange."""
    count = len(names)
    size = 9 if count <= 30 else 6
    axes.grid(visible=False)
    axes.set_xticks(range(count), list(names), rotation=60, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(range(count), list(names), fontsize=size)
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        for tick, is_novel in zip(ticks, novel, strict=True):
            tick.set_color(NOVEL_TEXT if is_novel else "#333333")


def prototype_cosines(matrices: Mapping[str, np.ndarray], names: Sequence[str], base: int) -> str:
    """|cosine| between prototypes, a panel for each of `matrices` by title, all on one scale.

    A matrix (K, K) is that of the first K of `names`, of which those from `base` on are novel. The diagonal,
    1 throughout, is left grey.
    """
    shown = {}
    for title, matrix in matrices.items():
        shown[title] = np.abs(matrix)
        np.fill_diagonal(shown[title], np.nan)
    largest = max((np.nanmax(matrix) for matrix in shown.values() if len(matrix) > 1), default=0.0)
    most = max(len(matrix) for matrix in shown.values())
    side = min(max(0.22 * most + 1.6, 4.2), 9)
    with _style():
        figure = Figure(figsize=(side * len(shown) + 0.9, side))
        panels = figure.subplots(
            1, len(shown), squeeze=False, width_ratios=[len(matrix) for matrix in shown.values()]
        )[0]
        colours = mpl.colormaps["Blues"].with_extremes(bad="#d9d9d9")
        for axes, (title, matrix) in zip(panels, shown.items(), strict=True):
            picture = axes.imshow(
                matrix, cmap=colours, vmin=0, vmax=max(largest, 0.1), interpolation="nearest"
            )
            count = len(matrix)
            _class_ticks(axes, names[:count], [number >= base for number in range(count)])
            axes.set(title=title, anchor="N")
        figure.colorbar(picture, ax=panels[-1], fraction=0.045, pad=0.02, label="|cosine|")
        _layout(figure)
        return _svg(figure)
