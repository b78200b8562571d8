"""The table at the end of a distillation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from diffopd.files.markdown import markdown_table
from diffopd.report.run.held_out import HeldOutTable, cells_of, held_out_table
from diffopd.teacher import Estimate, HeldOut

READING = "mean ± half of its 95 % CI over prompts"
"""What a cell is."""
UNKNOWN = "; ±? = not known: too few prompts, or equal scores"
"""Said where a cell has no interval."""

_WIDE = 3
"""Tasks up to which a terminal of 80 columns shows numbers in full."""


@dataclass(frozen=True)
class Row:
    """One model's scores.

    Attributes:
        name: What the table calls it.
        guidance_scale: Guidance it was scored at.
        scores: task -> score.
        held_out: Held-out metric -> value.
    """

    name: str
    guidance_scale: float
    scores: Mapping[str, Estimate]
    held_out: Mapping[str, HeldOut] = field(default_factory=dict)


@dataclass(frozen=True)
class FinalTable:
    """Base, teachers and student on each task, and the share of each teacher's gain that the student has.

    What nothing is trained on is a table of its own: its values have no gain to keep.

    Attributes:
        title: What was measured.
        rows: In the order to show them.
        gain_kept: Guidance of the student -> task -> ``(student - base) / (teacher - base)``; without tasks
            whose teacher gained nothing.
    """

    title: str
    rows: Sequence[Row]
    gain_kept: Mapping[float, Mapping[str, float]]

    @property
    def tasks(self) -> list[str]:
        """The columns."""
        return list(dict.fromkeys(task for row in self.rows for task in row.scores))

    @property
    def full_title(self) -> str:
        """With the number of images of each task; of a task with several numbers, each row says its own."""
        numbers = {task: self._numbers(task) for task in self.tasks}
        told = [f"{task} {of[0]}" for task, of in numbers.items() if len(of) == 1]
        return f"{self.title} ({', '.join(told)} images)" if told else self.title

    def _numbers(self, task: str) -> list[int]:
        return sorted({row.scores[task].n for row in self.rows if task in row.scores})

    @property
    def reading(self) -> str:
        """What a cell is."""
        unknown = any(score.half is None for row in self.rows for score in row.scores.values())
        return READING + (UNKNOWN if unknown else "")

    def _cell(self, row: Row, task: str) -> str:
        score = row.scores.get(task)
        if score is None:
            return "-"
        own_number = f" (n = {score.n})" if len(self._numbers(task)) > 1 else ""
        half = "?" if score.half is None else f"{score.half:.3f}"
        return f"{score.mean:.3f} ±{half}{own_number}"

    def to_rich(self) -> Table:
        """The table for a terminal of 80 columns."""
        table = Table(
            title=self.full_title, title_justify="left", box=box.SIMPLE_HEAD, caption_justify="left"
        )
        table.caption = self.reading
        narrow = len(self.tasks) > _WIDE  # .500 for 0.500, so that four tasks fit
        table.padding = (0, 0) if narrow else (0, 1)
        for place, name in enumerate(("", "CFG" if narrow else "guidance", *self.tasks)):
            table.add_column(name, justify="right" if place else "left", no_wrap=True)
        for line in self._score_lines():
            table.add_row(*(re.sub(r"\b0\.", ".", cell) if narrow else cell for cell in line))
        table.add_section()
        for line in self._gain_lines():
            table.add_row(*line, style="bold")
        return table

    def to_markdown(self) -> str:
        """The table for a README."""
        header = ["", "guidance", *self.tasks]
        body = markdown_table(header, self.lines())
        held_out = self.held_out()
        below = "" if held_out is None else f"\n{held_out.to_markdown()}"
        return f"**{self.full_title}** ({self.reading})\n\n{body}\n{below}"

    def held_out(self) -> HeldOutTable | None:
        """The same rows by what nothing is trained on; None if no row has any of it."""
        rows = [([row.name, f"{row.guidance_scale:g}"], cells_of(row.held_out)) for row in self.rows]
        return held_out_table(["", "guidance"], rows)

    def to_json(self) -> dict[str, Any]:
        """Every number in full, as what JSON holds."""
        plain = dataclasses.asdict(self)
        for score in (score for row in plain["rows"] for score in row["scores"].values()):
            score.pop("single", None)  # a card's, and no part of the table
        return plain

    def lines(self) -> list[list[str]]:
        """The cells of every row, the first its name."""
        return [*self._score_lines(), *self._gain_lines()]

    def _score_lines(self) -> list[list[str]]:
        return [
            [row.name, f"{row.guidance_scale:g}", *(self._cell(row, task) for task in self.tasks)]
            for row in self.rows
        ]

    def _gain_lines(self) -> list[list[str]]:
        return [
            ["student's gain kept", f"{scale:g}", *(_share(shares.get(task)) for task in self.tasks)]
            for scale, shares in self.gain_kept.items()
        ]


def gain_kept(
    base: Mapping[str, Estimate], teachers: Mapping[str, Estimate], student: Mapping[str, Estimate]
) -> dict[str, float]:
    """Share of each teacher's gain over the base, on its own task, that the student has.

    Args:
        base: task -> score of the base.
        teachers: task -> score of that task's teacher.
        student: task -> score of the student.

    Returns:
        task -> share, 1 = all of it; without tasks whose teacher is not clearly better than the base: a
        share of a gain that may be chance says nothing.
    """
    return {
        task: (student[task].mean - base[task].mean) / (teacher.mean - base[task].mean)
        for task, teacher in teachers.items()
        if task in student and task in base and teacher.clearly_above(base[task])
    }


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
