"""Two ways to do one thing, side by side: ratios of medians, their spread, and memory; as tables and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from diffopd.files.atomic import atomic_write_text

Steps = Mapping[str, Mapping[int, int]]
"""way -> number of steps -> peak bytes."""
WAY_COLUMNS = ("Way", "median ms", "least ms", "most ms", "peak MiB")
COMPARISON_COLUMNS = ("Choice", "ratio", "least to most", "memory")


@dataclass
class Measured:
    """What one way took.

    Attributes:
        seconds: One entry per turn.
        peak_bytes: Most memory allocated at once, beyond what was there before.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Comparison:
    """A choice between two ways that took turns."""

    name: str
    slower: str
    faster: str

    def ratio(self, found: Mapping[str, Measured]) -> float:
        """Median time of the slower way over that of the faster one."""
        return found[self.slower].median / found[self.faster].median

    def spread(self, found: Mapping[str, Measured]) -> tuple[float, float]:
        """Least and largest ratio of one turn."""
        turns = zip(found[self.slower].seconds, found[self.faster].seconds, strict=True)
        ratios = [slow / fast for slow, fast in turns]
        return min(ratios), max(ratios)

    def memory(self, found: Mapping[str, Measured]) -> float:
        """Peak memory of the faster way over that of the slower one."""
        return (found[self.faster].peak_bytes or 0) / (found[self.slower].peak_bytes or 1)


def comparison_rows(
    found: Mapping[str, Measured], comparisons: Sequence[Comparison]
) -> list[tuple[str, ...]]:
    """One row for each choice."""
    rows = []
    for entry in comparisons:
        least, most = entry.spread(found)
        cells = (f"{entry.ratio(found):.2f}", f"{least:.2f} to {most:.2f}", f"x {entry.memory(found):.2f}")
        rows.append((entry.name, *cells))
    return rows


def way_rows(found: Mapping[str, Measured]) -> list[tuple[str, ...]]:
    """One row for each way."""
    rows = []
    for name, way in found.items():
        times = [f"{1000 * value:.1f}" for value in (way.median, min(way.seconds), max(way.seconds))]
        rows.append((name, *times, mebibytes(way.peak_bytes)))
    return rows


def step_columns(steps: Steps) -> tuple[str, ...]:
    """Head of the table of memory by length of the rollout."""
    numbers = list(next(iter(steps.values())))
    return ("Way", *(f"{number} steps, MiB" for number in numbers), f"{numbers[-1]} over {numbers[0]}")


def step_rows(steps: Steps) -> list[tuple[str, ...]]:
    """One row for each way."""
    rows = []
    for way, by_number in steps.items():
        sizes = list(by_number.values())
        rows.append((way, *map(mebibytes, sizes), f"{sizes[-1] / sizes[0]:.3f}"))
    return rows


def mebibytes(size: int | None) -> str:
    """One decimal, or a dash for what is not known."""
    return "-" if size is None else f"{size / 2**20:.1f}"


def tables(
    found: Mapping[str, Measured], comparisons: Sequence[Comparison], steps: Steps
) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, head and rows of each table."""
    found_tables = [
        ("What each choice is worth", COMPARISON_COLUMNS, comparison_rows(found, comparisons)),
        ("Each way", WAY_COLUMNS, way_rows(found)),
    ]
    if steps:
        found_tables.append(("Peak memory by length of the rollout", step_columns(steps), step_rows(steps)))
    return found_tables


def show(found: Mapping[str, Measured], comparisons: Sequence[Comparison], steps: Steps) -> None:
    """Print the tables."""
    console = Console()
    for title, columns, rows in tables(found, comparisons, steps):
        table = Table(*columns, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column in table.columns:
            column.no_wrap = True
            column.justify = "left" if column is table.columns[0] else "right"
        for row in rows:
            table.add_row(*row)
        console.print(table)


def markdown(found: Mapping[str, Measured], comparisons: Sequence[Comparison], steps: Steps) -> str:
    """The tables for a page."""
    parts = []
    for title, columns, rows in tables(found, comparisons, steps):
        lines = [f"## {title}", "", line(columns), "|---|" + "---:|" * (len(columns) - 1), *map(line, rows)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def write(folder: Path, name: str, result: Mapping[str, Any], page: str) -> None:
    """Leave ``<name>.md``, which opens with the command and the machine, and ``<name>.json``."""
    on = result["machine"]
    head = (
        f"`{on['command']}` at commit {on['commit']}: {on['cores']} cores ({on['processor']}), torch "
        f"{on['torch']}, load {on['load'][0]:.1f} at the end. How to read it: [README](README.md).\n"
    )
    atomic_write_text(folder / f"{name}.md", f"{head}\n{page}")
    atomic_write_text(folder / f"{name}.json", json.dumps(result, indent=1) + "\n")
