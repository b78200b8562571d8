"""Run the jobs of a command to their end, saying now and then what they are doing."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from diffopd.command.program import interrupted
from diffopd.host.signals import Ended
from diffopd.jobs.launch import Job, TrainingFailedError, run_jobs


def finish(jobs: Sequence[Job], *, num_processes: int, seconds_per_line: float) -> None:
    """Run all jobs, with lines of progress.

    Args:
        jobs: In the order to start them.
        num_processes: How many run at once.
        seconds_per_line: Least time between two lines.

    Raises:
        SystemExit: If one failed, with its exit code, or if the command was asked to end before.
    """
    try:
        done = run_jobs(jobs, num_processes=num_processes, watch=ProgressLines(jobs, seconds_per_line))
    except TrainingFailedError as error:
        print(error, file=sys.stderr)
        raise Ended(error.code) from error
    if not done:
        interrupted("stopped by a signal")


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
