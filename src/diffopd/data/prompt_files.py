"""Prompt files in the formats people have: text lines, and GenEval's JSON lines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from diffopd.files import resolve_path

SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class PromptEntry:
    """One prompt of a file.

    Attributes:
        text: The prompt.
        task: The task it is used for.
        metadata: The rest of its JSON line, ``prompt`` included; empty for a text line.
        line: Number of its line in the file, from 1.
    """

    text: str
    task: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    line: int = field(default=0, compare=False)


def read_prompts(path: str | PathLike[str], task: str, *, setting: str = "path") -> list[PromptEntry]:
    """Read a prompt file.

    ``.txt`` holds one prompt a line. ``.jsonl`` holds one JSON object a line with the key ``prompt``; its
    other keys (GenEval's ``tag``, ``include``, ``exclude``) are kept as metadata. Blank lines are ignored.

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
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: the file is not UTF-8 ({error}); save it as UTF-8") from error
    except OSError as error:
        raise ValueError(f"{where}: the file cannot be read ({error.strerror}); may you read it?") from error
    read_line = _json_line if file.suffix == ".jsonl" else _text_line
    entries = [
        dataclasses.replace(read_line(line.strip(), task, f"{file}, line {number}"), line=number)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not entries:
        raise ValueError(f"{where}: {file} holds no prompts; give it one a line")
    return entries


def _text_line(line: str, task: str, place: str) -> PromptEntry:
    return PromptEntry(line, task)


def _json_line(line: str, task: str, place: str) -> PromptEntry:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place}: not JSON ({error}); a .jsonl file holds one JSON object a line"
        ) from error
    if not isinstance(record, dict):
        raise ValueError(
            f"{place}: expected a JSON object with the key 'prompt', got {type(record).__name__}"
        )
    text = record.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"{place}: 'prompt' must be a text, got {text!r}; the line has the keys {sorted(record)}"
        )
    return PromptEntry(text.strip(), task, record)
