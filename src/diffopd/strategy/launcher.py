"""Starts the other processes of a training on this machine, once, each on the config this one composed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.strategies.launchers.launcher import _Launcher
from typing_extensions import override

from diffopd.strategy.lifeline import GRACE, end_process

WORKER = "diffopd.worker"
"""The program of the other processes; it reads its config from its standard input."""
SECONDS_BETWEEN_LOOKS = 0.2


class ProcessLauncher(_Launcher):
    """Starts ``python -m diffopd.worker`` for every further device of this machine.

    Lightning's own launcher repeats the command line instead, which in a sweep starts the whole sweep again
    in every process, and has each process compose, log and choose folders again. Here they get the config
    that was composed once. Under torchrun and SLURM there is nothing to start.

    It keeps the processes, and a thread that ends this one when one of them fails.

    Args:
        num_processes: Processes on this machine, this one included.
        environment: What they find in their environment beside ``LOCAL_RANK``, such as where to meet.
    """

    def __init__(self, *, num_processes: int, environment: Callable[[], Mapping[str, str]]) -> None:
        super().__init__()
        self.num_processes = num_processes
        self._environment = environment
        self._processes: list[subprocess.Popen[bytes]] = []
        self._closed = threading.Event()

    @property
    @override
    def is_interactive_compatible(self) -> bool:
        return False

    def start(self, config: str) -> None:
        """Start the others.

        Args:
            config: A training's config, resolved, as YAML.
        """
        given = config.encode()
        for local_rank in range(1, self.num_processes):
            process = subprocess.Popen(
                [sys.executable, "-m", WORKER],
                env={**os.environ, **self._environment(), "LOCAL_RANK": str(local_rank)},
                stdin=subprocess.PIPE,
            )
            self._processes.append(process)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended already, which the thread reports
                process.stdin.write(f"{len(given)}\n".encode() + given)
                process.stdin.flush()
        if self._processes:
            threading.Thread(target=self._watch, name="launcher", daemon=True).start()

    @override
    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Call the function; the others do the same."""
        return function(*args, **kwargs)

    @override
    def kill(self, signum: Any) -> None:
        """Send a signal to the others."""
        for process in self._processes:
            process.send_signal(signum)

    def close(self) -> None:
        """Wait for the others, which are done; then end those that are not.

        Keeps their standard input open so long, as its end would end them.
        """
        self._closed.set()
        until = time.monotonic() + 2 * GRACE
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        self._end_all()
        self._processes = []

    def _watch(self) -> None:
        while not self._closed.is_set():
            for local_rank, process in enumerate(self._processes, start=1):
                if process.poll():  # neither running nor done
                    self._fail(local_rank, process.returncode)
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _fail(self, local_rank: int, code: int) -> None:
        if self._closed.is_set():
            return
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        print(f"process {local_rank} of this run ended with {how}", file=sys.stderr, flush=True)
        end_process("the remaining processes also exit")

    def _end_all(self) -> None:
        for process in self._processes:
            process.kill()


def read_config() -> str:
    """In a process that was started here: its config; from then on it ends when the first process does."""
    given = sys.stdin.fileno()  # unbuffered: a thread waiting in a buffer would be in the way of the end
    length = b""
    while not length.endswith(b"\n"):
        length += _read(given, 1)
    config = b""
    while len(config) < int(length):
        config += _read(given, int(length) - len(config))

    def watch() -> None:
        os.read(given, 1)
        end_process("the process that started this one has exited; this one also exits")

    threading.Thread(target=watch, name="launcher", daemon=True).start()
    return config.decode()


def _read(file: int, most: int) -> bytes:
    if found := os.read(file, most):
        return found
    raise EOFError("diffopd.worker gets its config from the process that starts it, and there is none")
