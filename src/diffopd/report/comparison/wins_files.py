"""What a table says of who wins: Markdown, CSV, a figure and a page."""

from __future__ import annotations

import csv
import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffopd.files.atomic import replacing
from diffopd.files.markdown import markdown_table
from diffopd.report.comparison.comparison import PageTable
from diffopd.report.comparison.wins import MET, NOT_MET, NOT_WORSE, OPEN, Condition, RowVerdict
from diffopd.report.methods.verdict import Verdict
from diffopd.report.run.figure import save_figure
from diffopd.report.run.page import Plot

_READING = (
    "A row wins only if every column says yes. Each cell is tested over seeds and prompts, p adjusted by "
    "Holm's rule for all cells of this table; beside it the difference with its 95 % CI, not adjusted. "
    '"open" = these runs do not decide.'
)
_LOOKS = {MET: ("#009e73", "o"), NOT_MET: ("#d55e00", "X"), OPEN: ("#5d646d", "D")}
_TEMPLATE = "wins.html.jinja"


def write_wins(
    conditions: Sequence[Condition],
    rows: Sequence[RowVerdict],
    folder: Path,
    *,
    title: str,
    tables: Sequence[PageTable] = (),
    pictures: Sequence[tuple[Path, str]] = (),
) -> None:
    """Write ``wins.md``, ``wins.csv``, ``wins.png`` and ``index.html``; print the first.

    Args:
        conditions: What a row has to be.
        rows: The rows that were judged.
        folder: Gets the files.
        title: Of the page.
        tables: What else the page shows.
        pictures: PNG files and their captions for the page; those that are not there are left out.
    """
    text = f"{wins_table(conditions, rows)}\n\n{_READING}\n\n{_legend(conditions)}\n"
    with replacing(folder / "wins.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    _write_csv(conditions, rows, folder / "wins.csv")
    figure = _figure(conditions, rows, folder / "wins.png")
    plots = [Plot.of_png(figure, "difference from the row compared with, for each condition")]
    plots += [Plot.of_png(path, caption) for path, caption in pictures if path.is_file()]
    template = importlib.resources.files("diffopd.report.comparison") / _TEMPLATE
    page = Environment(undefined=StrictUndefined, autoescape=True).from_string(template.read_text("utf-8"))
    shown = page.render(
        title=title,
        reading=_READING,
        conditions=conditions,
        rows=[
            (row.row, row.wins, [(row.met[c.name], _difference(row.verdicts[c.name])) for c in conditions])
            for row in rows
        ],
        plots=plots,
        tables=tables,
    )
    with replacing(folder / "index.html") as temporary:
        temporary.write_text(shown, encoding="utf-8")
    print(text, flush=True)
    print(f"{'page:':<14} {folder / 'index.html'}", flush=True)


def wins_table(conditions: Sequence[Condition], rows: Sequence[RowVerdict]) -> str:
    """Rows and conditions as a Markdown table."""
    header = ["", *(condition.name.replace("_", " ") for condition in conditions), "wins"]
    lines = [
        [
            row.row,
            *(f"{row.met[c.name]} ({_difference(row.verdicts[c.name])})" for c in conditions),
            row.wins,
        ]
        for row in rows
    ]
    return markdown_table(header, lines)


def _legend(conditions: Sequence[Condition]) -> str:
    return "; ".join(
        f"{c.name.replace('_', ' ')}: {c.text} (mean of {', '.join(c.tasks)}; "
        f"{'no difference larger than' if c.needs == NOT_WORSE else 'margin'} {c.margin:g})"
        for c in conditions
    )


def _difference(verdict: Verdict) -> str:
    found = verdict.difference
    if found is not None:
        return f"{found.mean:+.3f}, {found.low:+.3f} to {found.high:+.3f}"
    gain = _gain(verdict)
    return (
        "not measured"
        if gain is None
        else f"{gain:+.3f}, {verdict.num_seeds} seed{'s' * (verdict.num_seeds != 1)}"
    )


def _gain(verdict: Verdict) -> float | None:
    """Difference of the means, where there is no interval."""
    if verdict.method is None or verdict.against is None:
        return None
    ours, theirs = (list(side.values.values()) for side in (verdict.method, verdict.against))
    return sum(ours) / len(ours) - sum(theirs) / len(theirs)


def _write_csv(conditions: Sequence[Condition], rows: Sequence[RowVerdict], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                *(
                    "row",
                    "condition",
                    "met",
                    "against",
                    "tasks",
                    "margin",
                    "seeds",
                    "difference",
                    "low",
                    "high",
                ),
                *("p_holm", "p_equivalent_holm", "outcome", "reason", "wins"),
            ]
        )
        for row in rows:
            for condition in conditions:
                verdict = row.verdicts[condition.name]
                found = verdict.difference
                ends = ("", "") if found is None else (found.low, found.high)
                gain = _gain(verdict) if found is None else found.mean
                writer.writerow(
                    [
                        *(row.row, condition.name, row.met[condition.name], condition.against),
                        *(" ".join(condition.tasks), condition.margin, verdict.num_seeds),
                        *("" if value is None else value for value in (gain, *ends)),
                        *("" if p is None else p for p in (verdict.p, verdict.p_equivalent)),
                        *(verdict.outcome, verdict.reason, row.wins),
                    ]
                )


def _figure(conditions: Sequence[Condition], rows: Sequence[RowVerdict], path: Path) -> Path:
    """A panel for each condition: every row's difference with its interval, and the margin."""
    size = (3.6 * len(conditions) + 1.2, 0.42 * len(rows) + 1.9)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(conditions), sharey=True, squeeze=False)[0]
    for axis, condition in zip(axes, conditions, strict=True):
        _panel(axis, condition, rows)
    axes[0].set_yticks(range(len(rows)), [row.row for row in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    marks = [
        axes[0].plot([], [], marker=marker, color=colour, linestyle="", label=label)[0]
        for label, (colour, marker) in _LOOKS.items()
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, title="condition met")
    return save_figure(figure, path)


def _panel(axis: Axes, condition: Condition, rows: Sequence[RowVerdict]) -> None:
    limit = -condition.margin if condition.needs == NOT_WORSE else 0.0
    axis.axvline(0, color="#1c1e21", linewidth=0.8)
    if limit:
        axis.axvline(limit, color="#1c1e21", linewidth=0.8, linestyle=(0, (4, 3)))
    for place, row in enumerate(rows):
        verdict = row.verdicts[condition.name]
        gain = _gain(verdict) if verdict.difference is None else verdict.difference.mean
        colour, marker = _LOOKS[row.met[condition.name]]
        if gain is None:
            continue
        if verdict.difference is not None:
            axis.plot(
                [verdict.difference.low, verdict.difference.high], [place, place], color=colour, linewidth=1.6
            )
        axis.plot([gain], [place], marker=marker, color=colour, markersize=7)
    axis.set_title(condition.name.replace("_", " "), fontsize=10)
    mean = "" if len(condition.tasks) == 1 else "mean of "
    dashed = f"; dashed: margin {condition.margin:g}" if limit else ""
    axis.set_xlabel(
        f"{mean}{', '.join(condition.tasks)}:\ndifference from {condition.against}{dashed}", fontsize=8
    )
    axis.tick_params(labelsize=8)
    axis.margins(x=0.15)
    axis.grid(axis="x", alpha=0.3)
