"""Metrics as one CSV file per run, which a resumed run continues (Lightning's own logger deletes it)."""

from __future__ import annotations

import csv
import io
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from typing_extensions import override

from diffopd.files import replacing


class ResumableCSVLogger(Logger):
    """Writes ``metrics.csv``: a ``step`` column and one column per metric, a line per report.

    Every line is on the disk when the call returns. The first report of a run removes the lines of an
    earlier, interrupted run from that step on, so each step appears as it was in the run that counts; a last
    line that was cut is removed, too. It keeps the names of the columns.
    """

    def __init__(self, *, folder: str) -> None:
        """Write to ``folder``, made when first needed."""
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = []

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
        """Append a line.

        Raises:
            ValueError: Without a step.
        """
        if step is None:
            raise ValueError("metrics.csv needs a step for each line; log through Lightning, or pass step=")
        row = {"step": step} | {name: float(value) for name, value in metrics.items()}
        if not self._columns:
            earlier = [r for r in self._read() if int(r["step"]) < step]
            self._rewrite(["step"], earlier)
        if not row.keys() <= set(self._columns):
            self._rewrite(row.keys(), self._read())
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)
            file.flush()
            os.fsync(file.fileno())

    @rank_zero_only
    def go_on_after(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the lines up to a step, the last of which is to report ``metrics``; add it if it is missing.

        Args:
            step: The last step before the checkpoint that a run goes on from.
            metrics: The last report of that step, which may have come too late to be written.
        """
        rows = [row for row in self._read() if int(row["step"]) <= step]
        reported = [
            {name for name, value in row.items() if value} for row in rows if int(row["step"]) == step
        ]
        if {"step", *metrics} not in reported:
            rows.append({name: str(value) for name, value in {"step": step, **metrics}.items()})
        self._rewrite(["step"], rows)

    def _read(self) -> list[dict[str, str]]:
        """The lines that were written whole."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_bytes().rpartition(b"\n")
        return list(csv.DictReader(io.StringIO(whole.decode(), newline="")))

    def _rewrite(self, columns: Any, rows: Sequence[Mapping[str, str]]) -> None:
        """Replace the file by one that has room for ``columns``, first come first."""
        self._columns = list(
            dict.fromkeys([*self._columns, *(name for row in rows for name in row), *columns])
        )
        with replacing(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
