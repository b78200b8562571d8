"""Models side by side from the single images that evaluations saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from diffopd.evaluation import EvaluationResult
from diffopd.files.grid import enlarged
from diffopd.files.png import read_png
from diffopd.files.sample_sheet import SampleSheet
from diffopd.report.run.chosen import Choice, rule_sentence


def sheet_of_saved(
    columns: Mapping[str, tuple[Path, EvaluationResult]], choices: Sequence[Choice]
) -> SampleSheet:
    """Read the first image of each chosen prompt of every model, with its score.

    Args:
        columns: What the sheet calls a model -> the folder with its ``<task>/<index>.png``, and its scores;
            all on the same prompts.
        choices: The prompts.
    """
    first = next(iter(columns.values()))[1]
    rows = [
        (choice.task, first.tasks[choice.task].groups.index(place), first.tasks[choice.task].texts[place])
        for choice in choices
        for place in choice.places
    ]
    return SampleSheet(
        columns=list(columns),
        prompts=[(task, text) for task, _, text in rows],
        scores=[
            [result.tasks[task].scores[index] for _, result in columns.values()] for task, index, _ in rows
        ],
        rule=rule_sentence(choices),
        images=[
            [enlarged(read_png(folder / task / f"{index:05d}.png")) for folder, _ in columns.values()]
            for task, index, _ in rows
        ],
    )
