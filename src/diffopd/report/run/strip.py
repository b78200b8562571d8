"""A run's samples over its rounds: a column for each of a few rounds, a row for each prompt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from diffopd.files.grid import sample_grid
from diffopd.files.png import from_picture, save_png
from diffopd.files.sample_row import SampleRow, list_rows, read_row

log = logging.getLogger(__name__)

SAMPLES = "samples"
"""Folder of a run's samples."""
STRIP = "samples_over_rounds.png"
"""Name of the picture in a run's report."""
MAX_COLUMNS = 8
"""Rounds shown at most."""


def save_strip(folder: Path, path: Path, *, side: int | None = None) -> Path | None:
    """Draw the rows of samples in a folder as one picture, rounds from left to right.

    Shown are the first round, the last and some evenly between them, of the rows with the last one's prompts.

    Args:
        folder: Of the samples; it may be absent.
        path: The PNG to write.
        side: Largest side of an image in pixels; None = as the rows show them.

    Returns:
        ``path``, or None if there are no samples.
    """
    rows = _readable(list_rows(folder))
    rows = [entry for entry in rows if entry[0].prompts == rows[-1][0].prompts]
    if not rows:
        return None
    shown = [rows[place] for place in evenly(len(rows), MAX_COLUMNS)]
    if side is not None:
        for picture in (picture for _, pictures in shown for picture in pictures):
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    columns = [[from_picture(picture) for picture in pictures] for _, pictures in shown]
    last = rows[-1][0]
    sheet = sample_grid(
        [list(images) for images in zip(*columns, strict=True)],
        columns=[f"round {row.round}" for row, _ in shown],
        rows=list(zip(last.tasks, last.prompts, strict=True)),
    )
    return save_png(sheet, path)


def evenly(number: int, most: int) -> list[int]:
    """At most so many of the places 0, 1, ..., ``number - 1``, evenly apart, with the first and the last.

    Examples:
        >>> evenly(12, 5), evenly(3, 5)
        ([0, 3, 6, 8, 11], [0, 1, 2])
    """
    if number <= most:
        return list(range(number))
    return [round(step * (number - 1) / (most - 1)) for step in range(most)]


def _readable(paths: Sequence[Path]) -> list[tuple[SampleRow, list[Image.Image]]]:
    """The rows that are intact, in order; of others a warning says so."""
    found = []
    for path in paths:
        try:
            found.append(read_row(path))
        except (OSError, ValueError) as error:
            log.warning("samples are left out: %s (%s)", path, error)
    return found
