"""The same prompts and noise for every method, from the images that runs saved (Figures 4 and 8)."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffopd.evaluation import EvaluationResult
from diffopd.files.sample_sheet import SHEET, SampleSheet, read_sheet
from diffopd.report.methods.methods import Method
from diffopd.report.methods.runs import Run
from diffopd.report.run.chosen import choose_scored
from diffopd.report.run.saved import sheet_of_saved

log = logging.getLogger(__name__)

_READING = (
    "In a row all images start from the same noise. Under each image its score on the row's task. The base "
    "is at its best guidance, the others are at the guidance they were trained for."
)

Saved = tuple[Run, Path, EvaluationResult]
"""A run, the folder of its single images, and their scores."""


@dataclass(frozen=True, kw_only=True)
class ImageGrid:
    """A picture of methods side by side.

    Attributes:
        path: The PNG.
        caption: What it shows.
    """

    path: Path
    caption: str


def method_grids(
    methods: Sequence[Method], folder: Path, *, benchmark: str, num_per_task: int
) -> tuple[list[ImageGrid], list[str]]:
    """Draw every grid for which there are images.

    Args:
        methods: In order; of each, the first seed that saved images is shown.
        folder: Gets the PNGs.
        benchmark: Whose images are shown, where runs saved each image.
        num_per_task: Prompts of each task.

    Returns:
        The grids, and the labels of methods of which none shows an image.
    """
    single = {method.label: found for method in methods if (found := _saved(method, benchmark))}
    sheets = {
        method.label: found for method in methods if method.label not in single and (found := _sheet(method))
    }
    grids = []
    for number, alike in enumerate(_same_prompts(single), 1):
        path = folder / f"images_{number}.png"
        grids.append(_grid_of_images(alike, path, benchmark=benchmark, num_per_task=num_per_task))
    for number, names in enumerate(_same_start(sheets), len(grids) + 1):
        path = folder / f"images_{number}.png"
        grids.append(_grid_of_sheets({name: sheets[name] for name in names}, path))
    return grids, [method.label for method in methods if method.label not in single.keys() | sheets.keys()]


def _saved(method: Method, benchmark: str) -> Saved | None:
    """The first seed's single images, at the guidance it was trained for if those are there.

    Of a base model, which was trained for none, those that score best.
    """
    for run in method.runs.values():
        found = [
            (run, path.parent / "images", result)
            for path, result in run.results
            if result.benchmark == benchmark and (path.parent / "images").is_dir()
        ]
        if found and all(result.adapter is None for _, _, result in found):
            return max(found, key=lambda entry: statistics.fmean(entry[2].means.values()))
        own = [entry for entry in found if entry[2].guidance_scale == run.guidance_scale]
        if found:
            return (own or found)[0]
    return None


def _same_prompts(found: Mapping[str, Saved]) -> list[dict[str, Saved]]:
    """Put together what was drawn from the same prompts and seed."""
    alike: dict[str, dict[str, Saved]] = {}
    for label, entry in found.items():
        result = entry[2]
        texts = {task: scored.texts for task, scored in result.tasks.items()}
        alike.setdefault(f"{result.seed} {texts}", {})[label] = entry
    return list(alike.values())


def _grid_of_images(
    shown: Mapping[str, Saved], path: Path, *, benchmark: str, num_per_task: int
) -> ImageGrid:
    results = [result for _, _, result in shown.values()]
    base = next((result for result in results if result.adapter is None), None)
    choices = choose_scored(results[0], base, _teachers(shown), number=num_per_task)
    columns = {_header(label): (folder, result) for label, (_, folder, result) in shown.items()}
    sheet = sheet_of_saved(columns, choices)
    return ImageGrid(
        path=sheet.save(path),
        caption=f"Benchmark {benchmark}; {_shown_seeds(shown)}. {sheet.rule} {_READING}",
    )


def _teachers(shown: Mapping[str, Saved]) -> dict[str, EvaluationResult]:
    """Task -> scores of its teacher, where a run shown here is the teacher of another."""
    adapters = {(run.folder / "adapter").resolve(): result for run, _, result in shown.values()}
    found: dict[str, EvaluationResult] = {}
    for run, _, _ in shown.values():
        taught = (run.settings.get("teacher") or {}).get("teachers") or {}
        for task, entry in taught.items():
            place = Path(str(entry.get("path"))).resolve()
            if place in adapters and task in adapters[place].tasks:
                found.setdefault(task, adapters[place])
    return found


def _sheet(method: Method) -> tuple[Run, SampleSheet] | None:
    """The first seed's samples; not those of an earlier version, which do not say what they show."""
    for run in method.runs.values():
        path = run.folder / "report" / SHEET
        if path.is_file():
            try:
                return run, read_sheet(path)
            except ValueError as error:
                log.warning("samples are left out: %s", error)
    return None


def _same_start(sheets: Mapping[str, tuple[Run, SampleSheet]]) -> list[list[str]]:
    """Put together sheets whose prompts and whose images of the base are the same, pixel for pixel."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for label, (_, sheet) in sheets.items():
        base = tuple(row[0].tobytes() for row in sheet.images)
        alike.setdefault((tuple(sheet.prompts), base), []).append(label)
    return list(alike.values())


def _grid_of_sheets(shown: Mapping[str, tuple[Run, SampleSheet]], path: Path) -> ImageGrid:
    label, (_, first) = next(iter(shown.items()))
    sheets = [sheet for _, sheet in shown.values()]
    sheet = dataclasses.replace(
        first,
        columns=[*first.columns[:-1], *(_header(label) for label in shown)],
        images=[
            [*row[:-1], *(other.images[number][-1] for other in sheets)]
            for number, row in enumerate(first.images)
        ],
        scores=[
            [*row[:-1], *(other.scores[number][-1] for other in sheets)]
            for number, row in enumerate(first.scores)
        ],
    )
    teachers = f" The teachers are those of {label}." if len(first.columns) > 2 else ""
    return ImageGrid(
        path=sheet.save(path),
        caption=f"{_shown_seeds(shown).capitalize()}. {sheet.rule} {_READING}{teachers}",
    )


def _shown_seeds(shown: Mapping[str, tuple[Run, *tuple[object, ...]]]) -> str:
    seeds = {label: entry[0].seed for label, entry in shown.items()}
    if len(set(seeds.values())) == 1:
        return f"seed {next(iter(seeds.values()))} of each method"
    return "seeds: " + ", ".join(f"{label} {seed}" for label, seed in seeds.items())


def _header(label: str) -> str:
    """A method's label in lines that fit above an image."""
    lines = [""]
    for word in label.replace("_", "_ ").split():
        joined = lines[-1] + ("" if lines[-1].endswith("_") or not lines[-1] else " ") + word
        if len(joined) > 15 and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = joined
    return "\n".join(lines)
