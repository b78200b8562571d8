"""How many images are made: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ImageProgress:
    """Counts images against a total; use as a context manager.

    Args:
        label: What is being done.
        total: Number of images.
        console: Where to write; standard output when None.
        done: Number that was there before.
        seconds_per_line: Least time between two plain lines.
        clock: Seconds, rising.
    """

    def __init__(
        self,
        label: str,
        total: int,
        *,
        console: Console | None = None,
        done: int = 0,
        seconds_per_line: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label, self._total = label, total
        self._console = console or Console()
        self._seconds_per_line, self._clock = seconds_per_line, clock
        self._before, self._done = done, done
        self._start, self._line_time = 0.0, -float("inf")
        self._bar: Progress | None = None

    def __enter__(self) -> ImageProgress:
        self._start = self._clock()
        self._line_time = self._start
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            columns = (TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn())
            rate = TextColumn("{task.fields[rate]}")
            self._bar = Progress(*columns, rate, TimeRemainingColumn(), console=self._console)
            self._bar.add_task(self._label, total=self._total, completed=self._done, rate="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, number: int) -> None:
        """Count ``number`` more images."""
        self.reach(self._done + number)

    def reach(self, done: int) -> None:
        """Say that ``done`` images are there in all."""
        if done == self._done:
            return
        self._done = done
        now = self._clock()
        rate = max((self._done - self._before) / max(now - self._start, 1e-9), 1e-9)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, rate=f"{rate:.1f} images/s")
        elif self._done >= self._total or now - self._line_time >= self._seconds_per_line:
            self._line_time = now
            left = round((self._total - self._done) / rate)
            end = f"{left} s left" if left else f"{now - self._start:.0f} s"
            line = f"{self._label} | {self._done}/{self._total} images | {rate:.1f} images/s, {end}"
            print(line, file=self._console.file, flush=True)
