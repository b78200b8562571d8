"""SHA-256 of many large files, with a line on what takes so long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from diffopd.files.fingerprint import cached_sha256_of, is_hashed
from diffopd.host.rank import is_first_process

log = logging.getLogger(__name__)

WORTH_A_LINE = 10**9
"""Bytes of weights from which on it is announced that they are hashed, loaded or looked through."""
SECONDS_PER_LINE = 10.0
"""Least time between two lines on progress."""


def hash_ahead(files: Iterable[Path], what: str, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Compute the SHA-256 of files that are not known yet, so that they are at hand from here on.

    From :data:`WORTH_A_LINE` bytes on this is announced, and its progress reported.

    Args:
        files: Those that will be asked for.
        what: What they are, for the lines.
        clock: Seconds, rising.
    """
    sizes = {file: file.stat().st_size for file in dict.fromkeys(files) if not is_hashed(file)}
    total = sum(sizes.values())
    if total < WORTH_A_LINE:
        return  # a moment, and small files are read anew each time anyway
    level = logging.INFO if is_first_process() else logging.DEBUG
    text = "hashing %.1f GB of %s, once (SHA-256, remembered while the files stay as they are)"
    log.log(level, text, total / 1e9, what)
    start = last_line = clock()
    done = 0
    for file, size in sizes.items():
        cached_sha256_of(file)
        done, now = done + size, clock()
        if done < total and now - last_line >= SECONDS_PER_LINE:
            left = (now - start) / done * (total - done)
            log.log(level, "hashed %.1f of %.1f GB, %.0f s left", done / 1e9, total / 1e9, left)
            last_line = now
    log.log(level, "hashed %.1f GB in %.0f s", total / 1e9, clock() - start)
