"""Figures of a comparison: reward against minutes (Figure 3), a radar (1b), images side by side (2 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffopd.evaluation import EvaluationResult
from diffopd.files.sample_sheet import SampleSheet
from diffopd.report.comparison.compared import AnyRow, ComparedRow, Summary, normalised
from diffopd.report.methods.bands import running_mean
from diffopd.report.methods.figures import Style, styles_of
from diffopd.report.methods.runs import Run
from diffopd.report.run.chosen import choose_scored
from diffopd.report.run.curve import REWARD
from diffopd.report.run.figure import save_figure
from diffopd.report.run.saved import sheet_of_saved

_RUNNING_MEAN = 9
"""Rounds in the running mean of a reward."""
_Curve = tuple[Sequence[float], Sequence[float]]
"""Minutes and rewards."""
_History = Mapping[str, _Curve]
"""Task -> its curve."""


def radar(summaries: Sequence[Summary], path: Path) -> Path:
    """Every score of every trained row, each axis from the table's worst row to its best.

    Args:
        summaries: The rows; each at the guidance it was trained for, as long as it comes first.
        path: The PNG to write.

    Returns:
        ``path``.
    """
    shown = [
        (summary, values)
        for summary, values in zip(summaries, normalised(summaries), strict=True)
        if summary.guidance_scale == _first_scale(summaries, summary.name)
    ]
    places = list(summaries[0].scores)
    angles = np.linspace(0, 2 * np.pi, len(places), endpoint=False)
    figure = Figure(figsize=(8.6, 5.6), dpi=130)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0.16, 0.12, 0.5, 0.76), projection="polar")  # labels need room on all sides
    styles = styles_of([summary.name for summary, _ in shown])
    for summary, values in shown:
        heights, style = [values[place] for place in places], styles[summary.name]
        axis.plot(
            [*angles, angles[0]],
            [*heights, heights[0]],
            color=style.colour,
            linestyle=style.dashes,
            marker=style.marker,
            markersize=5,
            clip_on=False,
            label=summary.name,
        )
    axis.set_xticks(angles, [f"{task}\n{benchmark}" for benchmark, task in places], fontsize=8)
    axis.tick_params(axis="x", pad=12)
    axis.set_yticks([0, 0.5, 1], ["worst", "", "best"], fontsize=7)
    axis.set_ylim(0, 1.05)
    figure.legend(loc="center left", bbox_to_anchor=(0.76, 0.5), frameon=False, fontsize=8, handlelength=4)
    return save_figure(figure, path)


def _first_scale(summaries: Sequence[Summary], name: str) -> float:
    return next(summary.guidance_scale for summary in summaries if summary.name == name)


def reward_by_minutes(rows: Sequence[AnyRow], runs: Sequence[Run], path: Path) -> Path | None:
    """Reward of the rollouts against minutes of training, a panel per task; students start after a teacher.

    Each seed is a thin line, their mean a thick one, over the minutes that all of them have.

    Args:
        rows: Every row and seed.
        runs: One for each row and seed, called by the row.
        path: The PNG to write.

    Returns:
        ``path``, or None if nothing was trained.
    """
    starts = {(row.name, row.seed): row.minutes - row.minutes_alone for row in rows}
    histories: dict[str, list[_History]] = {}
    for run in runs:
        if history := _history(run, starts[run.name, run.seed]):
            histories.setdefault(run.name, []).append(history)
    tasks = list(dict.fromkeys(task for seeds in histories.values() for seed in seeds for task in seed))
    if not tasks:
        return None
    figure = Figure(figsize=(4.2 * len(tasks), 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    styles = styles_of(list(histories))
    for axis, task in zip(axes, tasks, strict=True):
        for name, seeds in histories.items():
            curves = [_smooth(*history[task]) for history in seeds if task in history]
            if len(curves) > 1:
                for minutes, means in curves:
                    axis.plot(minutes, means, color=styles[name].colour, linewidth=0.7, alpha=0.5)
            if curves:
                _line(axis, *mean_curve(curves), style=styles[name], label=name)
        axis.set_title(task)
        axis.set_xlabel("minutes of training")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("reward of the rollouts")
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    named = [lines[name] for name in histories if name in lines]
    figure.legend(handles=named, loc="outside lower center", ncols=4, frameon=False)
    return save_figure(figure, path)


def mean_curve(curves: Sequence[_Curve]) -> _Curve:
    """Mean of curves over the minutes that all of them have, at those of the first.

    Examples:
        >>> mean_curve([([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]), ([0.5, 2.5], [0.0, 2.0])])
        ([1.0, 2.0], [0.75, 1.75])
    """
    if len(curves) == 1:
        return curves[0]
    low = max(minutes[0] for minutes, _ in curves)
    high = min(minutes[-1] for minutes, _ in curves)
    shared = [minute for minute in curves[0][0] if low <= minute <= high] or [low]
    means = np.mean([np.interp(shared, *curve) for curve in curves], axis=0)
    return shared, [float(mean) for mean in means]


def _smooth(minutes: Sequence[float], rewards: Sequence[float]) -> _Curve:
    """Running mean, as the page of methods draws it."""
    return minutes, [float(mean) for mean in running_mean(rewards, _RUNNING_MEAN)]


def _line(axis: Axes, minutes: Sequence[float], means: Sequence[float], *, style: Style, label: str) -> None:
    axis.plot(
        minutes,
        means,
        color=style.colour,
        linestyle=style.dashes,
        marker=style.marker,
        markersize=4.5,
        markevery=1 if len(means) <= 20 else len(means) // 7,
        label=label,
    )


def _history(run: Run, start: float) -> _History:
    """Task -> minutes at the end of each round, and rewards; a student's start after its slowest teacher."""
    found: dict[str, _Curve] = {}
    for task, series in run.family(REWARD).items():
        pairs = zip(series.rounds, series.values, strict=True)
        timed = {start + run.minutes[number]: value for number, value in pairs if number in run.minutes}
        if timed:
            found[task] = list(timed), list(timed.values())
    return found


def compared_images(rows: Sequence[ComparedRow], path: Path, *, num_shown: int) -> SampleSheet:
    """Prompts of each task by the rule of :mod:`diffopd.report.run.chosen`, the same noise for every row.

    Each row is at the guidance it was trained for; a base model, which was trained for none, at its best.

    Args:
        rows: Every row; the first seed of each is drawn.
        path: The PNG to write.
        num_shown: Prompts of each task.

    Returns:
        What the picture shows.
    """
    shown: dict[str, ComparedRow] = {}
    first = {row.name: min(other.seed for other in rows if other.name == row.name) for row in rows}
    for row in rows:
        if row.seed == first[row.name] and (
            row.name not in shown or (not row.trained and _mean(row) > _mean(shown[row.name]))
        ):
            shown[row.name] = row
    results = {name: EvaluationResult.load(row.images.parent / "results.json") for name, row in shown.items()}
    base = next((results[name] for name, row in shown.items() if not row.trained), None)
    teachers = {
        task: results[teacher]
        for row in reversed(shown.values())
        for task, teacher in row.taught_by.items()
        if teacher in results
    }
    choices = choose_scored(next(iter(results.values())), base, teachers, number=num_shown)
    columns = {name.replace("_", "\n"): (row.images, results[name]) for name, row in shown.items()}
    sheet = sheet_of_saved(columns, choices)
    sheet.save(path)
    return sheet


def _mean(row: ComparedRow) -> float:
    """Mean score over the tasks of the first benchmark."""
    return float(np.mean([score.mean for score in next(iter(row.scores.values())).values()]))
