"""What jobs running side by side are doing, a line each now and then."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from diffopd.launch import Job


class ProgressLines:
    """Prints now and then what each running job printed last.

    Args:
        jobs: All jobs, to count them.
        seconds_per_line: Least time between two lines.
    """

    def __init__(self, jobs: Sequence[Job], seconds_per_line: float) -> None:
        self._num_jobs, self._seconds = len(jobs), seconds_per_line
        self._seen: set[str] = set()
        self._printed = -float("inf")

    def __call__(self, running: Sequence[Job]) -> None:
        """Print, if it is time to, or if another job has begun."""
        names = {job.name for job in running}
        now = time.monotonic()
        if names <= self._seen and now - self._printed < self._seconds:
            return
        self._seen |= names
        self._printed = now
        for job in running:
            print(f"[{len(self._seen)}/{self._num_jobs}] {job.name}: {_last_line(job.log)}", flush=True)


def _last_line(log: Path | None) -> str:
    if log is None or not log.is_file():
        return "begins"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "begins")[:120]
