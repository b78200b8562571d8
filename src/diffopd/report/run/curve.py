"""Rewards during a training, drawn from its ``metrics.csv``."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from diffopd.report.run.figure import save_figure
from diffopd.run.metrics_csv import read_rows

REWARD = "train/reward/"
SECONDS = "train/time/seconds_per_round"
_COLOUR, _GREY = "#1f6fb4", "#8a8a90"
_LEVELS = (("#8a8a90", ":"), ("#c2571a", "--"), ("#117733", "-."))
"""Color and dashes of the levels to compare with: base, teacher."""
_FINAL = "#117733"
"""Color of the mark at the last round."""
_INK = "#1c1e21"
"""Color of text and axes in curves of a page, which replaces it by the page's own."""
_FEW = 9
"""Rounds up to which the points are joined instead of averaged."""


@dataclass(frozen=True)
class RewardHistory:
    """Rewards by round.

    Attributes:
        rounds: task -> numbers of the rounds with a value, from 1.
        rewards: task -> the values.
        minutes: Training minutes at the end of each round, from round 1; empty if not logged.
    """

    rounds: Mapping[str, Sequence[int]]
    rewards: Mapping[str, Sequence[float]]
    minutes: Sequence[float]

    @staticmethod
    def read(metrics_csv: str | PathLike[str]) -> RewardHistory:
        """Read ``train/reward/<task>`` and the seconds per round.

        Raises:
            ValueError: If the file is missing or holds no rewards.
        """
        path = Path(metrics_csv)
        if not path.is_file():
            raise ValueError(
                f"{path}: no such file; the run needs the csv logger (logger=csv or logger=default)"
            )
        lines = read_rows(path)
        names = dict.fromkeys(name for line in lines for name in line if name.startswith(REWARD))
        series = {name.removeprefix(REWARD): _column(lines, name) for name in names}
        series = {task: values for task, values in series.items() if values}
        if not series:
            raise ValueError(f"{path} holds no {REWARD}<task>; only phases that generate samples log rewards")
        return RewardHistory(
            {task: list(values) for task, values in series.items()},
            {task: list(values.values()) for task, values in series.items()},
            [float(total) for total in np.cumsum(list(_column(lines, SECONDS).values())) / 60],
        )


def reward_curve(
    metrics_csv: str | PathLike[str],
    levels: Mapping[str, Mapping[str, float]],
    path: str | PathLike[str],
    *,
    final: Mapping[str, tuple[str, float]],
    levels_note: str = "",
) -> Path:
    """Draw one panel per task: reward against rounds and minutes, with dashed levels to compare with.

    Args:
        metrics_csv: The run's metrics.
        levels: task -> name (``base``, ``teacher``) -> score, drawn as a line.
        path: The PNG to write.
        final: task -> name and score of what the run has made, marked at the last round.
        levels_note: What the levels were measured on, for the caption.

    Returns:
        ``path``.
    """
    history = RewardHistory.read(metrics_csv)
    tasks = list(history.rewards)
    figure = Figure(figsize=(4.4 * len(tasks), 3.9), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axis, task in zip(axes, tasks, strict=True):
        _panel(axis, task, history, levels.get(task, {}), final.get(task))
    break_or_space = "\n" if len(tasks) == 1 else " "  # one panel is too narrow for the whole line
    notes = [
        f"points: mean reward of a round's rollouts on training prompts;{break_or_space}"
        "line: running mean, or the points joined",
        *([levels_note] if levels_note else []),
    ]
    figure.supxlabel("\n".join(notes), fontsize=8, color=_GREY)
    return save_figure(figure, path)


def reward_panels(
    metrics_csv: str | PathLike[str],
    levels: Mapping[str, Mapping[str, float]],
    *,
    final: Mapping[str, tuple[str, float]],
) -> dict[str, str]:
    """The panels of :func:`reward_curve` one by one, for a page; arguments as there.

    Returns:
        task -> SVG whose background is clear, and whose text and axes follow the reader's light or dark mode.
    """
    history = RewardHistory.read(metrics_csv)
    panels: dict[str, str] = {}
    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "diffopd", **dict.fromkeys(ink, _INK)}
    with rc_context(settings):
        for task in history.rewards:
            figure = Figure(figsize=(4.2, 3.5), layout="constrained")
            axis = figure.subplots()
            _panel(axis, task, history, levels.get(task, {}), final.get(task))
            buffer = io.StringIO()
            figure.savefig(
                buffer,
                format="svg",
                transparent=True,
                bbox_inches="tight",
                pad_inches=0.06,
                metadata={"Date": None},
            )
            panels[task] = _follow_mode(buffer.getvalue())
    return panels


