"""What the doctor finds, and what its exit code says of it."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.table import Table


class Level(enum.IntEnum):
    """How bad a finding is."""

    FINE = 0
    """As it should be."""
    NOTE = 1
    """Worth knowing; nothing to change."""
    WARNING = 2
    """The run would work, but perhaps without a useful result."""
    FAILURE = 3
    """The run would fail."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: How bad it is.
        about: What was looked at, in a word or two.
        text: What was found, and what to change.
    """

    level: Level
    about: str
    text: str


def exit_code(findings: Iterable[Finding]) -> int:
    """0: no problem found; 1: warnings; 2: the run would fail."""
    worst = max((finding.level for finding in findings), default=Level.FINE)
    return {Level.WARNING: 1, Level.FAILURE: 2}.get(worst, 0)


def findings_table(findings: Iterable[Finding]) -> Table:
    """Findings for a terminal, the worst last, where one looks first."""
    colours = {Level.FINE: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.FAILURE: "bold red"}
    words = {Level.FINE: "fine", Level.NOTE: "note", Level.WARNING: "warning", Level.FAILURE: "would fail"}
    table = Table(title="findings", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in sorted(findings, key=lambda finding: finding.level):
        word = f"[{colours[finding.level]}]{words[finding.level]}[/]"
        table.add_row(word, finding.about, _plain(finding.text))
    return table


def _plain(text: str) -> str:
    """Text with brackets, e.g. of lists, that rich would take for its markup."""
    return text.replace("[", r"\[")
