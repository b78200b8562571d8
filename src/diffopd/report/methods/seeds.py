"""Several seeds of one experiment in one table: the median seed, and the range of all."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffopd.files.atomic import replacing
from diffopd.files.markdown import markdown_table
from diffopd.report.methods.methods import Method
from diffopd.report.run.held_out import DIGITS, Cell, HeldOutTable, Place, cells_of, held_out_table
from diffopd.teacher import HeldOut

STUDENT = "student"
"""Name of the row of a run's table that differs from seed to seed."""
SEEDS = "seeds.md"
"""Name of the file beside a page."""

Scores = Mapping[str, float]
"""task -> score."""


@dataclass(frozen=True, kw_only=True)
class SeedTable:
    """A method's seeds.

    Attributes:
        label: Of the method.
        seeds: All of them, in order.
        median: The median seed.
        header: Of the table.
        lines: Its rows.
        note: How to read it.
        held_out: The same models by what nothing is trained on; None if no run's table has any of it.
    """

    label: str
    seeds: Sequence[int]
    median: int
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str
    held_out: HeldOutTable | None

    def to_markdown(self) -> str:
        """The table for a README."""
        seeds = ", ".join(map(str, self.seeds))
        below = "" if self.held_out is None else f"\n{self.held_out.to_markdown()}"
        return (
            f"**{self.label}, seeds {seeds}**\n\n{markdown_table(self.header, self.lines)}\n\n{self.note}\n"
            f"{below}"
        )


@dataclass(frozen=True)
class _Seed:
    """A student's scores and shares of its teachers' gains at one guidance scale."""

    scores: Scores
    kept: Scores


def seed_tables(methods: Sequence[Method]) -> list[SeedTable]:
    """The table of every method with two or more seeds whose reports compare a student with its teachers."""
    return [table for method in methods if (table := seed_table(method)) is not None]


def seed_table(method: Method) -> SeedTable | None:
    """The median seed of a method and the range of all, with base and teachers.

    The median seed is the one whose mean over tasks is the median over the seeds: of the shares of its
    teachers' gains that the student keeps, or, where not every seed has all of these, of its scores. It is
    taken at the guidance the student was trained for; of an even number it is the lower of the two in the
    middle.

    Args:
        method: Its runs' reports are read.

    Returns:
        None with fewer than two seeds that have a report.
    """
    tables = {seed: run.table for seed, run in method.runs.items() if run.table}
    scales = [run.guidance_scale for seed, run in method.runs.items() if seed in tables]
    if len(tables) < 2 or scales[0] is None:
        return None
    found = {seed: _students(table) for seed, table in tables.items()}
    trained = {seed: by_scale[scales[0]] for seed, by_scale in found.items() if scales[0] in by_scale}
    if len(trained) < len(tables):
        return None
    by_shares, median = median_seed(trained)
    tasks = _in_order(next(iter(trained.values())).scores, method.settings)
    lines = [
        [row["name"], f"{row['guidance_scale']:g}", *_cells(_means(row), tasks)]
        for row in tables[median]["rows"]
        if row["name"] != STUDENT
    ]
    every = "range of seeds"
    common = [scale for scale in found[median] if all(scale in by_scale for by_scale in found.values())]
    scores, shares = [], []
    for scale in common:
        at, own, text = [by_scale[scale] for by_scale in found.values()], found[median][scale], f"{scale:g}"
        of_seeds, kept = [seed.scores for seed in at], [seed.kept for seed in at]
        scores += [
            [f"student, seed {median} (median)", text, *_cells(own.scores, tasks)],
            [f"student, {every}", text, *_ranges(of_seeds, tasks)],
        ]
        shares += [
            [f"gain kept, seed {median} (median)", text, *_cells(own.kept, tasks, "%")],
            ["gain kept, median per task", text, *_medians(kept, tasks)],
            [f"gain kept, {every}", text, *_ranges(kept, tasks, "%")],
        ]
    what = "share of its teachers' gains" if by_shares else "score"
    note = (
        f"Median seed: of {len(tables)} seeds the one with the median {what}, mean over tasks at guidance "
        f"{scales[0]:g}. Gain kept: (student - base) / (teacher - base) on the teacher's task."
    )
    return SeedTable(
        label=method.label,
        seeds=sorted(tables),
        median=median,
        header=["", "guidance", *tasks],
        lines=[*lines, *scores, *shares],
        note=note,
        held_out=_held_out(tables, median, common),
    )


