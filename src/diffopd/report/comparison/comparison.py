"""Models side by side: what each cost and scored, in CSV, Markdown and pictures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffopd.files.atomic import replacing
from diffopd.files.markdown import markdown_table
from diffopd.report.comparison.compared import (
    AnyRow,
    ComparedRow,
    Summary,
    TableRow,
    held_out_places,
    normalised_means,
    summarise,
)
from diffopd.report.comparison.figures import compared_images, radar, reward_by_minutes
from diffopd.report.methods.difference import half_text
from diffopd.report.methods.runs import Run
from diffopd.report.methods.tables import cells_over_seeds
from diffopd.report.run.held_out import TITLE, Cell, HeldOutTable, Place, held_out_table
from diffopd.teacher import Estimate, HeldOut

_READING = (
    "Minutes of training: of a student, with its slowest teacher (teachers can be trained side by side), "
    "then with all of them. Images and reward calls: in training, with all teachers. Last column: mean over "
    "the score columns, each from 0 for the table's worst row to 1 for its best. ± is half of the 95 % CI "
    "over seeds (Student's t). A row of one seed supports no claim."
)


TABLE = "table.csv"
"""Every row and seed, in a table's folder."""


@dataclass(frozen=True, kw_only=True)
class PageTable:
    """A table as a page shows it.

    Attributes:
        heading: Above it.
        header: Of its columns.
        lines: The cells of every row.
        note: Below it.
    """

    heading: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str


@dataclass(frozen=True)
class _Column:
    """A column of the table: its header and each row's text."""

    header: str
    texts: Sequence[str]


def write_comparison(rows: Sequence[AnyRow], runs: Sequence[Run], folder: Path, *, num_shown: int) -> None:
    """Write ``table.csv``, ``table.md``, ``radar.png``, ``reward_by_minutes.png`` and ``images.png``; print.

    Args:
        rows: Every row, seed and guidance scale. Those that were read from a table have no images.
        runs: One for each row and seed, called by the row: their rewards are drawn.
        folder: Gets the files.
        num_shown: Prompts of each task in the grid of images; 0 = no grid.
    """
    summaries = summarise(rows)
    means = normalised_means(summaries)
    markdown = to_markdown(summaries, means)
    with replacing(folder / "table.md") as temporary:
        temporary.write_text(markdown, encoding="utf-8")
    _write_csv(rows, folder / TABLE)
    print(markdown)
    drawn = [row for row in rows if isinstance(row, ComparedRow)]
    sheet = compared_images(drawn, folder / "images.png", num_shown=num_shown) if num_shown else None
    files = {
        "table": folder / "table.md",
        "every seed": folder / TABLE,
        "radar": radar(summaries, folder / "radar.png"),
        "reward": reward_by_minutes(rows, runs, folder / "reward_by_minutes.png"),
        "images": folder / "images.png" if sheet else None,
    }
    for label, path in files.items():
        if path is not None:
            print(f"{label + ':':<14} {path}", flush=True)
    if sheet:
        print(f"the images: {sheet.rule}", flush=True)


def to_markdown(summaries: Sequence[Summary], means: Sequence[float]) -> str:
    """The table. A score is the mean over seeds, with half of its 95 % interval if there are several."""
    header, lines = score_cells(summaries, means)
    body = markdown_table(header, lines)
    held_out = _held_out(summaries)
    below = "" if held_out is None else f"\n{held_out.to_markdown()}"
    return f"{body}\n\n{_READING}\n{below}"


