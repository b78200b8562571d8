"""How far a training is: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text
from torch import Tensor
from typing_extensions import override


class RoundProgress(Callback):
    """Shows rounds done, seconds per round, time left and the main metrics, in the first process only.

    In a terminal it draws a bar, renewed each round. Elsewhere (a pipe, a log file) it prints a line for
    the first and the last round and every ``seconds_per_line`` in between. It keeps the times of the
    latest rounds, over which the rate is taken, so a resumed run starts with a fresh rate. A metric that a
    round did not log, as rewards that are scored every 20 rounds, is shown with the round it is of.
    """

    left_out_of_trials: ClassVar[bool] = True  # by doctor: it prints

    def __init__(
        self,
        *,
        metrics: Sequence[str],
        seconds_per_line: float,
        num_rounds_in_rate: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Configure what to show and how often.

        Args:
            metrics: Patterns such as ``train/loss/*``; metrics that match are shown, in their order.
            seconds_per_line: Least time between two plain lines.
            num_rounds_in_rate: Latest rounds over which seconds per round are averaged, at least 1.
            console: Where to write; standard output when None.
            clock: Seconds, rising.

        Raises:
            ValueError: If ``num_rounds_in_rate`` is below 1.
        """
        if num_rounds_in_rate < 1:
            raise ValueError(
                f"callbacks.round_progress.num_rounds_in_rate must be at least 1, got {num_rounds_in_rate}"
            )
        self.metrics = tuple(metrics)
        self.seconds_per_line = seconds_per_line
        self._console = console or Console()
        self._clock = clock
        self._times: deque[float] = deque(maxlen=num_rounds_in_rate + 1)
        self._line_time = -float("inf")
        self._start = 0.0
        self._first_round = 0
        self._bar: _Bar | None = None
        self._known: dict[str, tuple[Tensor, int]] = {}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting from the round the training starts or resumes at."""
        self._first_round = trainer.current_epoch
        self._start = self._clock()
        self._times.clear()
        self._known.clear()
        self._times.append(self._start)
        self._line_time = -float("inf")
        if trainer.is_global_zero and self._on_terminal():
            self._bar = _Bar(self._console, trainer.current_epoch, _num_rounds(trainer))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the round just done."""
        now = self._clock()
        self._times.append(now)
        values = trainer.callback_metrics  # reading them averages over processes, so all have to
        self._notice(values, trainer.current_epoch + 1)
        if not trainer.is_global_zero:
            return
        done, total = trainer.current_epoch + 1, _num_rounds(trainer)
        pace = self._pace(done, total)
        if self._bar is not None:
            self._bar.update(done, pace, self._main_metrics(done))
        elif done == total or now - self._line_time >= self.seconds_per_line:
            self._line_time = now
            of_total = f"/{total}" if total is not None else ""
            parts = [f"round {done}{of_total}", pace, self._main_metrics(done)]
            self._print(" | ".join(part for part in parts if part))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar and say how long it took."""
        self._close()
        if trainer.is_global_zero:
            seconds, rounds = self._clock() - self._start, trainer.current_epoch - self._first_round
            if rounds:
                self._print(f"{rounds} {'round' if rounds == 1 else 'rounds'} in {duration(seconds)}")
            else:
                self._print(f"nothing left to train: {trainer.current_epoch} rounds were done before")

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error is readable."""
        self._close()

    def _notice(self, values: Mapping[str, Tensor], round_number: int) -> None:
        """Keep each metric with the round it is of.

        Lightning keeps showing the last value of a metric that a round did not log, such as a reward that is
        scored every 20 rounds. A logged metric has a new place in memory, as the old is held here.
        """
        for name, value in values.items():
            if name not in self._known or self._known[name][0].data_ptr() != value.data_ptr():
                self._known[name] = (value, round_number)

    def _pace(self, done: int, total: int | None) -> str:
        seconds = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        left = f", {duration(seconds * (total - done))} left" if total is not None else ""
        return f"{seconds:.2f} s/round{left}"

    def _main_metrics(self, done: int) -> str:
        """Values of this round, then those of earlier rounds behind the round they are of."""
        names = [
            name for pattern in self.metrics for name in sorted(self._known) if fnmatchcase(name, pattern)
        ]
        by_round: dict[int, list[str]] = {done: []}
        for name in dict.fromkeys(names):
            value, number = self._known[name]
            by_round.setdefault(number, []).append(f"{name.removeprefix('train/')} {float(value):.4g}")
        return " | ".join(
            ("" if number == done else f"in round {number}: ") + "  ".join(shown)
            for number, shown in sorted(by_round.items(), reverse=True)
            if shown
        )

    def _on_terminal(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def _print(self, line: str) -> None:
        print(line, file=self._console.file, flush=True)  # as it is: rich would wrap and color it

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Bar:
    """A bar with the metrics on a line of their own, which a narrow terminal wraps instead of cutting."""

    def __init__(self, console: Console, done: int, total: int | None) -> None:
        self._progress = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
        )
        self._task = self._progress.add_task("", completed=done, total=total, pace="")
        self._metrics = Text(style="dim")
        self._live = Live(Group(self._progress, self._metrics), console=console, refresh_per_second=4)
        self._live.start()

    def update(self, done: int, pace: str, metrics: str) -> None:
        self._metrics.plain = metrics
        self._progress.update(self._task, completed=done, pace=pace)
        self._live.refresh()

    def close(self) -> None:
        self._live.stop()


def duration(seconds: float) -> str:
    """``h:mm:ss``, or ``m:ss`` below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _num_rounds(trainer: Trainer) -> int | None:
    limit = trainer.max_epochs
    return None if limit is None or limit < 0 else limit
