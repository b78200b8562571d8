"""Gap and loss along the denoising steps of a rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffopd.report.methods.bands import Band
from diffopd.report.methods.figures import Style, curve_figure
from diffopd.report.methods.methods import Method
from diffopd.report.methods.runs import Run

PREFIXES = {"train/step_gap": "gap to the teacher", "train/step_loss": "loss before the mean over steps"}
"""What metrics of a step begin with, and what they are."""
_LAST = 0.1
"""Share of the logged rounds that is averaged."""


@dataclass(frozen=True)
class StepCurves:
    """The last rounds' gap and loss of every trained step, ``<prefix>/<step>``.

    Attributes:
        title: Heading of their part of the page.
        note: What a reader has to know.
        absent: What the page says where no run has any.
        anchor: Its place on the page.
    """

    title: str = "Along the rollout"
    note: str = (
        "Where in a rollout student and teacher differ, and which steps the loss consists of, at the end of "
        "training. Steps count from pure noise, 0."
    )
    absent: str = "No run logged its steps one by one (train/step_gap/<step>); only distillation does."
    anchor: str = "steps"

    def draw(
        self, methods: Sequence[Method], folder: Path, styles: Mapping[str, Style], window: int
    ) -> list[tuple[Path, str]]:
        """Write the figure; its path and caption."""
        panels = {
            title: {method.label: band for method in methods if (band := step_band(method, prefix))}
            for prefix, title in PREFIXES.items()
        }
        panels = {title: bands for title, bands in panels.items() if bands}
        if not panels:
            return []
        path = curve_figure(panels, folder / "steps.png", x="step of the rollout", y="", styles=styles)
        caption = (
            f"Mean over the last {_LAST:.0%} of the logged rounds, by step. Line: mean over seeds; band: "
            "lowest to highest seed."
        )
        return [(path, caption)]


def step_band(method: Method, prefix: str) -> Band | None:
    """A method's values by step, over the steps that all its seeds trained; None if there are none."""
    seeds = [_by_step(run, prefix) for run in method.runs.values()]
    seeds = [seed for seed in seeds if seed]
    steps = sorted(set.intersection(*(set(seed) for seed in seeds))) if seeds else []
    if not steps:
        return None
    values = np.array([[seed[step] for step in steps] for seed in seeds])
    return Band(
        x=np.array(steps, float),
        mean=values.mean(0),
        low=values.min(0),
        high=values.max(0),
        num_seeds=len(seeds),
    )


def _by_step(run: Run, prefix: str) -> dict[int, float]:
    found = {name: series.values for name, series in run.series.items() if name.startswith(f"{prefix}/")}
    return {
        int(name.rpartition("/")[2]): float(np.mean(values[-max(1, round(len(values) * _LAST)) :]))
        for name, values in found.items()
    }
