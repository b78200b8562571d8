"""Figures on disk."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from matplotlib.figure import Figure

from diffopd.files.atomic import atomic_produce


def save_figure(figure: Figure, path: str | PathLike[str]) -> Path:
    """Write a figure as PNG, whole or not at all."""
    figure.draw_without_rendering()  # ticks change when axes are laid out, and the layout with the ticks
    atomic_produce(path, lambda temporary: figure.savefig(temporary, format="png"))
    return Path(path)
