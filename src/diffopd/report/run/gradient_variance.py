"""What a measurement of gradient variances leaves: numbers, a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffopd.evaluation import Benchmark
from diffopd.files.atomic import atomic_write_json, replacing
from diffopd.files.markdown import markdown_table
from diffopd.phase.gradient_variance import GradientVariancePhase
from diffopd.phase.variance_entry import ALL_STEPS
from diffopd.report.run.distillation import PICTURES
from diffopd.report.run.figure import save_figure
from diffopd.report.run.page import PageTable, Plot
from diffopd.report.run.run_files import RunFiles
from diffopd.report.run.timed import Timed

Level = Mapping[str, Any]
_GREY = "#8a8a90"
_CLEAR = 4.0
"""Standard errors beyond which a mean is not what was expected; chance alone gets there about never."""


class GradientVarianceReport:
    """``gradient_variance.json``, ``.md`` and ``.png`` in the run's folder.

    Args:
        noise_level: Level at which the figure shows the variance against the number of averaged draws; the
            nearest that was measured.

    Attributes:
        round_kind: What its phase does in a round.
    """

    round_kind: ClassVar[str] = "measurement"

    def __init__(self, *, noise_level: int | float) -> None:
        self.noise_level = noise_level

    def __call__(self, phase: GradientVariancePhase, benchmark: Benchmark | None, run: RunFiles) -> None:
        """Write the files and the page, print the table."""
        timed = Timed()
        path = run.folder / "gradient_variance.json"
        atomic_write_json(
            path,
            {
                "command": run.command,
                "seed": run.seed,
                "adapter_start": getattr(phase.adapter, "start", None),
                "teachers": list(phase.teacher.tasks),
                "steps": list(phase.steps),
                "levels": phase.levels,
            },
        )
        table = variance_table(phase.levels)
        with replacing(path.with_suffix(".md")) as temporary:
            temporary.write_text(table, encoding="utf-8")
        with timed(PICTURES):
            figure = draw_variance(phase.levels, path.with_suffix(".png"), noise_level=self.noise_level)
        print(table)
        for label, file in {"numbers": path, "table": path.with_suffix(".md"), "figure": figure}.items():
            print(f"{label + ':':<14} {file}", flush=True)
        columns, lines = variance_lines(phase.levels)
        run.write_page(
            timed,
            lead=[
                "How much the student's gradient varies over the drawn action, by noise level and estimator."
            ],
            tables=[
                PageTable(heading="Variance", header=columns, lines=lines, note=_reading(phase.levels[0]))
            ],
            plots=[Plot.of_png(figure, "Relative variance against noise level and against averaged draws")],
            plots_heading="Figure",
            plots_note="",
        )


def variance_table(levels: Sequence[Level]) -> str:
    """All steps together as a Markdown table: a row for each noise level and estimator.

    Args:
        levels: ``GradientVariancePhase.levels``.
    """
    columns, lines = variance_lines(levels)
    body = markdown_table(columns, lines, texts=(2,))
    return (
        f"**Variance of the student's gradient over the drawn action**\n\n{body}\n\n{_reading(levels[0])}\n"
    )


def variance_lines(levels: Sequence[Level]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of :func:`variance_table`."""
    sizes = sorted(_entries(levels[0], ALL_STEPS)["variance"], key=int)  # a JSON file sorts them as text
    columns = ["noise level", "KL (nats)", "estimator", *(f"variance, n={size}" for size in sizes)]
    columns += ["relative, n=1" if sizes[0] == "1" else f"relative, n={sizes[0]}"]
    columns += [
        "share of the closed form's gradient ± standard error",
        "expected",
        "z of the share",
        "z of the distance",
    ]
    lines = []
    for level in levels:
        for name, by_step in level["estimators"].items():
            entry = by_step[ALL_STEPS]
            lines.append(
                [
                    f"{level['noise_level']:g}",
                    f"{level['kl_nats'][ALL_STEPS]:.3g}",
                    name,
                    *(_number(entry["variance"][size]) for size in sizes),
                    _number(entry["relative_variance"][sizes[0]]),
                    f"{entry['share']:.3f} ± {_number(entry['share_error'])}",
                    f"{entry['share_expected']:g}",
                    _signed(entry["share_z"]),
                    _signed(entry["distance_z"]),
                ]
            )
    return columns, lines


