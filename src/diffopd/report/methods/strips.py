"""Samples over rounds of every run of a page that drew some while it trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from diffopd.report.methods.images import ImageGrid
from diffopd.report.methods.methods import Method
from diffopd.report.methods.runs import Run
from diffopd.report.run.strip import SAMPLES, save_strip

_SIDE = 128
"""Largest side of an image: a page holds a strip for every run."""


def run_strips(methods: Sequence[Method], folder: Path) -> list[ImageGrid]:
    """Draw the strip of each run that has samples, method by method; of a cascade, one for each stage.

    Args:
        methods: In order; runs that do not count are shown, too.
        folder: Gets the PNGs.
    """
    strips: list[ImageGrid] = []
    for label, run in _runs(methods):
        for stage in run.config_texts:
            path = save_strip(
                run.folder / stage / SAMPLES, folder / f"rounds_{len(strips) + 1}.png", side=_SIDE
            )
            if path is not None:
                of_stage = f", stage {stage}" if stage else ""
                caption = f"{label}, seed {run.seed}{of_stage}: samples over its rounds."
                strips.append(ImageGrid(path=path, caption=caption))
    return strips


def _runs(methods: Sequence[Method]) -> Iterator[tuple[str, Run]]:
    for method in methods:
        for run in (*method.runs.values(), *(run for run, _ in method.left_out)):
            yield method.label, run
