"""A training in a process forked from this one, which is killed if asked to."""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from kill_point import KillPoint, Operations

import diffopd.build.experiment  # these all, once, so that no training has to
import diffopd.cascade
import diffopd.doctor
import diffopd.evaluation
import diffopd.jobs.launch
import diffopd.jobs.stages
import diffopd.report.run.cascade
import diffopd.train

SECONDS = 3600
"""After so long a training counts as hanging."""


@dataclass(frozen=True)
class Ended:
    """How a training ended.

    Attributes:
        code: Exit code; negative for a signal.
        seconds: From when it began to train to its end; from its start if it never began.
        operations: File operations on checkpoints; 0 for one that was killed.
    """

    code: int
    seconds: float
    operations: int


def run(program: str, arguments: Sequence[str], log: Path, kill: KillPoint | None, usual: float) -> Ended:
    """Fork a training, and kill it if asked to.

    Args:
        program: ``train`` or ``cascade``.
        arguments: Its command line.
        log: Gets what it prints.
        kill: When to kill it.
        usual: Seconds it takes from when it begins to train.
    """
    begun, tell = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(begun)
        _train(program, arguments, log, kill, tell)
    os.close(tell)
    start = time.monotonic()
    try:
        select.select([begun], [], [], SECONDS)  # the first byte, or the end of a process that never began
        os.read(begun, 1)
        start = time.monotonic()
        until = start + (kill.share * usual if kill and kill.operation is None else SECONDS)
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            if time.monotonic() >= until:
                os.kill(process, signal.SIGKILL)
                until = math.inf
            time.sleep(0.002)
        seconds, told = time.monotonic() - start, os.read(begun, 64)
    finally:
        os.close(begun)
    return Ended(os.waitstatus_to_exitcode(status), seconds, int(told) if told.strip() else 0)


def _train(program: str, arguments: Sequence[str], log: Path, kill: KillPoint | None, tell: int) -> NoReturn:
    """What the forked process does."""
    code: Any = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        operations = Operations(kill)
        operations.install()
        experiment: Any = diffopd.build.experiment.Experiment
        fit = experiment.fit

        def told_fit(self: Any) -> None:
            os.write(tell, b"b")
            fit(self)

        experiment.fit = told_fit
        if program == "cascade":
            os.write(tell, b"b")
        sys.argv = [f"diffopd.{program}", *arguments]
        getattr(diffopd, program).main()
        code = 0
        os.write(tell, str(operations.count).encode())
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
