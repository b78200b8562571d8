"""Prompt files in the formats people have: text lines, and GenEval's JSON lines."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from diffopd.data.reference_files import references_of
from diffopd.files.paths import resolve_path
from diffopd.types import Picture

SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class PromptEntry:
    """One prompt of a file.

    Attributes:
        text: The prompt.
        task: The task it is used for.
        metadata: The rest of its JSON line, ``prompt`` included; empty for a text line.
        line: Number of its line in the file, from 1.
        references: The pictures that its line names under ``references``, in order.
    """

    text: str
    task: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    line: int = field(default=0, compare=False)
    references: tuple[Picture, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt alone."""
        return (self.text,)

    @property
    def where(self) -> str:
        """Its line."""
        return f"line {self.line}"


def read_prompt_files(paths: str | Sequence[str], task: str, *, setting: str = "path") -> list[PromptEntry]:
    """Read one prompt file or several, one after the other, as :func:`read_prompts` does."""
    files = [paths] if isinstance(paths, str) else paths
    return [entry for file in files for entry in read_prompts(file, task, setting=setting)]


def read_prompts(path: str | PathLike[str], task: str, *, setting: str = "path") -> list[PromptEntry]:
    """Read a prompt file.

    ``.txt`` holds one prompt per line. ``.jsonl`` holds one JSON object per line with the key ``prompt``; its
    other keys (GenEval's ``tag``, ``include``, ``exclude``) are kept as metadata, and ``references`` names
    pictures below the file's folder that the network is shown beside the prompt. Blank lines are ignored.

    Args:
        path: The file; may be ``package://...``.
        task: Task of all its prompts.
        setting: Where the file is named in the config, for messages.

    Raises:
        ValueError: If the file is missing, empty or malformed, naming file and line.
    """
    file = Path(resolve_path(path))
    where = f"{setting}={path}"
    if file.suffix not in SUFFIXES:
        raise ValueError(
            f"{where}: the name must end in {' or '.join(SUFFIXES)}, got {file.suffix or 'no ending'}"
        )
    if not file.is_file():
        raise ValueError(f"{where}: there is no such file ({file.absolute()})")
    lines = lines_of(file, where)
    # Files of a million lines are usual: one object per line, and its place is written for an error alone.
    as_text = file.suffix == ".txt"
    with _no_garbage():
        entries = [
            PromptEntry(text, task, {}, number) if as_text else _json_line(text, task, file, number)
            for number, text in lines
        ]
    if not entries:
        raise ValueError(f"{where}: {file} holds no prompts; write one per line")
    return entries


def lines_of(file: Path, where: str) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line that is not blank, without space around it.

    Args:
        file: A text file.
        where: How the config names it, for messages.

    Raises:
        ValueError: If it cannot be read as UTF-8.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: the file is not UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{where}: cannot be read ({error.strerror}); check its permissions") from error
    return ((number, text) for number, line in enumerate(lines, start=1) if (text := line.strip()))


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Spare Python's collector the search among lines that are all kept: most of a large file's time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _json_line(line: str, task: str, file: Path, number: int) -> PromptEntry:
    record = json_value(line, file, number)
    if not isinstance(record, dict):
        raise ValueError(
            f"{file}, line {number}: expected a JSON object with the key 'prompt', "
            f"got {type(record).__name__}"
        )
    text = record.get("prompt")
    if not isinstance(text, str) or not (text := text.strip()):
        raise ValueError(
            f"{file}, line {number}: 'prompt' must be a text, got {text!r}; "
            f"the line has the keys {sorted(record)}"
        )
    shown = references_of(record.get("references"), file.parent, f"{file}, line {number}")
    return PromptEntry(text, task, record, number, shown)


def json_value(line: str, file: Path, number: int) -> Any:
    """What one line of a ``.jsonl`` file holds.

    Args:
        line: Without space around it.
        file: Its file, for the message.
        number: Of the line, from 1, for the message.

    Raises:
        ValueError: If it is not JSON.
    """
    try:
        return _value(line)
    except (json.JSONDecodeError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else f"not JSON ({error})"
        raise ValueError(
            f"{file}, line {number}: {why}; a .jsonl file holds one JSON object per line"
        ) from error


_READ = json.JSONDecoder().raw_decode


def _value(line: str) -> Any:
    """``json.loads(line)`` of a line without space around it, in two thirds of the time."""
    try:
        value, end = _READ(line)
    except json.JSONDecodeError:
        value, end = None, -1
    return value if end == len(line) else json.loads(line)  # which says what is wrong
