"""A command in a process of its own, and what it and its children took: time, memory, disk, silence."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL = 0.1
"""Seconds between two looks."""


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        code: Exit code; negative for a signal.
        seconds: From its start to its end.
        silent: Longest time in seconds without a line of output.
        rss: Most bytes in memory at once, mapped files included, summed over its processes; pages that
            processes share count for each.
        anonymous: Most bytes that are no part of a file; None where the system does not say.
        written: Bytes that it caused to be written to disk, also of files it removed again.
        over_limit: Whether it was ended because it took too long.
    """

    code: int
    seconds: float
    silent: float
    rss: int
    anonymous: int | None
    written: int
    over_limit: bool = False


def measured(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str],
    limit: float,
    kill_when: Callable[[], bool] | None = None,
) -> Measured:
    """Run a command to its end.

    Memory is looked at every ``INTERVAL``, so a shorter peak can be missed; of the first process the system
    itself keeps the largest size, which counts if it is larger.

    Args:
        command: The command.
        log: Gets what it prints.
        environment: Its environment.
        limit: Seconds after which it is ended.
        kill_when: Asked after every look; SIGKILL follows when it says yes.
    """
    with log.open("wb") as output:
        started = heard = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
            start_new_session=True,
        )  # fmt: skip
        size, silent, rss, anonymous, killed, over = 0, 0.0, 0, 0, False, False
        try:
            while True:
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
                now = time.monotonic()
                silent = max(silent, now - heard)
                if (longer := log.stat().st_size) > size:
                    size, heard = longer, now
                if ended:
                    break
                held, own = memory(process.pid)
                rss, anonymous = max(rss, held, high_water(process.pid)), max(anonymous, own)
                over = over or now - started > limit
                if not killed and (over or (kill_when is not None and kill_when())):
                    process.kill()
                    killed = True
                time.sleep(INTERVAL)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            _end_group(process)
    return Measured(
        process.returncode,
        now - started,
        silent,
        rss,
        anonymous or None,
        usage.ru_oublock * 512,
        over,
    )


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process and its descendants, and those of them that are no part of a file."""
    held = own = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:  # it has just ended
        return 0, 0
    for process in processes:
        try:
            found = process.memory_info()
        except psutil.Error:
            continue
        held += found.rss
        own += found.rss - found.shared if hasattr(found, "shared") else 0
    return held, own


def high_water(pid: int) -> int:
    """Most resident bytes that a process had at once, as the system counts; 0 where it does not say.

    What ``wait4`` tells instead is at least the size of the process that started it.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; 0 if there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of its processes: helpers of one that was killed, or all after Ctrl-C here."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    if process.returncode is None:
        process.wait()
