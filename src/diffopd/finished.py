"""The note that a run is trained and reported: cascades, tables, ablations and reports stand on it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from diffopd.files import flush
from diffopd.sealed import DamagedFileError, read_sealed_json, write_sealed_json

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
    """

    rounds: int
    max_rounds: int
    recipe: Mapping[str, Any]
    inputs: Mapping[str, str]


_KEYS = {field.name for field in fields(Finished)}


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
    if not numbers or not isinstance(note.get("recipe"), dict) or not isinstance(note["inputs"], dict):
        raise DamagedFileError(path, "it needs max_rounds and recipe")
    return Finished(**note)
