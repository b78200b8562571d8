"""What every program of this package does first, before it imports anything that takes time.

From the first instant a request to end has to end in the exit code by which schedulers requeue, and a reader
of the output that goes away (``| head -1``) must not end a run of many hours.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, TextIO

from diffopd.host.rank import is_first_process, process_label
from diffopd.host.signals import INTERRUPTED, REQUESTS_TO_END

NOBODY_READS = (errno.EPIPE, errno.EIO, errno.ECONNRESET)
"""Of a write: the pipe, terminal or connection at the other end is gone."""


def begin(*, label: str | None = None, speaks: bool | None = None) -> None:
    """Listen for requests to end, and write on as if somebody read when nobody does any more.

    Args:
        label: What each line of output begins with; None: the number of a process that is not the first.
        speaks: Whether to say that a request has ended this process; None: in the first process.
    """
    first = is_first_process()
    handler = functools.partial(end_at_once, speaks=first if speaks is None else speaks)
    for number in REQUESTS_TO_END:
        signal.signal(number, handler)
    if label is None:
        label = "" if first else f"[process {process_label()}] "
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None:  # which it is where a parent closed it
            setattr(sys, name, tolerant(stream, label))


_launchers: list[int] = []
"""In a process that a launcher started: the process of the command, once the first job has begun."""


def begin_launched(launcher: int) -> None:
    """The same for a job of a sweep that a launcher such as joblib runs in a process of its own.

    If it is a child of the command's process it is asked to end when that process ends, as nobody else would
    do so, and hears of Ctrl-C through it alone, once.

    Args:
        launcher: The process of the command.

    """
    if threading.current_thread() is not threading.main_thread() or os.getpid() == launcher:
        return  # a thread of the command's process
    if not _launchers:
        _launchers.append(launcher if os.getppid() == launcher else 0)  # 0: started by a scheduler, say
        begin()
        if _launchers[0] and sys.platform == "linux":
            import ctypes

            with contextlib.suppress(OSError):  # it leads a group already
                os.setsid()
            signal.signal(signal.SIGHUP, _end_with_launcher)
            death_signal = 1
            ctypes.CDLL(None).prctl(death_signal, signal.SIGHUP)
    end_without_launcher()


def end_without_launcher() -> None:
    """End this process if it is of a launcher whose command has ended: nobody takes its result."""
    if _launchers and _launchers[0] and os.getppid() != _launchers[0]:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(INTERRUPTED)


def _end_with_launcher(number: int, frame: FrameType | None) -> None:
    """Ask this process to end, once: Linux signals the end of each thread of its parent."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGTERM)


def end_at_once(number: int, frame: FrameType | None, *, speaks: bool) -> None:
    """Handle a signal by ending without a further step of Python, which may be in the midst of an import.

    An exception raised there would reach libraries that turn it into errors of their own.

    Args:
        number: The signal.
        frame: What it interrupted.
        speaks: Whether to say so; of several processes one does.
    """
    if speaks:
        with contextlib.suppress(OSError):
            os.write(2, f"{interruption(signal.Signals(number).name)}\n".encode())
    os._exit(INTERRUPTED)


def interruption(why: str) -> str:
    """What an interrupted command says."""
    return f"interrupted: {why}; start the same command again to resume"


def importing(frame: FrameType | None) -> bool:
    """Whether what a signal has interrupted is an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def tolerant(stream: TextIO, label: str = "") -> TextIO:
    """A stream to the same place that drops what nobody reads.

    Args:
        stream: Standard output or error.
        label: Is put in front of every line.
    """
    try:
        file = stream.fileno()
    except (OSError, ValueError):  # no file: somebody captures it in memory
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    raw = _WithoutReader(file, "wb", closefd=False)
    return _Labelled(
        io.BufferedWriter(raw),
        label=label,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=bool(getattr(stream, "line_buffering", False)),
        write_through=bool(getattr(stream, "write_through", False)),
    )


class _WithoutReader(io.FileIO):
    """A file whose writes succeed even if nobody is at the other end."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in NOBODY_READS:
                raise
            return memoryview(data).nbytes


class _Labelled(io.TextIOWrapper):
    """Text whose every line begins with a label."""

    def __init__(self, buffer: io.BufferedWriter, *, label: str, **settings: object) -> None:
        super().__init__(buffer, **settings)  # pyright: ignore[reportArgumentType]
        self._label = label
        self._at_start = True

    def write(self, text: str, /) -> int:
        if not self._label or not text:
            return super().write(text)
        first = self._label if self._at_start else ""
        self._at_start = text.endswith("\n")
        inner = text[:-1] if self._at_start else text
        end = "\n" if self._at_start else ""
        super().write(first + inner.replace("\n", f"\n{self._label}") + end)
        return len(text)