def score_cells(summaries: Sequence[Summary], means: Sequence[float]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of scores."""
    columns = [
        _Column("", [summary.name for summary in summaries]),
        _Column("guidance", [f"{summary.guidance_scale:g}" for summary in summaries]),
        _Column("seeds", [f"{summary.num_seeds}" for summary in summaries]),
        _Column("minutes", [_number(summary.minutes, 1) for summary in summaries]),
        _Column("minutes, all teachers", [_number(summary.minutes_in_all, 1) for summary in summaries]),
        _Column("images", [_number(summary.images, 0) for summary in summaries]),
        _Column("reward calls", [_number(summary.reward_calls, 0) for summary in summaries]),
    ]
    for place in summaries[0].scores:
        texts = [
            f"{value.mean:.3f}{half_text(value.half, summary.num_seeds, 3)}"
            for summary in summaries
            for value in [summary.scores[place]]
        ]
        columns.append(_Column(f"{place[1]}, {place[0]}", texts))
    columns.append(_Column("mean, normalized", [f"{mean:.3f}" for mean in means]))
    header = [column.header for column in columns]
    return header, [[column.texts[row] for column in columns] for row in range(len(summaries))]


def page_tables(rows: Sequence[AnyRow]) -> list[PageTable]:
    """The table of scores and that of what nothing is trained on, for a page."""
    summaries = summarise(rows)
    header, lines = score_cells(summaries, normalised_means(summaries))
    tables = [PageTable(heading="Scores", header=header, lines=lines, note=_READING)]
    held_out = _held_out(summaries)
    if held_out is not None:
        tables.append(
            PageTable(heading=TITLE, header=held_out.header, lines=held_out.lines, note=held_out.reading)
        )
    return tables


def _held_out(summaries: Sequence[Summary]) -> HeldOutTable | None:
    """The same rows by what nothing is trained on; None if no row has any of it."""
    rows = []
    for summary in summaries:
        cells: dict[Place, Cell] = {}
        for (benchmark, metric), seeds in summary.held_out.items():
            cells |= cells_over_seeds([{metric: value} for value in seeds], benchmark)
        rows.append(([summary.name, f"{summary.guidance_scale:g}", f"{summary.num_seeds}"], cells))
    return held_out_table(["", "guidance", "seeds"], rows)


def _write_csv(rows: Sequence[AnyRow], path: Path) -> None:
    places = [(benchmark, task) for benchmark, scores in rows[0].scores.items() for task in scores]
    held_out = held_out_places(rows)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                *("row", "seed", "guidance", "note", "minutes", "minutes_with_slowest_teacher"),
                *("minutes_with_all_teachers", "images", "reward_calls"),
                *(f"{benchmark}/{task}{end}" for benchmark, task in places for end in ("", *_ENDS)),
                *(
                    f"{benchmark}{_HELD_OUT}{metric}{end}"
                    for benchmark, metric in held_out
                    for end in ("", *_HELD_OUT_ENDS)
                ),
            ]
        )
        for row in rows:
            scores = [row.scores[benchmark][task] for benchmark, task in places]
            writer.writerow(
                [
                    *(row.name, row.seed, row.guidance_scale, row.note, row.minutes_alone, row.minutes),
                    *(row.minutes_in_all, row.images_in_all, row.reward_calls_in_all),
                    *(value for score in scores for value in (score.mean, score.low, score.high, score.n)),
                    *(
                        cell
                        for benchmark, metric in held_out
                        for cell in _held_out_cells(row.held_out.get(benchmark, {}).get(metric))
                    ),
                ]
            )


_ENDS = ("/low", "/high", "/n")
"""Columns of a score beside its mean; ``/n`` is absent in tables of before it was kept."""
_HELD_OUT = "/held_out/"
"""Between the benchmark and the metric of a value that nothing is trained on."""
_HELD_OUT_ENDS = ("/n", "/better")
"""Columns of such a value beside it."""


def _held_out_cells(held_out: HeldOut | None) -> tuple[float | int | str | None, ...]:
    return ("", "", "") if held_out is None else (held_out.value, held_out.n, held_out.better)


def _read_held_out(line: Mapping[str, str]) -> dict[str, dict[str, HeldOut]]:
    """Values that a row has, by benchmark and metric."""
    found: dict[str, dict[str, HeldOut]] = {}
    for name, cell in line.items():
        benchmark, between, metric = name.partition(_HELD_OUT)
        if cell and between and not metric.endswith(_HELD_OUT_ENDS):
            number = line[f"{name}/n"]
            found.setdefault(benchmark, {})[metric] = HeldOut(
                value=float(cell), n=int(number) if number else None, better=line[f"{name}/better"]
            )
    return found


def read_csv(path: Path) -> list[TableRow]:
    """Rows of a ``table.csv``, from which ``to_markdown`` makes the table again."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    places = [name for name in lines[0] if "/" in name and _HELD_OUT not in name and not name.endswith(_ENDS)]
    return [
        TableRow(
            name=line["row"],
            seed=int(line["seed"]),
            note=line["note"],
            guidance_scale=float(line["guidance"]),
            minutes_alone=float(line["minutes"]),
            minutes=float(line["minutes_with_slowest_teacher"]),
            minutes_in_all=float(line["minutes_with_all_teachers"]),
            images_in_all=int(line["images"]),
            reward_calls_in_all=int(line["reward_calls"]),
            scores={
                benchmark: {
                    place.partition("/")[2]: Estimate(
                        mean=float(line[place]),
                        low=_number_or_none(line[f"{place}/low"]),
                        high=_number_or_none(line[f"{place}/high"]),
                        n=int(line.get(f"{place}/n") or 0),
                    )
                    for place in places
                    if place.partition("/")[0] == benchmark
                }
                for benchmark in dict.fromkeys(place.partition("/")[0] for place in places)
            },
            held_out=_read_held_out(line),
        )
        for line in lines
    ]


def _number_or_none(cell: str) -> float | None:
    """An end of an interval, which is empty where it is not known."""
    return float(cell) if cell else None


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if value else "-"
