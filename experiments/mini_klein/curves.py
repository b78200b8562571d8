"""Draw the training losses of the embedded few-step model: ``python experiments/mini_klein/curves.py out.png``.

Of the metrics beside this file: the autoencoder, the four stages of pretraining on one scale, and the distillation.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
STAGES = (1, 2, 3, 4)
LOSSES = (
    ("train/loss_text", "from text", "#1f6fb4"),
    ("train/loss_signs", "signs", "#c2571a"),
    ("train/loss_same_figure", "same figure elsewhere", "#4c8c4a"),
    ("train/loss_copy", "target as reference", "#7a5195"),
)
MEAN_OVER = 20


def columns(name: str) -> dict[str, np.ndarray]:
    """Logged values of every metric of a file; what a row has not is NaN."""
    with (FOLDER / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name != "check"]
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}


def smooth(values: np.ndarray) -> np.ndarray:
    """Means over the last ``MEAN_OVER`` values, fewer at the start."""
    return np.array([values[max(0, end - MEAN_OVER) : end].mean() for end in range(1, len(values) + 1)])


def draw(out: Path) -> None:
    """One panel per step of the recipe."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 + len(STAGES), width_ratios=[2, *(3 for _ in STAGES), 3])
    read = columns("autoencoder_metrics.csv")
    panels[0].plot(read["step"], read["train/pixel_error"], color="#666666")
    panels[0].set(title="autoencoder", ylabel="mean pixel error", xlabel="steps", xticks=(0, 1500))
    for panel, stage in zip(panels[1:-1], STAGES, strict=True):
        read = columns(f"stage_{stage}_metrics.csv")
        for name, label, color in LOSSES:
            panel.plot(read["step"], read[name], label=label, color=color)
        panel.set(title=f"stage {stage}", xlabel="steps", ylim=(0, 1))
    panels[1].set_ylabel("flow-matching loss")
    figure.legend(*panels[1].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(LOSSES))
    read = columns("distillation_metrics.csv")
    panels[-1].plot(read["step"], smooth(read["train/loss/tdm"]), color="#1f6fb4", label="student")
    panels[-1].plot(read["step"], smooth(read["train/loss/fake"]), color="#c2571a", label="fake score")
    panels[-1].set(title="distillation", xlabel="rounds", ylim=(0, None))
    panels[-1].legend(frameon=False)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("give the picture to write, as in python experiments/mini_klein/curves.py curves.png")
    draw(Path(sys.argv[1]))
