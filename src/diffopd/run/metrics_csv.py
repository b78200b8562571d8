"""``metrics.csv``: one row per round, each with a checksum, so that a damaged one is left out."""

from __future__ import annotations

import csv
import io
import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path

log = logging.getLogger(__name__)

METRICS = "metrics.csv"
STEP, EPOCH, CHECK = "step", "epoch", "check"
"""Columns beside the metrics: the last step of the round, its number from 0, the checksum."""


def read_rows(path: str | PathLike[str]) -> list[dict[str, str]]:
    """The intact rows of a file, without empty cells and checksums; a warning says how many are damaged.

    Rows without a checksum, of an earlier version, are read if they are numbers; those of one round are then
    read as one.

    Args:
        path: The file; without it there are no rows.
    """
    rows, num_damaged = read_intact_rows(path)
    if num_damaged:
        log.warning("%s is damaged: %d of its rows are left out", path, num_damaged)
    return rows


def read_intact_rows(path: str | PathLike[str]) -> tuple[list[dict[str, str]], int]:
    """The same, and the number of damaged rows, without a warning."""
    if not Path(path).is_file():
        return [], 0
    whole, _, cut = Path(path).read_bytes().rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    columns = _cells(lines[0]) if lines else None
    rows = [_row(columns or [], line) for line in lines[1:]]
    intact = [row for row in rows if row is not None]
    damaged_header = columns is None and bool(lines)
    return _one_per_round(intact), len(rows) - len(intact) + damaged_header + bool(cut)


def _cells(line: bytes) -> list[str] | None:
    try:
        (cells,) = csv.reader([line.decode().rstrip("\r")])
    except (UnicodeDecodeError, csv.Error, ValueError):
        return None
    return cells


def _row(columns: Sequence[str], line: bytes) -> dict[str, str] | None:
    """Column -> text of one line, or None if it is damaged."""
    cells = _cells(line)
    if cells is None or len(cells) != len(columns):
        return None
    row = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
    check = row.pop(CHECK, None)
    if check is not None:
        return row if check == checksum(row) else None
    try:
        numbers = [float(cell) for cell in row.values()]
        return row if numbers and (CHECK not in columns) and int(row.get(STEP, "0")) >= 0 else None
    except ValueError:
        return None


def checksum(row: Mapping[str, str]) -> str:
    """Of the names and texts of a row's cells that are not empty. A letter in front keeps it out of plots."""
    text = "\n".join(f"{name}={row[name]}" for name in sorted(row))
    return f"x{zlib.crc32(text.encode()):08x}"


def _one_per_round(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Rows of one epoch as one, with the mean of each metric and the last step."""
    grouped: list[list[Mapping[str, str]]] = []
    for row in rows:
        if grouped and EPOCH in row and grouped[-1][0].get(EPOCH) == row[EPOCH]:
            grouped[-1].append(row)
        else:
            grouped.append([row])
    return [_merged(group) for group in grouped]


def _merged(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        cells = [row[name] for row in rows if name in row]
        alone = len(cells) == 1 or name in (STEP, EPOCH)
        merged[name] = cells[-1] if alone else str(sum(map(float, cells)) / len(cells))
    return merged


def lines_of(columns: Sequence[str], rows: Iterable[Mapping[str, str]], *, header: bool) -> str:
    """Text of rows with their checksums, below the names of the columns if these are wanted."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns, CHECK], lineterminator="\n")
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow({**row, CHECK: checksum(row)})
    return text.getvalue()
