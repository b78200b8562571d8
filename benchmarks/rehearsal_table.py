"""A rehearsal as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rehearsal_walk import FAILED, OK

SHIM_NOTE = (
    "**With a shim**: every linear layer read only its first 64 inputs. Memory, disk, files and errors "
    "are real (of weights that are mapped from files, fewer pages may have been read); times of computing "
    "and all values (losses, pictures, scores, differences after export) are not."
)
NO_SHIM_NOTE = "No shim: the whole of each layer was computed."
HOW_MEASURED = (
    "Weights are random, so values mean nothing; times are with few steps and small pictures. Memory of the "
    "host is summed over a step's processes every 0.1 s, so shorter peaks can be missed; *anonymous* is what "
    "is no part of a file, and has to fit. *Written* counts what was removed again, *left* is what the "
    "folder grew by. Memory of a GPU is not measured."
)


def amount(number: int | None) -> str:
    """Bytes in GB or MB, as files are counted; a dash for what is not known."""
    if number is None:
        return "-"
    if abs(number) >= 1e9:
        return f"{number / 1e9:.2f} GB"
    return f"{number / 1e6:.0f} MB" if abs(number) >= 1e7 else f"{number / 1e6:.1f} MB"


def row(record: Mapping[str, Any]) -> str:
    """A line of the table."""
    note = f": {record['note']}" if record["note"] else ""
    result = record["result"] if record["result"] == OK else f"**{record['result']}**"
    cells = [record["title"], result + note]
    if "seconds" in record:
        cells += [
            f"{record['seconds']:.0f} s",
            f"{record['silent']:.0f} s",
            f"{amount(record['rss'])} ({amount(record['anonymous'])})",
            f"{amount(record['written'])} ({amount(record['left'])})",
        ]
    else:
        cells += [""] * 4
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """A line for each step."""
    head = ["Step", "Result", "Time", "Longest silence", "Peak memory (anonymous)", "Disk written (left)"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * 4]
    return "\n".join([*lines, *map(row, records)])


def page(about: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """The table, how it was made, and the last lines of what failed."""
    commits = ", ".join(dict.fromkeys(record["commit"] for record in records if "commit" in record))
    made = f"`{about['command']}` at commit {commits or 'unknown'}, {about['cores']} cores."
    parts = [
        f"# Rehearsal: {about['model']}",
        made,
        SHIM_NOTE if about["shim"] else NO_SHIM_NOTE,
        table(records),
        HOW_MEASURED,
    ]
    for record in records:
        if record["result"] == FAILED:
            parts.append(f"## {record['title']}: {record['note']}")
            parts.append("\n".join(["```", *record.get("tail", ()), "```"]))
    return "\n\n".join(parts) + "\n"
