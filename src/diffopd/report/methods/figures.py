"""Figures of methods over their seeds: curves with bands, and bars of time and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diffopd.report.methods.bands import Band
from diffopd.report.run.figure import save_figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1c1e21")
"""Told apart by most color-blind readers (Okabe and Ito)."""
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
"""Lines are told apart by dashes and markers, too."""
_FEW, _MARKS = 20, 7
"""Points up to which each is drawn; marks along a line of more."""
_COLUMNS = 3


@dataclass(frozen=True)
class Style:
    """How a method is drawn.

    Attributes:
        colour: Of line, marks and bars.
        dashes: Of the line.
        marker: Of its points.
    """

    colour: str
    dashes: str | tuple[int, tuple[float, ...]]
    marker: str


def styles_of(labels: Sequence[str]) -> dict[str, Style]:
    """One look for each method, in all figures."""
    return {
        label: Style(
            _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)], _MARKERS[place % len(_MARKERS)]
        )
        for place, label in enumerate(labels)
    }


def curve_figure(
    panels: Mapping[str, Mapping[str, Band]], path: Path, *, x: str, y: str, styles: Mapping[str, Style]
) -> Path:
    """A panel for each metric, a line and a band for each method.

    Args:
        panels: Metric -> label of a method -> curve.
        path: The PNG to write.
        x: What the horizontal axis is, with its unit.
        y: What the vertical axis is.
        styles: Label -> look.

    Returns:
        ``path``.
    """
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    shown = [label for label in styles if any(label in curves for curves in panels.values())]
    legend_columns = max(1, min(len(shown), columns * 42 // max(len(label) + 6 for label in shown)))
    height = 3.1 * rows + 0.2 * math.ceil(len(shown) / legend_columns)
    figure = Figure(figsize=(max(4.4 * columns, 6), height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (name, curves) in zip(axes, panels.items(), strict=False):
        for label, band in curves.items():
            _draw(axis, band, label, styles[label])
        axis.set_title(name, fontsize=11)
        axis.set_xlabel(x)
        if "minutes" not in x:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axis.set_ylabel(y)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.margins(x=0.02)
        places = {place for band in curves.values() for place in band.x}
        if len(places) == 1 and "minutes" not in x:  # one round, which has no width of its own
            axis.set_xlim(min(places) - 1, max(places) + 1)
    for axis in list(axes):  # what is left of the last row
        axis.set_visible(False)
    lines = {line.get_label(): line for axis in figure.axes for line in axis.get_lines()}
    figure.legend(
        handles=[lines[label] for label in shown],
        loc="outside lower center",
        ncols=legend_columns,
        frameon=False,
    )
    return save_figure(figure, path)


def _draw(axis: Axes, band: Band, label: str, style: Style) -> None:
    number = len(band.x)
    axis.plot(
        band.x,
        band.mean,
        color=style.colour,
        linestyle=style.dashes,
        linewidth=1.8,
        marker=style.marker,
        markersize=4.5,
        markevery=1 if number <= _FEW else max(1, number // _MARKS),
        label=label,
    )
    if band.num_seeds > 1:
        axis.fill_between(band.x, band.low, band.high, color=style.colour, alpha=0.16, linewidth=0)


def bar_figure(
    panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path, *, styles: Mapping[str, Style]
) -> Path:
    """A panel for each quantity: a bar for each method's mean, from its lowest to its highest seed a line.

    Args:
        panels: Quantity with its unit -> label of a method -> one value per seed.
        path: The PNG to write.
        styles: Label -> look.

    Returns:
        ``path``.
    """
    shown = [label for label in styles if any(label in bars for bars in panels.values())]
    width = 3.6 * len(panels) + 0.08 * max(len(label) for label in shown)
    figure = Figure(figsize=(max(width, 6), 1.1 + 0.36 * len(shown)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Sequence[Axes] = list(figure.subplots(1, len(panels), squeeze=False, sharey=True).flat)
    place: Callable[[str], int] = shown.index
    for axis, (name, bars) in zip(axes, panels.items(), strict=True):
        for label, values in bars.items():
            mean = sum(values) / len(values)
            axis.barh(place(label), mean, color=styles[label].colour, height=0.6)
            if len(values) > 1:
                axis.plot([min(values), max(values)], [place(label)] * 2, color="#222222", linewidth=1.6)
            top = max(mean, *values)
            axis.annotate(
                f" {mean:.3g}",
                (top, place(label)),
                va="center",
                fontsize=8,
                xytext=(2, 0),
                textcoords="offset points",
            )
        axis.set_xlabel(name)
        axis.margins(x=0.18)
        axis.set_xlim(left=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(shown)), shown)
    axes[0].set_ylim(len(shown) - 0.4, -0.6)
    return save_figure(figure, path)
