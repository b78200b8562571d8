"""The layout of the paper's Table 1: models evaluated here beside the paper's own rows, for reference."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from diffopd.files.atomic import atomic_write_json, replacing
from diffopd.files.markdown import markdown_table
from diffopd.report.comparison.paper_rows import OWN, PaperRow, Reference, check_alike
from diffopd.report.run.figure import save_figure

AVERAGE, PRINTED = "average", "average printed"
_WARNING = (
    "Rows marked {source} are copied from that table: other noise, builds of scorers and hardware than those "
    "of rows marked here, so a difference between the two kinds is not a measurement. "
)
_READING = (
    "Average: mean over the score columns, each from 0 for the lowest row of all to 1 for the highest. "
    "A row that lacks a column has no average, and is not used for the lowest and highest. "
)
_PRINTED = (
    "Average printed: as the paper prints it; it cannot be recomputed from the paper's own numbers, and the "
    "average beside it is over the rows shown here."
)


def normalised_averages(rows: Sequence[Mapping[str, float]], columns: Sequence[str]) -> list[float | None]:
    """Mean over ``columns`` of each row's min-max normalized scores.

    Args:
        rows: Column -> score.
        columns: Those that count.

    Returns:
        One number in [0, 1] per row; None for a row that lacks a column, which counts neither as lowest nor
        as highest. A column in which all rows are equal counts 1.

    Examples:
        >>> rows = [{"a": 1.0, "b": 0.2}, {"a": 3.0, "b": 0.4}, {"a": 2.0, "b": 0.4}]
        >>> normalised_averages(rows, ["a", "b"])
        [0.0, 1.0, 0.75]
    """
    whole = [row for row in rows if all(column in row for column in columns)]
    bounds = {
        column: (min(row[column] for row in whole), max(row[column] for row in whole))
        for column in columns
        if whole
    }

    def share(column: str, value: float) -> float:
        low, high = bounds[column]
        return (value - low) / (high - low) if high > low else 1.0

    return [
        statistics.fmean(share(column, row[column]) for column in columns)
        if all(column in row for column in columns)
        else None
        for row in rows
    ]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """All rows with their averages.

    Attributes:
        rows: The paper's rows first.
        averages: One per row, or None.
        labels: Column -> what it is called, in the order to show them.
        source: Of the paper's rows; None if there are none.
    """

    rows: Sequence[PaperRow]
    averages: Sequence[float | None]
    labels: Mapping[str, str]
    source: str | None

    @staticmethod
    def of(own: Sequence[PaperRow], reference: Reference | None, columns: Sequence[str]) -> PaperTable:
        """Set own rows below those of a publication, if there is one.

        Raises:
            ValueError: If there are no rows at all, the publication lacks a column, or two own rows were
                scored with different settings.
        """
        rows = [*(reference.rows if reference else ()), *own]
        if not rows:
            raise ValueError(
                "models is empty and reference=null, so there is no row; name a model, as in "
                "'+models.mine={results: [runs/evaluate/geneval/...], hours: null}'"
            )
        check_alike(own)
        if reference and (unknown := sorted(set(columns) - set(reference.labels))):
            raise ValueError(
                f"columns has {', '.join(unknown)}, which {reference.source} lacks; set reference=null for "
                "your own columns"
            )
        return PaperTable(
            rows=rows,
            averages=normalised_averages([row.scores for row in rows], columns),
            labels={column: reference.labels[column] if reference else column for column in columns},
            source=reference.source if reference else None,
        )

    def texts(self) -> list[list[str]]:
        """Header and rows as they are shown."""
        printed = self.source is not None
        header = ["model", "from", "hours", *self.labels.values(), AVERAGE, *([PRINTED] if printed else [])]
        lines = [
            [
                row.name,
                row.source,
                row.hours or "-",
                *(_text(row.scores.get(column), digits) for column, digits in self._digits().items()),
                _text(average, 3),
                *([_text(row.printed, 3)] if printed else []),
            ]
            for row, average in zip(self.rows, self.averages, strict=True)
        ]
        return [header, *lines]

    def to_markdown(self) -> str:
        """The table, and how to read it."""
        header, *lines = self.texts()
        return f"{markdown_table(header, lines, texts=(0, 1))}\n\n{self.reading}\n"

    @property
    def reading(self) -> str:
        """What the numbers are, and what they are not."""
        numbers = {column: number for row in self.rows for column, number in row.images.items()}
        told = ", ".join(f"{self.labels[column]} {number:,}" for column, number in numbers.items())
        images = f" Images scored of rows marked here: {told}." if told else ""
        if self.source is None:
            return _READING.strip() + images
        return _WARNING.format(source=self.source) + _READING + _PRINTED + images

    def write(self, folder: Path) -> dict[str, Path]:
        """Write ``table.md``, ``table.json`` and ``table.png``; gives what is what."""
        paths = {ending: folder / f"table.{ending}" for ending in ("md", "json", "png")}
        with replacing(paths["md"]) as temporary:
            temporary.write_text(self.to_markdown(), encoding="utf-8")
        atomic_write_json(paths["json"], self.to_json())
        self._draw(paths["png"])
        return paths

    def to_json(self) -> dict[str, Any]:
        """Everything in full precision."""
        rows = [
            {
                "name": row.name,
                "source": row.source,
                "hours": row.hours,
                "scores": dict(row.scores),
                "average": average,
                "average_printed": row.printed,
            }
            for row, average in zip(self.rows, self.averages, strict=True)
        ]
        return {"columns": dict(self.labels), "rows": rows, "reading": self.reading}

    def _digits(self) -> dict[str, int]:
        """Decimals of each column: three below 0.5, as the paper has it for its cosines."""
        largest = {
            column: max((abs(row.scores[column]) for row in self.rows if column in row.scores), default=0.0)
            for column in self.labels
        }
        return {column: 3 if value < 0.5 else 2 for column, value in largest.items()}

    def _draw(self, path: Path) -> None:
        header, *lines = self.texts()
        figure = Figure(figsize=(1.25 * len(header) + 2, 0.34 * (len(lines) + 1) + 0.9), dpi=130)
        FigureCanvasAgg(figure)
        axis = figure.add_axes((0.01, 0.12, 0.98, 0.87))
        axis.axis("off")
        drawn = axis.table(cellText=lines, colLabels=header, loc="center", cellLoc="right", bbox=Bbox.unit())
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(8.5)
        drawn.auto_set_column_width(list(range(len(header))))
        for (row, column), cell in drawn.get_celld().items():
            cell.set_linewidth(0.4)
            own = row > 0 and self.rows[row - 1].source == OWN
            cell.set_facecolor("#dcdce4" if row == 0 else "#fff3c4" if own else "white")
            if column < 2:
                cell.set_text_props(ha="left")
        figure.text(0.01, 0.02, self.reading, fontsize=6.5, wrap=True, va="bottom")
        save_figure(figure, path)


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
