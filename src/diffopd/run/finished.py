"""The note that a run is trained and reported: cascades, tables, ablations and reports stand on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from diffopd.files.atomic import flush
from diffopd.files.sealed import DamagedFileError, read_sealed_json, write_sealed_json

log = logging.getLogger(__name__)

FINISHED = "finished.json"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What is noted.

    Attributes:
        rounds: How many rounds are done; fewer than ``max_rounds`` where a guard or a limit of time ended it.
        max_rounds: ``trainer.max_epochs``; with more, the run continues.
        recipe: How it was made and what it cost; empty without metrics.
        inputs: Fingerprints of the files it learned from.
        outputs: SHA-256 of the weights it left, by their place in its folder; empty in notes of earlier
            versions.
    """

    rounds: int
    max_rounds: int
    recipe: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str] = field(default_factory=dict)


_KEYS = {entry.name for entry in fields(Finished)}


_LEFT = ("adapter", "lora", "pipeline")
"""Folders of what a run trains."""


def outputs_of(folder: Path) -> dict[str, str]:
    """Fingerprints of the weights that a run's folder holds, for :class:`Finished`."""
    files = [file for name in _LEFT for file in (folder / name).rglob("*.safetensors")]
    return {file.relative_to(folder).as_posix(): _fingerprint(file) for file in sorted(files)}


def lost_output(folder: Path, note: Finished) -> str | None:
    """What is no longer there of what a finished run left, or is not what it left; None if all is."""
    for name, expected in note.outputs.items():
        file = folder / name
        if not file.is_file():
            return f"{file} is missing"
        if _fingerprint(file) != expected:
            return f"{file} has changed since the run wrote it"
    return None


def _fingerprint(file: Path) -> str:
    """SHA-256 of a safetensors file, its header's entries sorted: they are in another order each time."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(min(length, file.stat().st_size))  # a damaged length may be any number
        with contextlib.suppress(ValueError, RecursionError):  # damaged: as it is
            header = json.dumps(json.loads(header), sort_keys=True).encode()
        value = hashlib.sha256(header)
        while block := opened.read(2**20):
            value.update(block)
    return value.hexdigest()


def write_finished(folder: Path, note: Finished) -> None:
    """Note in a run's folder that it is trained and reported."""
    write_sealed_json(folder / FINISHED, asdict(note))


def remove_finished(folder: Path) -> None:
    """Take the note back, before the run continues."""
    with contextlib.suppress(FileNotFoundError):
        (folder / FINISHED).unlink()
        flush(folder)


def read_finished(folder: Path) -> Finished | None:
    """The note of a run; None if it is not finished, or if its note is damaged, which a warning says."""
    path = folder / FINISHED
    if not path.is_file():
        return None
    try:
        return _checked(path, read_sealed_json(path, _KEYS))
    except DamagedFileError as error:
        log.warning("%s; the run counts as not finished, and the same command finishes it again", error)
        return None


def _checked(path: Path, value: Mapping[str, Any]) -> Finished:
    """The note, where the file holds one."""
    note = {
        "inputs": {},
        "rounds": value.get("max_rounds"),
        **value,
    }  # earlier versions knew max_rounds alone
    numbers = all(type(note.get(name)) is int for name in ("rounds", "max_rounds"))
    tables = (note.get("recipe"), note["inputs"], note.get("outputs", {}))
    if not numbers or not all(isinstance(table, dict) for table in tables):
        raise DamagedFileError(path, "it needs max_rounds and recipe")
    return Finished(**note)
