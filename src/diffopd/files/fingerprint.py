"""SHA-256 of files, noted beside large ones so that they are read once."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from os import PathLike
from pathlib import Path

from diffopd.files.atomic import replacing
from diffopd.files.paths import expanded

log = logging.getLogger(__name__)


def sha256_of(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LARGE = 64 * 2**20
"""Bytes from which on a file's SHA-256 is worth remembering."""


def cached_sha256_of(path: str | PathLike[str]) -> str:
    """SHA-256 of a file that is not expected to change, computed once for a large one.

    From ``LARGE`` bytes on it is kept in ``~/.cache/diffopd/sha256`` (or ``XDG_CACHE_HOME``) under the file's
    path, size, inode and times of change, so a file that was written again is read again. A note that is
    damaged is computed again; without a home folder none is kept. Damage to the file itself that leaves these
    as they were goes unseen: to verify a file, use :func:`sha256_of`.
    """
    note = _note_of(Path(path))
    if note is None:
        return sha256_of(path)
    with contextlib.suppress(OSError):
        kept = note.read_bytes()
        if kept == _hash_note(kept[:64]):
            return kept[:64].decode()
        log.warning("%s is damaged; the SHA-256 of %s is computed again", note, path)
    found = sha256_of(path)
    with (
        contextlib.suppress(OSError),
        replacing(note) as temporary,
    ):  # a cache that cannot be kept is no error
        temporary.write_bytes(_hash_note(found.encode()))
    return found


def is_hashed(path: str | PathLike[str]) -> bool:
    """Whether :func:`cached_sha256_of` answers at once: the file is small, or its SHA-256 is known."""
    file = Path(path)
    note = _note_of(file)
    return file.stat().st_size < LARGE if note is None else note.is_file()


def _note_of(path: Path) -> Path | None:
    """Where the SHA-256 of a file is kept; None if it is not worth it, or there is no home folder."""
    file = path.resolve()
    about = file.stat()
    if about.st_size < LARGE:
        return None
    try:
        root = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except ValueError:
        return None
    key = f"{file} {about.st_dev} {about.st_ino} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"
    return root / "diffopd" / "sha256" / hashlib.sha256(key.encode()).hexdigest()


def _hash_note(value: bytes) -> bytes:
    """A SHA-256 in hexadecimal with a checksum of its own."""
    return value + b" " + hashlib.sha256(value).hexdigest()[:16].encode() + b"\n"
