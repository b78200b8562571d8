"""What nothing is trained on, as a table beside the scores of a run, a comparison or a page of methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table

from diffopd.files.markdown import markdown_table
from diffopd.teacher import HIGHER, LOWER, NEITHER, HeldOut

TITLE = "Not used for training"
"""What such a table is called."""
LABELS = {
    "spectrum": "detail like clean drawings",
    "frechet": "Fréchet distance",
    "aesthetic_of_all_tasks": "aesthetic, all pictures",
    "composition_of_aesthetic": "paintings that show what was asked",
    "alignment": "substance: what was asked, by likeness",
    "contrast": "style: contrast",
    "balance": "style: balance",
    "palette": "style: palette",
    "picture_quality": "style: mean of these three",
}
"""Name in ``benchmark.held_out`` -> header; another name is its own header."""
MARKS = {HIGHER: "↑", LOWER: "↓", NEITHER: ""}
DIGITS = 3
UNKNOWN = "-"
"""A cell without a value."""
_WIDTH = 80
"""Columns of a terminal."""
_MOST_VALUES = 4
"""Values beside each other that it has room for."""

Place = tuple[str, str]
"""Benchmark, empty in a table of one, and held-out metric."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value as a table prints it.

    Attributes:
        text: The value, of several seeds with its spread.
        better: Which direction is better, one of ``diffopd.teacher.held_out.BETTER``.
        n: Number of images; None where it is not recorded.
    """

    text: str
    better: str
    n: int | None


Row = tuple[Sequence[str], Mapping[Place, Cell]]
"""The cells before the values, and the values."""


@dataclass(frozen=True, kw_only=True)
class HeldOutTable:
    """A table ready to be printed.

    Attributes:
        header: Of all columns, the first that of the rows' names.
        lines: The cells of every row.
        reading: What the numbers are.
        num_heads: Columns before the values.
    """

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    reading: str
    num_heads: int

    def to_markdown(self) -> str:
        """The table for a README, below its title."""
        return f"**{TITLE}** ({self.reading})\n\n{markdown_table(self.header, self.lines)}\n"

    def to_rich(self) -> Group:
        """The table for a terminal of 80 columns; of many values, several below each other."""
        values = range(self.num_heads, len(self.header))
        of_each = math.ceil(len(values) / math.ceil(len(values) / _MOST_VALUES))
        parts = [self._part(values[start : start + of_each]) for start in range(0, len(values), of_each)]
        parts[0].title, parts[-1].caption = TITLE, self.reading
        return Group(*parts)

    def _part(self, values: Sequence[int]) -> Table:
        """The heads and some of the values."""
        table = Table(title_justify="left", box=box.SIMPLE_HEAD, caption_justify="left")
        table.width, table.padding = _WIDTH, (0, 0)
        places = [*range(self.num_heads), *values]
        for place in places:
            table.add_column(self.header[place], justify="right" if place else "left", no_wrap=place < 2)
        for line in self.lines:
            table.add_row(*(line[place] for place in places))
        return table


def cells_of(values: Mapping[str, HeldOut], benchmark: str = "") -> dict[Place, Cell]:
    """Cells of the values of one model."""
    return {
        (benchmark, metric): Cell(text=f"{held_out.value:.{DIGITS}f}", better=held_out.better, n=held_out.n)
        for metric, held_out in values.items()
    }


def held_out_table(heads: Sequence[str], rows: Sequence[Row]) -> HeldOutTable | None:
    """A row for each model, a column for each metric that any of them has.

    Args:
        heads: Headers of the columns before the values.
        rows: The models.

    Returns:
        None if no row has a value.
    """
    every = [cells for _, cells in rows]
    places = _places(every)
    if not places:
        return None
    whole = all(place in cells for cells in every for place in places)
    missing = "" if whole else f"; {UNKNOWN} = not measured alike, or not at all"
    return HeldOutTable(
        header=[*heads, *(_header(place, every) for place in places)],
        lines=[
            [*first, *(cells[place].text if place in cells else UNKNOWN for place in places)]
            for first, cells in rows
        ],
        reading=_reading(places, every) + missing,
        num_heads=len(heads),
    )


def label_of(metric: str) -> str:
    """What a reader calls a metric.

    Examples:
        >>> label_of("frechet"), label_of("my_own")
        ('Fréchet distance', 'my own')
    """
    return LABELS.get(metric, metric.replace("_", " "))


def marked(label: str, better: str) -> str:
    """A label with the direction that is better.

    Examples:
        >>> marked("Fréchet distance", "lower")
        'Fréchet distance ↓'
    """
    return f"{label} {MARKS[better]}".rstrip()


def _places(rows: Sequence[Mapping[Place, Any]]) -> list[Place]:
    """Every value that a row has, by benchmark: metrics with a label first, then others as they come."""
    found = list(dict.fromkeys(place for row in rows for place in row))
    benchmarks = list(dict.fromkeys(benchmark for benchmark, _ in found))
    order = [*LABELS, *dict.fromkeys(metric for _, metric in found if metric not in LABELS)]
    return sorted(found, key=lambda place: (benchmarks.index(place[0]), order.index(place[1])))


def _better(place: Place, rows: Sequence[Mapping[Place, Cell]]) -> str:
    """The direction that is better; neither where rows say different things."""
    said = {row[place].better for row in rows if place in row}
    return said.pop() if len(said) == 1 else NEITHER


def _header(place: Place, rows: Sequence[Mapping[Place, Cell]]) -> str:
    benchmark, metric = place
    return marked(label_of(metric) + (f", {benchmark}" if benchmark else ""), _better(place, rows))


def _reading(places: Sequence[Place], rows: Sequence[Mapping[Place, Cell]]) -> str:
    """What marks mean, and the number of images; a metric of another number has its own."""
    directions = [_better(place, rows) for place in places]
    told = {HIGHER: "↑ higher is better", LOWER: "↓ lower" if HIGHER in directions else "↓ lower is better"}
    parts = [", ".join(told[better] for better in told if better in directions)]
    numbers = {place: {row[place].n or 0 for row in rows if place in row} - {0} for place in places}
    texts = {place: " or ".join(map(str, sorted(of))) for place, of in numbers.items() if of}
    if texts:
        usual = max(texts.values(), key=list(texts.values()).count)
        others = [f"{label_of(metric)}: {text}" for (_, metric), text in texts.items() if text != usual]
        parts += [f"{usual} images", *dict.fromkeys(others)]
    return "; ".join(part for part in parts if part)
