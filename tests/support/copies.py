"""Commands in copies of this process, which has imported all that they need: seconds less for each.

A command in a copy has a process, a folder, arguments, an output and an end of its own, and so have the
commands that it starts. What starting a Python is like, its imports and what it inherits, is for
`support.programs`.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch.multiprocessing
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from diffopd.jobs import launch
from support.programs import SECONDS, inherited

HEAVY = ("diffopd.build.experiment", "diffopd.evaluate.run", "diffopd.report.methods.page")
"""What commands import when they are at work; here once, before the first copy."""
QUIET = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Python shows none of these by default; pytest makes errors of them."""


class Copy:
    """A copy of this process at work on something else, as ``subprocess.Popen`` has it.

    Args:
        work: What it does; its exit code is as Python's would be.
        stdout: The open file that gets its output, by its number.
        stderr: The same for its complaints.
    """

    def __init__(self, work: Callable[[], object], stdout: int, stderr: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(work, stdout, stderr)

    def poll(self) -> int | None:
        """Its exit code, once there is one."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The same, when it has ended."""
        process = os.pidfd_open(self.pid)
        try:
            if not select.select([process], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a copy of this process", timeout)
        finally:
            os.close(process)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def run(folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m diffopd.<program>`` in ``folder``, to its end; only paths and imports are inherited."""
    for module in HEAVY:
        importlib.import_module(module)
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as complaints:
        process = Copy(
            lambda: _run(f"diffopd.{program}", arguments, folder), printed.fileno(), complaints.fileno()
        )
        try:
            code = process.wait(SECONDS)
        finally:
            process.kill()
        for file in (printed, complaints):
            file.seek(0)
        return subprocess.CompletedProcess([program, *arguments], code, printed.read(), complaints.read())


def start_job(running: Any, command: Sequence[str]) -> Copy:
    """In place of ``_Running._start``: a job's command in a copy, which ends when this process does."""
    module, *arguments = command
    ask, given = launch._end_with(os.getpid()), launch.own_config_folder()

    def work() -> None:
        os.setsid()
        if ask is not None:
            ask()
        _as_python(module, [*given, *arguments])

    log = running.job.log
    if log is None:
        return Copy(work, 1, 2)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return Copy(work, file.fileno(), file.fileno())


def _become(work: Callable[[], object], stdout: int, stderr: int) -> NoReturn:
    """Leave nothing of the tests but what is imported, do the work, end as Python does."""
    end, code = os._exit, 1
    try:
        for number, file in ((1, stdout), (2, stderr)):
            os.dup2(file, number)
        sys.stdout, sys.stderr = (
            open(number, "w", encoding="utf-8", closefd=False, buffering=1) for number in (1, 2)
        )
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        code = 0
    except SystemExit as wish:
        code = _code_of(wish)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        end(code)


def _code_of(wish: SystemExit) -> int:
    """The exit code of a program that ends by ``sys.exit``."""
    if wish.code is None or isinstance(wish.code, int):
        return wish.code or 0
    print(wish.code, file=sys.stderr)
    return 1


def _run(module: str, arguments: Sequence[str], folder: Path) -> None:
    os.chdir(folder)
    environment = inherited()
    os.environ.clear()
    os.environ.update(environment)
    _as_python(module, arguments)


def _as_python(module: str, arguments: Sequence[str]) -> None:
    """As ``python -m`` in the folder that this process is in; what it starts are copies of it, too."""
    root = logging.getLogger()
    root.handlers.clear()
    root.setLevel(logging.WARNING)
    warnings.resetwarnings()
    for category in QUIET:
        warnings.simplefilter("ignore", category)
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    # What runpy compiles under the suite's shape checks, the next Python would take for the module's own.
    sys.dont_write_bytecode = True
    launch._Running._start = start_job  # type: ignore[method-assign]
    torch.multiprocessing.spawn = functools.partial(
        torch.multiprocessing.start_processes, start_method="fork"
    )
    sys.path.insert(0, os.getcwd())
    sys.argv = [module, *arguments]
    name = f"{module}.__main__" if hasattr(sys.modules.get(module), "__path__") else module
    sys.modules.pop(name, None)  # runpy warns of what was imported already
    runpy.run_module(module, run_name="__main__", alter_sys=True)
