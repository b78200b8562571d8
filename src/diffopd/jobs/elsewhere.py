"""Seeds of a table that were made elsewhere: from their numbers alone, without runs and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffopd.check import ConfigError
from diffopd.files.paths import expanded
from diffopd.report.comparison.compared import AnyRow, ComparedRow, TableRow
from diffopd.report.comparison.comparison import TABLE, read_csv
from diffopd.report.methods.find import find_runs
from diffopd.report.methods.methods import method_settings, shown_value
from diffopd.report.methods.page import DATA
from diffopd.report.methods.runs import Run

_NUM_NAMED = 5
"""Settings that a message names."""


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """A table that was made elsewhere.

    Attributes:
        setting: How messages call it.
        rows: Of its ``table.csv``.
        runs: One for each row and seed, called by the row.
    """

    setting: str
    rows: Sequence[TableRow]
    runs: Sequence[Run]


def read_elsewhere(places: Sequence[str]) -> list[Elsewhere]:
    """Read tables that were made elsewhere.

    Args:
        places: Folders of tables, with ``table.csv`` and ``data``.

    Raises:
        ConfigError: If a folder is not one of a table.
    """
    return [_read(expanded(place), f"also={place}") for place in places]


def _read(folder: Path, setting: str) -> Elsewhere:
    if not (folder / TABLE).is_file() or not (folder / DATA).is_dir():
        raise ConfigError(
            f"{setting} needs {TABLE} and {DATA}/, as the folder of a table has; it is {folder.absolute()}"
        )
    try:
        rows, runs = read_csv(folder / TABLE), find_runs([str(folder / DATA)])
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{setting} is not what a table writes: {error!r}") from error
    return Elsewhere(setting=setting, rows=rows, runs=runs)


def with_elsewhere(
    rows: Sequence[ComparedRow], runs: Sequence[Run], tables: Sequence[Elsewhere]
) -> tuple[list[AnyRow], list[Run]]:
    """Rows and runs of this table, and beside each row the seeds that other tables have of it.

    A seed that is here, too, is taken from here; rows that this table does not have are left out.

    Args:
        rows: Made here.
        runs: One for each row and seed, called by the row.
        tables: Made elsewhere.

    Raises:
        ConfigError: If rows of one name were trained or scored otherwise.
    """
    mine = {run.name: run for run in runs}
    every_row: list[AnyRow] = list(rows)
    every_run = list(runs)
    for table in tables:
        _check_columns(table, rows[0])
        here = {(run.name, run.seed) for run in every_run}
        added = {
            (run.name, run.seed): run
            for run in table.runs
            if run.name in mine and (run.name, run.seed) not in here
        }
        for run in added.values():
            _check_alike(run, mine[run.name], table.setting)
        every_run += added.values()
        every_row += [row for row in table.rows if (row.name, row.seed) in added]
    order = {name: place for place, name in enumerate(mine)}
    every_row.sort(key=lambda row: (order[row.name], row.seed))  # guidance scales stay in their order
    every_run.sort(key=lambda run: (order[run.name], run.seed))
    return every_row, every_run


def _check_columns(table: Elsewhere, like: ComparedRow) -> None:
    theirs, ours = (
        {(benchmark, task) for benchmark, scores in row.scores.items() for task in scores}
        for row in (table.rows[0], like)
    )
    if theirs != ours:
        shown = ", ".join("/".join(place) for place in sorted(theirs ^ ours))
        raise ConfigError(
            f"{table.setting} and this table do not both have the scores {shown}; take the same benchmarks"
        )


def _check_alike(theirs: Run, mine: Run, setting: str) -> None:
    """Refuse seeds of another method, or with other scores, under a row's name."""
    settings = [method_settings(run) for run in (theirs, mine)]
    paths = dict.fromkeys(path for each in settings for path in each)
    values = {path: [shown_value(each.get(path, "-")) for each in settings] for path in paths}
    other = [
        f"{path} is {there} there, {here} here" for path, (there, here) in values.items() if there != here
    ]
    if other and settings[0] and settings[1]:
        more = f", and {len(other) - _NUM_NAMED} more" if len(other) > _NUM_NAMED else ""
        raise ConfigError(
            f"{setting}: its row {theirs.name} was trained otherwise: {'; '.join(other[:_NUM_NAMED])}{more}. "
            "Only seeds of one method are one row"
        )
    results = {(result.benchmark, result.guidance_scale): result for _, result in mine.results}
    for _, result in theirs.results:
        same = results.get((result.benchmark, result.guidance_scale))
        if same is not None and (lines := result.differences(same)):
            raise ConfigError(f"{setting}: its row {theirs.name} was scored otherwise: {'; '.join(lines)}")
