"""The page of all settings, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conf_files import CONTENT, Choice, Setting, commands, groups

from diffopd.files.markdown import markdown_table

ROOT = Path(__file__).parents[1]

HEAD = """# Settings

Every group of `conf/` with its choices and settings, as its files say: this page is made from them, and
from the checks of [`diffopd.check`](../check.md), whenever the documentation is built. How they are put
together: [configuration](../configuration.md). Experiments are on [their own page](experiments.md).

*Default* is what the file says: `${...}` is read from another setting, `???` has to be given. *Must be* is
what an error asks for; where it is empty, nothing is checked before the run builds the object. *In* names
the choices that have the setting with this default; where it is empty, all have. A choice that starts as
another has that one's settings, too, and lists only what differs. `<task>` is composition, ocr, aesthetic
or a task of your own.
"""

TASKS = re.compile(r"\b((?:data|benchmark)\.tasks|teacher\.teachers)\.(?:composition|ocr|aesthetic)\b")
"""Paths that are alike for every task."""


@dataclass
class Row:
    """A setting with one default and one comment.

    Attributes:
        default: What the files say.
        allowed: What its value must be.
        of: The group that the default is a choice of, or None.
        note: The files' comment.
        choices: The choices that have it so.
    """

    default: str
    allowed: str
    of: str | None
    note: str = ""
    choices: list[str] = field(default_factory=list)

    def takes(self, setting: Setting) -> bool:
        """Whether a setting is one of those it stands for; a file may leave out what another says."""
        return setting.default == self.default and (setting.note in ("", self.note) or not self.note)


def page() -> str:
    """The whole page."""
    every = groups()
    parts = [HEAD, "## Groups\n", table(["Group", "Choices"], _overview(every)), "\n## Commands\n"]
    for command in commands():
        parts += [f"### `diffopd.{command.name}` {{#command-{command.name}}}\n", f"{command.purpose}\n"]
        parts += [f"All of `{start}`, and:\n" for start in command.starts_as]
        parts += [_settings([command]), ""]
    for group, choices in every.items():
        parts += [f"## `{group}` {{#{group}}}\n"]
        if (ROOT / "docs" / f"{group}.md").is_file():
            parts += [f"Explained on the page [{group}](../{group}.md).\n"]
        parts += [_choices(choices), ""]
        if group not in CONTENT and (shown := _settings(choices)):
            parts += [shown, ""]
    return "\n".join(parts)


def _overview(every: Mapping[str, Sequence[Choice]]) -> Iterator[Sequence[str]]:
    for group, choices in every.items():
        yield f"[`{group}`](#{group})", ", ".join(f"`{choice.name}`" for choice in choices)


def _choices(choices: Sequence[Choice]) -> str:
    """What each choice is, without the columns that none of them fills."""
    columns = ["Choice", "What it is", "Starts as", "Class"]
    rows = [
        [
            f"`{choice.name}`",
            choice.purpose,
            ", ".join(f"`{start}`" for start in choice.starts_as),
            f"`{choice.target}`" if choice.target and not choice.starts_as else "",
        ]
        for choice in choices
    ]
    used = [number for number in range(4) if number < 2 or any(row[number] for row in rows)]
    return table([columns[n] for n in used], [[row[n] for n in used] for row in rows])


def _settings(choices: Sequence[Choice]) -> str:
    """The settings of some choices; one row for those that are alike."""
    rows: dict[str, list[Row]] = {}
    for choice in choices:
        for setting in choice.settings:
            of_path = rows.setdefault(TASKS.sub(r"\1.<task>", setting.path), [])
            row = next((row for row in of_path if row.takes(setting)), None)
            if row is None:
                of_path.append(row := Row(setting.default, setting.allowed, setting.of))
            row.note = row.note or setting.note
            if choice.name not in row.choices:
                row.choices.append(choice.name)
    lines = [
        [
            f"`{path}`",
            f"[`{row.default}`](#{row.of})" if row.of else f"`{row.default}`" if row.default else "",
            row.allowed,
            row.note,
            "" if len(row.choices) == len(choices) else ", ".join(f"`{name}`" for name in row.choices),
        ]
        for path, of_path in rows.items()
        for row in of_path
    ]
    if not lines:
        return ""
    columns = ["Setting", "Default", "Must be", "What it does", "In"]
    width = 5 if any(line[4] for line in lines) else 4
    return table(columns[:width], [line[:width] for line in lines])


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what would end a cell or a tag is written so that it does not."""
    header, *lines = ([_cell(cell) for cell in line] for line in (columns, *rows))
    return markdown_table(header, lines, texts=range(len(header)))


def _cell(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(p if p.startswith("`") else p.replace("<", "&lt;").replace("*", "\\*") for p in parts)
