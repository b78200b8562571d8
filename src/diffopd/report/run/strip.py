"""A run's samples over its rounds: a column for each of a few rounds, a row for each prompt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from diffopd.files.grid import sample_grid
from diffopd.files.png import from_picture, save_png
from diffopd.files.sample_row import SampleRow, list_rows, read_row
from diffopd.files.sample_sheet import SampleSheet

log = logging.getLogger(__name__)

SAMPLES = "samples"
"""Folder of a run's samples."""
STRIP = "samples_over_rounds.png"
"""Name of the picture in a run's report."""
QUARTERS = (0.0, 0.25, 0.5, 1.0)
"""Shares of a run at which its page shows samples."""
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
    rows = _rows(folder)
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


def quarters(folder: Path) -> SampleSheet | None:
    """One prompt per task, or each that the config lists, at the start, a quarter, a half and the end.

    Args:
        folder: Of the run's rows of samples; it may be absent.

    Returns:
        A column for each of the rows nearest to those rounds; None if there are no samples.
    """
    rows = _rows(folder)
    if not rows:
        return None
    last = rows[-1][0]
    shown = [rows[place] for place in nearest([row.round for row, _ in rows], QUARTERS)]
    own = not any(last.tasks)  # prompts that the config lists are of no task
    of_task = {task: number for number, task in reversed(list(enumerate(last.tasks)))}
    numbers = range(len(last.prompts)) if own else sorted(of_task.values())
    prompts = "The run's own prompts" if own else "The first prompt of each task's test file"
    return SampleSheet(
        columns=[f"round {row.round}" for row, _ in shown],
        prompts=[(last.tasks[number], last.prompts[number]) for number in numbers],
        scores=[[None] * len(shown)] * len(numbers),
        rule=f"{prompts}, drawn from the same noise while the model trained.",
        images=[[pictures[number] for _, pictures in shown] for number in numbers],
    )


def nearest(rounds: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Places of the rounds nearest to shares of the last one, each once.

    Examples:
        >>> nearest([0, 20, 40, 60, 80, 100], [0, 0.25, 0.5, 1]), nearest([0, 12], [0, 0.25, 0.5, 1])
        ([0, 1, 2, 5], [0, 1])
    """
    wanted = [share * rounds[-1] for share in shares]
    places = [min(range(len(rounds)), key=lambda place: abs(rounds[place] - goal)) for goal in wanted]
    return sorted(set(places))


def evenly(number: int, most: int) -> list[int]:
    """At most so many of the places 0, 1, ..., ``number - 1``, evenly apart, with the first and the last.

    Examples:
        >>> evenly(12, 5), evenly(3, 5)
        ([0, 3, 6, 8, 11], [0, 1, 2])
    """
    if number <= most:
        return list(range(number))
    return [round(step * (number - 1) / (most - 1)) for step in range(most)]


def _rows(folder: Path) -> list[tuple[SampleRow, list[Image.Image]]]:
    """The intact rows with the last one's prompts, in order; of damaged ones a warning says so."""
    found = []
    for path in list_rows(folder):
        try:
            found.append(read_row(path))
        except (OSError, ValueError) as error:
            log.warning("samples are left out: %s (%s)", path, error)
    return [entry for entry in found if entry[0].prompts == found[-1][0].prompts]
