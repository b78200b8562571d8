"""A table of results: who was scored (rows), on what (columns)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from rich.table import Table

from diffopd.metric.interval import Interval


@dataclass(frozen=True)
class ResultTable:
    """Scores by row and column; a row may lack a column.

    Attributes:
        title: What was measured.
        cells: Row name to column name to score, in the order to show them.
    """

    title: str
    cells: Mapping[str, Mapping[str, Interval | float]]

    @property
    def columns(self) -> list[str]:
        """Every column that some row has, in order of first appearance."""
        return list(dict.fromkeys(column for row in self.cells.values() for column in row))

    def to_rich(self) -> Table:
        """The table for a terminal."""
        table = Table(title=self.title)
        table.add_column("")
        for column in self.columns:
            table.add_column(column, justify="right")
        for name, row in self._rows():
            table.add_row(name, *row)
        return table

    def to_markdown(self) -> str:
        """The table for a README, title excluded."""
        header = ["", *self.columns]
        lines = [
            header,
            ["---", *("---:" for _ in self.columns)],
            *([name, *row] for name, row in self._rows()),
        ]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def to_json(self) -> str:
        """Title and full-precision cells; intervals as mean, low and high."""
        rows = {
            name: {column: asdict(c) if isinstance(c, Interval) else c for column, c in row.items()}
            for name, row in self.cells.items()
        }
        return json.dumps({"title": self.title, "rows": rows}, indent=2, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> ResultTable:
        """Read back what :meth:`to_json` wrote."""
        record = json.loads(text)
        cells = {
            name: {column: Interval(**c) if isinstance(c, dict) else c for column, c in row.items()}
            for name, row in record["rows"].items()
        }
        return ResultTable(record["title"], cells)

    def _rows(self) -> list[tuple[str, list[str]]]:
        return [(name, [_text(row.get(c)) for c in self.columns]) for name, row in self.cells.items()]


def _text(cell: Interval | float | None) -> str:
    if cell is None:
        return "-"
    return str(cell) if isinstance(cell, Interval) else f"{cell:.3f}"
