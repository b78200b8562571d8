"""Metrics as one CSV file per run, which a resumed run continues (Lightning's own logger deletes it)."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from typing_extensions import override

from diffopd.files.atomic import atomic_write_text
from diffopd.run.metrics_csv import EPOCH, METRICS, STEP, lines_of, read_intact_rows

log = logging.getLogger(__name__)

DAMAGED = "metrics.damaged.csv"


class ResumableCSVLogger(Logger):
    """Writes ``metrics.csv``: a row per round, with its last step, a column per metric and a checksum.

    What Lightning reports of a round comes in parts, each of which is on the disk when the call returns: the
    values of its batches, of which the row has the mean, and the means over the round at its end. Reports
    without an epoch have a row per step.

    The first report of a run removes the rows of an earlier, interrupted run from that step on, so each round
    appears as it was in the run that counts; a last line that was cut is removed, too. Rows that are damaged
    are left out with a warning, and the file with them is kept as ``metrics.damaged.csv``.

    It keeps the names of the columns, and of the round under way each metric's sum and number of reports.
    """

    def __init__(self, *, folder: str) -> None:
        """Write to ``folder``, made when first needed."""
        super().__init__()
        self.path = Path(folder) / METRICS
        self._columns: list[str] = []
        self._place = 0  # where the last row begins, in bytes
        self._step = 0
        self._sums: dict[str, tuple[float, int]] = {}

    @property
    @override
    def name(self) -> str:
        """``"csv"``."""
        return "csv"

    @property
    @override
    def version(self) -> str:
        """Empty: a run has one file."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The file."""
        return self.path

    @override
    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the resolved config is saved with each run."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float | Tensor], step: int | None = None) -> None:
        """Write a row, or more of the last one.

        Raises:
            ValueError: Without a step.
        """
        if step is None:
            raise ValueError("metrics.csv needs a step for each row; log through Lightning, or pass step=")
        report = {name: float(value) for name, value in metrics.items()}
        if not self._columns:
            self._rewrite([row for row in self._read() if int(row[STEP]) < step])
        same = self._is_same_round(report, step)
        self._sums = _added(self._sums if same else {}, report)
        self._step = step
        row = _text({STEP: step, **_means(self._sums)})
        if row.keys() <= set(self._columns):
            self._write_last(row, over=same)
        else:
            earlier = self._read()
            self._rewrite([*(earlier[:-1] if same else earlier), row])

    def row_with(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What the row of the round under way will hold, the step aside, once ``metrics`` are reported.

        Args:
            metrics: A report with an epoch.
        """
        same = self._is_same_round(metrics, self._step)
        return _means(_added(self._sums if same else {}, metrics))

    @rank_zero_only
    def go_on_after(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the rows up to a step, the last of which is to hold ``metrics``.

        Args:
            step: The last step before the checkpoint that a run is resumed from.
            metrics: The row of that step, or the last part of it, which may have come too late to be written.
        """
        rows = [row for row in self._read() if int(row[STEP]) <= step]
        last = _text({STEP: step, **metrics})
        if rows and (rows[-1].get(EPOCH) == last[EPOCH] if EPOCH in last else rows[-1][STEP] == last[STEP]):
            last = rows.pop() | last
        missing = round(float(last.get(EPOCH, len(rows)))) - len(rows)
        if missing > 0:
            log.warning("%s lacks the rows of %d of the rounds before", self.path, missing)
        self._rewrite([*rows, last])

    def _is_same_round(self, report: Mapping[str, float], step: int) -> bool:
        """Whether a report is of the round whose row is the last."""
        if not self._sums:
            return False
        if EPOCH in report or EPOCH in self._sums:
            return EPOCH in self._sums and report.get(EPOCH) == self._sums[EPOCH][0] / self._sums[EPOCH][1]
        return step == self._step

    def _read(self) -> list[dict[str, str]]:
        """The rows that are intact; a file that holds others is kept."""
        rows, num_damaged = read_intact_rows(self.path)
        if num_damaged:
            kept, number = self.path.with_name(DAMAGED), 1
            while kept.exists():
                number += 1
                kept = self.path.with_name(DAMAGED.replace(".csv", f"_{number}.csv"))
            log.warning(
                "%s is damaged: %d of its rows are left out; the file is kept as %s",
                self.path,
                num_damaged,
                kept.name,
            )
            os.replace(self.path, kept)
        return [row for row in rows if STEP in row]

    def _rewrite(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Replace the file by one that has room for all columns, first come first."""
        self._columns = list(dict.fromkeys([*self._columns, STEP, *(name for row in rows for name in row)]))
        head = lines_of(self._columns, rows[:-1], header=True)
        last = lines_of(self._columns, rows[-1:], header=False)
        self._place = len(head.encode())
        atomic_write_text(self.path, head + last)

    def _write_last(self, row: Mapping[str, str], *, over: bool) -> None:
        """Put a row at the end, over the last one if that is of the same round."""
        with self.path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            self._place = self._place if over else end
            file.seek(self._place)
            file.write(lines_of(self._columns, [row], header=False).encode())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())


def _added(
    sums: Mapping[str, tuple[float, int]], report: Mapping[str, float]
) -> dict[str, tuple[float, int]]:
    """Sums and numbers with those of one more report."""
    added = dict(sums)
    for name, value in report.items():
        total, number = added.get(name, (0.0, 0))
        added[name] = (total + value, number + 1)
    return added


def _means(sums: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    return {name: total / number for name, (total, number) in sums.items()}


def _text(row: Mapping[str, float]) -> dict[str, str]:
    return {name: str(value) for name, value in row.items()}