def _reading(first: Level) -> str:
    """What the numbers are."""
    return (
        f"Variance: trace of the covariance of the average of n draws, from {first['num_draws']} draws of "
        f"the action at each of {first['num_rows']} fixed states a step; relative: over the squared norm of "
        "the closed form's gradient at the estimator's own scale; z: distance from the expected mean "
        f"gradient in Monte-Carlo standard errors, beyond {_CLEAR:g} a disagreement."
    )


def draw_variance(levels: Sequence[Level], path: Path, *, noise_level: int | float) -> Path:
    """Relative variance against noise level and against averaged draws, and the z-scores of the means.

    Args:
        levels: ``GradientVariancePhase.levels``.
        path: The PNG to write.
        noise_level: Level of the middle panel; the nearest that was measured.

    Returns:
        ``path``.
    """
    figure = Figure(figsize=(14.0, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    by_noise, by_draws, scores = figure.subplots(1, 3)
    nearest = min(levels, key=lambda level: abs(level["noise_level"] - noise_level))
    names = list(nearest["estimators"])
    noise = [level["noise_level"] for level in levels]
    silent = [name for name in names if not any(_relative(level, name) for level in levels)]
    for number, name in enumerate(names):
        entries = [level["estimators"][name][ALL_STEPS] for level in levels]
        style: dict[str, Any] = {"color": f"C{number}", "marker": "os^Dv<>"[number % 7], "markersize": 5}
        line = style | {
            "linewidth": 5 - 4 * number / len(names),  # lines that coincide stay visible
            "linestyle": "--" if entries[0]["log_prob_reduction"] == "mean" else "-",
        }
        if name not in silent:
            by_noise.plot(noise, [_relative(level, name) for level in levels], **line)
            variances = nearest["estimators"][name][ALL_STEPS]["relative_variance"]
            by_draws.plot([int(size) for size in variances], list(variances.values()), **line)
        apart = 1.03 ** (number - (len(names) - 1) / 2)
        z = [entry["share_z"] for entry in entries]
        scores.plot([level * apart for level in noise], z, label=name, linestyle="none", **style)
    sizes = [int(size) for size in _entries(nearest, ALL_STEPS)["variance"]]
    _log_panel(by_noise, noise, "noise level", "variance / squared norm of the closed form's gradient")
    _log_panel(by_draws, sizes, f"averaged draws n, at noise level {nearest['noise_level']:g}", "")
    for axis in (by_noise, by_draws):
        axis.set_yscale("log")
    if silent:
        by_noise.set_title(f"exactly 0, not shown: {', '.join(silent)}", fontsize=9, color=_GREY)
    _log_panel(scores, noise, "noise level", "z of the mean gradient along the closed form's")
    scores.axhspan(-2, 2, color=_GREY, alpha=0.15, linewidth=0)
    scores.axhline(0, color=_GREY, linewidth=0.8)
    scores.set_title("distance from what is expected (1, or 0 if detached)", fontsize=9, color=_GREY)
    figure.legend(*scores.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    return save_figure(figure, path)


def _log_panel(axis: Axes, places: Sequence[float], xlabel: str, ylabel: str) -> None:
    axis.set_xscale("log")
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.set_xticks([], minor=True)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def _relative(level: Level, name: str) -> float | None:
    """Relative variance at the smallest group size; None where it is unknown."""
    return next(iter(level["estimators"][name][ALL_STEPS]["relative_variance"].values()))


def _entries(level: Level, step: str) -> Mapping[str, Any]:
    return next(iter(level["estimators"].values()))[step]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _signed(value: float | None) -> str:
    return "∞" if value is None else f"{value:+.1f}"
