"""One process at a time in a run's folder."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

LOCK = ".lock"
WAIT = 10.0
"""Seconds: what is being ended, a killed cascade's training for one, has let go of its folder by then."""


@contextlib.contextmanager
def locked(folder: Path, *, wait: float = WAIT) -> Iterator[None]:
    """Keep every other process from working in a folder while the block runs.

    The operating system lets go when the process ends, however it ends, so nothing has to be cleaned up after
    a kill. Only processes that ask take part; of several that train together one does.

    Args:
        folder: The folder, made if need be. The file ``.lock`` stays in it.
        wait: Seconds to wait for a process that is using it to exit.

    Raises:
        ValueError: If it does not, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be made ({error}); choose another place") from error
    file = folder / LOCK
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("%s is using %s; waiting up to %g s for it to exit", _holder(file), folder, wait)
        try:
            lock.acquire(timeout=wait)
        except Timeout as error:
            raise ValueError(
                f"{_holder(file)} is using {folder}; wait until it exits, stop it, or give this run its own "
                "folder with run_id=..."
            ) from error
    try:
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(file: Path) -> str:
    """Who wrote its name in the lock's file."""
    with contextlib.suppress(OSError):
        if name := file.read_text(encoding="utf-8", errors="replace").strip():
            return name
    return "another process"
