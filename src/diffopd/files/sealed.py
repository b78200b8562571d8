"""Files that are read back later: with a checksum, so that what was damaged is never taken for the truth.

One rule holds for all of them: a file is what was written, or :class:`DamagedFileError` says in one line that
it is not. A file without a checksum, written by an earlier version or by hand, is read as it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from diffopd.files.atomic import atomic_write_json, atomic_write_text

SEAL = "checksum"
"""Entry of a JSON file with the checksum over all others."""
_FIRST_LINE = re.compile(rf"# {SEAL} ([0-9a-f]{{64}})")
_EDITED = "remove it where the file was edited on purpose"


class DamagedFileError(ValueError):
    """A file that is not what was written.

    Args:
        path: Which.
        why: What is wrong with it.
    """

    def __init__(self, path: str | PathLike[str], why: str) -> None:
        super().__init__(f"{path} is damaged: {why}")
        self.why = why


def write_sealed_json(path: str | PathLike[str], value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with a checksum, whole or not at all, and only if the file differs."""
    plain = json.loads(json.dumps(value, allow_nan=False))
    atomic_write_json(path, {**plain, SEAL: _digest(plain)})


def read_sealed_json(path: str | PathLike[str], keys: Collection[str]) -> dict[str, Any]:
    """What :func:`write_sealed_json` wrote.

    Args:
        path: The file.
        keys: All it may hold. Without a checksum it is read if it holds nothing else, so that one whose
            checksum lost its name is told from one that never had any.

    Raises:
        DamagedFileError: If it is not what was written.
        OSError: If it cannot be read.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(path, f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DamagedFileError(path, f"it holds a {type(value).__name__}")
    if (unknown := value.keys() - {*keys, SEAL}) and SEAL not in value:
        raise DamagedFileError(path, f"nothing like {min(unknown)!r} belongs there")
    seal = value.pop(SEAL, None)
    if seal is not None and seal != _digest(value):
        raise DamagedFileError(path, f"its content does not have the checksum in {SEAL!r}; {_EDITED}")
    return value


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_sealed_text(path: str | PathLike[str], text: str) -> None:
    """Write a text below a comment with its checksum, whole or not at all, and only if the file differs."""
    atomic_write_text(path, f"# {SEAL} {hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def read_sealed_text(path: str | PathLike[str]) -> str:
    """What :func:`write_sealed_text` wrote.

    Raises:
        DamagedFileError: If it is not what was written.
        OSError: If it cannot be read.
    """
    try:
        whole = Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise DamagedFileError(path, f"not UTF-8 ({error})") from error
    if not whole:
        raise DamagedFileError(path, "it is empty")
    first, _, text = whole.partition("\n")
    found = _FIRST_LINE.fullmatch(first)
    if found is None:
        if f" {SEAL} " in first:
            raise DamagedFileError(path, "its first line is not the checksum it was")
        return whole
    if found[1] != hashlib.sha256(text.encode()).hexdigest():
        raise DamagedFileError(path, f"its content does not have the checksum in its first line; {_EDITED}")
    return text