def _follow_mode(svg: str) -> str:
    """An SVG whose ink is light where the reader prefers dark pages."""
    style = (
        f"<style>:root {{ --ink: {_INK}; }} "
        "@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; } } "
        "text { font-family: system-ui, sans-serif !important; }</style>"
    )
    head, start, body = svg.partition("<defs>")
    return head + style + start + body.replace(_INK, "var(--ink)")


def _panel(
    axis: Axes,
    task: str,
    history: RewardHistory,
    levels: Mapping[str, float],
    final: tuple[str, float] | None,
) -> None:
    rounds, rewards = np.array(history.rounds[task]), np.array(history.rewards[task])
    few = len(rounds) <= _FEW
    axis.plot(rounds, rewards, ".", color=_COLOUR, alpha=0.9 if few else 0.5, markersize=8 if few else 5)
    axis.plot(rounds, _running_mean(rewards), color=_COLOUR, linewidth=2, label="training")
    for (name, value), (colour, dashes) in zip(levels.items(), _LEVELS, strict=False):
        axis.axhline(value, linestyle=dashes, linewidth=1.5, color=colour, label=f"{name} {value:.3f}")
    if final is not None:
        name, value = final
        axis.plot(
            [max(rounds[-1], len(history.minutes))],  # rewards may be logged less often than every round
            [value],
            "D",
            color=_FINAL,
            markersize=8,
            markeredgecolor="white",
            clip_on=False,
            zorder=5,
            label=f"{name} {value:.3f}",
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if len(rounds) == 1 and len(history.minutes) < 2:
        axis.set_xlim(rounds[0] - 1, rounds[0] + 1)
    axis.set_xlabel("round")
    axis.set_ylabel("reward" if _is_first(axis) else "")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
    axis.legend(  # above the panel, where it covers no line
        fontsize=9,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        title=task,
        alignment="left",
        title_fontproperties={"size": 11},
    )
    _minutes_axis(axis, history.minutes)


def _is_first(axis: Axes) -> bool:
    place = axis.get_subplotspec()
    return place is not None and place.is_first_col()


def _minutes_axis(axis: Axes, minutes: Sequence[float]) -> None:
    """A second scale below the rounds: training minutes."""
    if len(minutes) < 2:
        return
    ends, numbers = np.array([0.0, *minutes]), np.arange(len(minutes) + 1.0)
    scale = axis.secondary_xaxis(
        -0.26,
        functions=(
            lambda rounds: _interpolate(rounds, numbers, ends),
            lambda times: _interpolate(times, ends, numbers),
        ),
    )
    scale.set_xlabel("training minutes")
    scale.xaxis.set_major_locator(MaxNLocator(nbins=5))
    scale.spines["bottom"].set_color(_GREY)


def _interpolate(x: ArrayLike, known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Linear interpolation that continues at the average slope outside, as axes have margins."""
    slope = (values[-1] - values[0]) / (known[-1] - known[0])
    x = np.asarray(x, float)
    inside = np.interp(x, known, values)
    return inside + slope * (np.minimum(x - known[0], 0) + np.maximum(x - known[-1], 0))


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Centered mean over about a tenth of the rounds, fewer at the ends; few rounds as they are."""
    if len(values) <= _FEW:
        return values
    return centred_mean(values, half=max(len(values) // 20, 1))


def centred_mean(values: np.ndarray, *, half: int) -> np.ndarray:
    """Mean of each value and the ``half`` before and after it; near the ends, of those there are."""
    return np.array([values[max(i - half, 0) : i + half + 1].mean() for i in range(len(values))])


def _column(lines: Sequence[Mapping[str, str]], name: str) -> dict[int, float]:
    """Round (from 1) to value; a round is Lightning's epoch, or the line's number where that is absent."""
    filled = [line for line in lines if line.get(name)]
    return {
        int(float(line.get("epoch") or number)) + 1: float(line[name]) for number, line in enumerate(filled)
    }
