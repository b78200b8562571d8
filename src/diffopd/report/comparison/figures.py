"""Figures of a comparison: reward against minutes (Figure 3), a radar (1b), images side by side (2 and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffopd.evaluation import EvaluationResult
from diffopd.files.grid import sample_grid
from diffopd.files.png import read_png, save_png
from diffopd.report.comparison.compared import ComparedRow, Summary, normalised
from diffopd.report.methods.bands import running_mean
from diffopd.report.methods.figures import Style, styles_of
from diffopd.report.run.curve import REWARD, SECONDS
from diffopd.report.run.figure import save_figure
from diffopd.run.metrics_csv import read_rows

_RUNNING_MEAN = 9
"""Rounds in the running mean of a reward."""


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


def reward_by_minutes(rows: Sequence[ComparedRow], path: Path) -> Path | None:
    """Reward of the rollouts against minutes of training, a panel per task; students start after a teacher.

    Args:
        rows: Every row; seed 0 is drawn.
        path: The PNG to write.

    Returns:
        ``path``, or None if nothing was trained.
    """
    trained = {row.name: row for row in rows if row.seed == 0 and row.metrics}
    histories = {name: _history(row) for name, row in trained.items()}
    tasks = list(dict.fromkeys(task for history in histories.values() for task in history))
    if not tasks:
        return None
    figure = Figure(figsize=(4.2 * len(tasks), 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    styles = styles_of(list(histories))
    for axis, task in zip(axes, tasks, strict=True):
        for name, history in histories.items():
            if task in history:
                _line(axis, *history[task], style=styles[name], label=name)
        axis.set_title(task)
        axis.set_xlabel("minutes of training")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("reward of the rollouts")
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=4, frameon=False)
    return save_figure(figure, path)


def _line(
    axis: Axes, minutes: Sequence[float], rewards: Sequence[float], *, style: Style, label: str
) -> None:
    """Running mean, as the page of methods draws it."""
    means = running_mean(rewards, _RUNNING_MEAN)
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


def _history(row: ComparedRow) -> dict[str, tuple[list[float], list[float]]]:
    """Task -> minutes and rewards over a row's runs; a student's start after its slowest teacher."""
    now = row.minutes - row.cost.minutes
    found: dict[str, tuple[list[float], list[float]]] = {}
    for file in row.metrics:
        for line in read_rows(file):
            for name, value in line.items():
                if name.startswith(REWARD):
                    minutes, rewards = found.setdefault(name.removeprefix(REWARD), ([], []))
                    minutes.append(now)
                    rewards.append(float(value))
            now += float(line.get(SECONDS, 0)) / 60
    return found


def compared_images(rows: Sequence[ComparedRow], path: Path, *, num_shown: int) -> Path:
    """The first prompts of each task, the same noise for every row, at the guidance it was trained for.

    Args:
        rows: Every row; seed 0 is drawn.
        path: The PNG to write.
        num_shown: Prompts of each task.

    Returns:
        ``path``.
    """
    shown: dict[str, ComparedRow] = {}
    for row in rows:
        if row.seed == 0:
            shown.setdefault(row.name, row)
    prompts = _prompts(next(iter(shown.values())), num_shown)
    images = [
        [read_png(row.images / task / f"{index:05d}.png") for row in shown.values()]
        for task, index in prompts
    ]
    columns = [name.replace("_", "\n") for name in shown]
    labels = [(task, text) for (task, _), text in prompts.items()]
    return save_png(sample_grid(images, columns=columns, rows=labels), path)


def _prompts(row: ComparedRow, num_shown: int) -> Mapping[tuple[str, int], str]:
    """Task and index -> text of the first prompts of each task."""
    result = EvaluationResult.load(row.images.parent / "results.json")
    found: dict[tuple[str, int], str] = {}
    for task, scored in result.tasks.items():
        for number in range(min(num_shown, len(scored.texts))):
            found[task, scored.groups.index(number)] = scored.texts[number]
    return found