def _held_out(
    tables: Mapping[int, Mapping[str, Any]], median: int, common: Sequence[float]
) -> HeldOutTable | None:
    """Base and teachers, the student of the median seed and the range of all seeds' students."""
    rows: list[tuple[list[str], dict[Place, Cell]]] = [
        ([row["name"], f"{row['guidance_scale']:g}"], cells_of(_held_out_of(row)))
        for row in tables[median]["rows"]
        if row["name"] != STUDENT
    ]
    for scale in common:
        students = {
            seed: _held_out_of(row)
            for seed, table in tables.items()
            for row in table["rows"]
            if row["name"] == STUDENT and float(row["guidance_scale"]) == scale
        }
        rows.append(([f"student, seed {median} (median)", f"{scale:g}"], cells_of(students[median])))
        ranges = {("", metric): _range(list(students.values()), metric) for metric in students[median]}
        rows.append((["student, range of seeds", f"{scale:g}"], ranges))
    return held_out_table(["", "guidance"], rows)


def _held_out_of(row: Mapping[str, Any]) -> dict[str, HeldOut]:
    """Of a row of a run's ``table.json``; empty in one of before these were kept."""
    return HeldOut.of_each(row.get("held_out", {}))


def _range(seeds: Sequence[Mapping[str, HeldOut]], metric: str) -> Cell:
    found = [values[metric] for values in seeds if metric in values]
    ends = [end(held_out.value for held_out in found) for end in (min, max)]
    text = " to ".join(f"{end:.{DIGITS}f}" for end in ends)
    return Cell(text=text, better=found[0].better, n=found[0].n)


def median_seed(seeds: Mapping[int, _Seed]) -> tuple[bool, int]:
    """Whether shares of gains decide, and the seed whose mean over tasks is the (lower) median."""
    first = next(iter(seeds.values())).kept.keys()
    by_shares = bool(first) and all(seed.kept.keys() == first for seed in seeds.values())
    means = {
        number: statistics.fmean((seed.kept if by_shares else seed.scores).values())
        for number, seed in seeds.items()
    }
    wanted = statistics.median_low(means.values())
    return by_shares, next(number for number in sorted(means) if means[number] == wanted)


def write_seed_tables(tables: Sequence[SeedTable], folder: Path) -> Path:
    """Write all tables as Markdown into ``seeds.md``."""
    with replacing(folder / SEEDS) as temporary:
        temporary.write_text("\n".join(table.to_markdown() for table in tables), encoding="utf-8")
    return folder / SEEDS


def _in_order(tasks: Iterable[str], settings: Mapping[str, Any]) -> list[str]:
    """Tasks as the config has them: JSON files of results are sorted by name."""
    places = {
        path.split(".")[2]: place
        for place, path in reversed(list(enumerate(settings)))
        if path.startswith(("data.tasks.", "benchmark.tasks."))
    }
    return sorted(tasks, key=lambda task: places.get(task, len(settings)))


def _students(table: Mapping[str, Any]) -> dict[float, _Seed]:
    """Guidance -> the student's scores and shares, of a run's ``table.json``."""
    kept = {float(scale): shares for scale, shares in table["gain_kept"].items()}
    return {
        float(row["guidance_scale"]): _Seed(_means(row), kept.get(float(row["guidance_scale"]), {}))
        for row in table["rows"]
        if row["name"] == STUDENT
    }


def _means(row: Mapping[str, Any]) -> dict[str, float]:
    return {task: float(score["mean"]) for task, score in row["scores"].items()}


def _text(value: float, unit: str) -> str:
    return f"{value:.0%}" if unit else f"{value:.3f}"


def _cells(values: Scores, tasks: Sequence[str], unit: str = "") -> list[str]:
    return [_text(values[task], unit) if task in values else "-" for task in tasks]


def _ranges(seeds: Sequence[Scores], tasks: Sequence[str], unit: str = "") -> list[str]:
    return [
        f"{_text(min(of_task), unit)} to {_text(max(of_task), unit)}"
        if (of_task := [values[task] for values in seeds if task in values])
        else "-"
        for task in tasks
    ]


def _medians(seeds: Sequence[Scores], tasks: Sequence[str]) -> list[str]:
    return [
        _text(statistics.median(of_task), "%")
        if (of_task := [values[task] for values in seeds if task in values])
        else "-"
        for task in tasks
    ]
