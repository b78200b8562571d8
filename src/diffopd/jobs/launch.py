"""Commands of this package as processes of their own, as a user would start them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig

from diffopd.command.program import interrupted
from diffopd.config.arguments import quoted
from diffopd.host.signals import INTERRUPTED, REQUESTS_TO_END

SECONDS_BETWEEN_LOOKS = 0.2
LINES_SHOWN = 12
"""Lines of a failed job's log in the error."""


class TrainingFailedError(RuntimeError):
    """A command ended with an error, which is on the standard error, or in the log, already.

    Args:
        message: What failed, and where to read about it.
        code: The exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Job:
    """Commands to run one after the other.

    Attributes:
        name: Its name.
        needs: Names of the jobs that have to be done before.
        commands: Makes the commands, once those are done: arguments of ``python -m``. A generator may look at
            what its command before has written.
        log: Gets all output; None leaves it on the terminal.
    """

    name: str
    needs: Sequence[str]
    commands: Callable[[], Iterator[Sequence[str]]]
    log: Path | None


def train_in(folder: Path, overrides: Sequence[str]) -> bool:
    """Run ``python -m diffopd.train`` in a folder of its own, unless the run there is finished already.

    A process of its own has no state of the training before it, and starts its own data-parallel helpers. A
    request to end (SIGTERM, Ctrl-C) ends it after the round in progress, with a checkpoint.

    Args:
        folder: The run's folder.
        overrides: As on the command line.

    Returns:
        Whether the training is finished; False if it was asked to end before.

    Raises:
        TrainingFailedError: If it failed.
    """
    from diffopd.run.finished import read_finished

    command = training_command(folder, overrides)
    job = Job(name=str(folder), needs=(), commands=lambda: iter([command]), log=None)
    return run_jobs([job], num_processes=1) and read_finished(folder) is not None


def training_command(folder: Path, overrides: Sequence[str]) -> list[str]:
    """Arguments of ``python -m`` for a training in a folder of its own."""
    return ["diffopd.train", *overrides, f"hydra.run.dir={quoted(str(folder))}", "if_finished=skip"]


def run_jobs(
    jobs: Sequence[Job],
    *,
    num_processes: int,
    watch: Callable[[Sequence[Job]], None] = lambda running: None,
) -> bool:
    """Run jobs side by side, each as soon as those it needs are done.

    SIGTERM, SIGUSR1 and Ctrl-C are passed on to what runs, and nothing more is started. A command that ends
    as one that was asked to end, as a scheduler may have asked it directly, counts as a request to all.

    Args:
        jobs: In the order to start them.
        num_processes: How many run at once.
        watch: Called again and again with what runs.

    Returns:
        Whether all are done; False if it was asked to end before.

    Raises:
        TrainingFailedError: If a command failed; what runs beside it is asked to end, and waited for.
        ValueError: If a job needs one that is not there, or that needs it.
    """
    waiting, done = list(jobs), set[str]()
    running: dict[str, _Running] = {}
    failed: TrainingFailedError | None = None
    with _requests_to_end() as asked, _ended(running):
        while True:
            for name, process in list(running.items()):
                state = process.step(stop=bool(asked) or failed is not None)
                if state is None:
                    continue
                del running[name]
                if state == 0:
                    done.add(name)
                elif state == INTERRUPTED or -state in REQUESTS_TO_END:  # before it listens: by the signal
                    asked.append(signal.SIGTERM)
                elif not asked and failed is None:
                    failed = TrainingFailedError(
                        f"{name} failed with exit code {state}; {process.said}", state
                    )
                    for other in running.values():
                        other.ask_to_end()
            if asked:
                for process in running.values():
                    process.ask_to_end()
            ready = [job for job in waiting if set(job.needs) <= done]
            if not asked and failed is None:
                for job in ready[: num_processes - len(running)]:
                    waiting.remove(job)
                    running[job.name] = _Running(job)
                if waiting and not running:
                    missing = {job.name: sorted(set(job.needs) - done) for job in waiting}
                    raise ValueError(f"these jobs depend on jobs that do not exist: {missing}")
            if not running:
                break
            watch([process.job for process in running.values()])
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if failed is not None:
        raise failed
    return not asked and not waiting


class _Running:
    """A job under way: one process at a time."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._commands = job.commands()
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False

    def step(self, *, stop: bool) -> int | None:
        """Start the next command if it is time to.

        Returns:
            None while there is something to wait for; then 0, or the exit code of what failed. That of a job
            that was stopped before its last command is the one of an interruption.
        """
        if self._process is not None:
            code = self._process.poll()
            if code is None or code != 0:
                return code
            self._process = None
        command = next(self._commands, None)
        if command is None:
            return 0
        if stop:
            return INTERRUPTED
        self._process = self._start(command)
        return None

    def ask_to_end(self) -> None:
        """Pass a request to end on, once."""
        if self._process is not None and not self._asked:
            self._asked = True
            self._process.send_signal(signal.SIGTERM)

    @property
    def said(self) -> str:
        """Where its message is, and its last lines."""
        log = self.job.log
        if log is None or not log.is_file():
            return "its message is above"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_SHOWN:]
        return "\n".join([f"the end of {log}:", *lines])

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        module, *arguments = command
        line = [sys.executable, "-m", module, *own_config_folder(), *arguments]
        # In a session of its own it hears of Ctrl-C from us alone, once.
        end_with_us = _end_with(os.getpid())
        if self.job.log is None:
            return subprocess.Popen(line, start_new_session=True, preexec_fn=end_with_us)
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        with self.job.log.open("ab") as log:
            return subprocess.Popen(
                line, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=end_with_us
            )


def _end_with(parent: int) -> Callable[[], None] | None:
    """Has a new process killed when its parent ends, as after ``kill -9``; None where Linux alone can.

    Left behind it would write to a folder in which the same command, started again, trains too.
    """
    if sys.platform != "linux":
        return None
    prctl, death_signal = ctypes.CDLL(None).prctl, 1

    def ask() -> None:
        prctl(death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that
            os.kill(os.getpid(), signal.SIGKILL)

    return ask


def own_config_folder() -> list[str]:
    """``--config-dir`` as this command was given it, so that those it starts find the same files."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    given = [source.path for source in sources if source.provider == "command-line"]
    return ["--config-dir", *given] if given else []


@contextlib.contextmanager
def _ended(running: Mapping[str, _Running]) -> Iterator[None]:
    """Whatever goes wrong inside, no process is left behind."""
    try:
        yield
    finally:
        for process in running.values():
            process.kill()


@contextlib.contextmanager
def _requests_to_end() -> Iterator[list[int]]:
    """The signals that came meanwhile; a second Ctrl-C ends at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            interrupted("SIGINT again")
        asked.append(number)

    before = {number: signal.signal(number, note) for number in REQUESTS_TO_END}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
