"""Draw the training losses of `make mini-model`: ``python experiments/mini_sd3/curves.py runs out.png``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

RUNS = ("mini_pretrain", "mini_signs", "mini_more_signs")
MEAN_OVER = 100


def column(path: Path, name: str) -> np.ndarray:
    """Logged values of one metric, means over ``MEAN_OVER`` of them."""
    with path.open(newline="") as file:
        values = [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
    whole = len(values) // MEAN_OVER * MEAN_OVER
    return np.array(values[:whole]).reshape(-1, MEAN_OVER).mean(1)


def draw(runs: Path, out: Path) -> None:
    """One panel per step of the recipe, losses on one scale."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 + len(RUNS), width_ratios=[2, 5, 2, 2])
    reconstruction = column(runs / "mini_autoencoder" / "seed0" / "metrics.csv", "train/pixel_error")
    panels[0].plot(np.arange(1, len(reconstruction) + 1) * MEAN_OVER, reconstruction, color="#4c8c4a")
    panels[0].set(title="autoencoder", ylabel="mean pixel error", xlabel="steps")
    for panel, run in zip(panels[1:], RUNS, strict=True):
        file = runs / run / "seed0" / "metrics.csv"
        for name, label, colour in (
            ("train/loss", "all drawings", "#1f6fb4"),
            ("train/loss_signs", "signs", "#c2571a"),
        ):
            values = column(file, name)
            steps = len(column(file, "train/loss")) * MEAN_OVER  # few batches of step 2 have no sign
            panel.plot(np.linspace(0, steps, len(values) + 1)[1:], values, label=label, color=colour)
        panel.set(title=run, xlabel="steps", ylim=(0.1, 0.8))
    panels[1].set_ylabel("flow-matching loss")
    panels[1].legend(frameon=False)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
