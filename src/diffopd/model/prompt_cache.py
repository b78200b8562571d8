"""Encoded prompts on disk: each is encoded once, for all processes and all runs."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffopd.files.atomic import atomic_save_safetensors, atomic_write_json, is_full_disk
from diffopd.files.paths import resolve_path
from diffopd.model.end_zeros import with_end_zeros, without_end_zeros
from diffopd.types import Conditioning

log = logging.getLogger(__name__)

EncodeEach = Callable[[Sequence[str]], Iterator[Conditioning]]
"""Encodes prompts one by one; yields one row each."""

SHARD_ROWS = 64
"""Prompts in one file when many are encoded; an interruption loses at most so many."""
SECONDS_PER_LINE = 10.0
"""Least time between two lines on progress."""
_ROWS = "rows"
_DIGEST = "rows_sha256"
_FORMAT = 3
"""2 had rows with the zeros at their ends."""


class PromptCache:
    """The encodings that one encoder with its settings gave so far; processes and runs share the folder.

    ``<folder>/<key>/`` has ``encoder.json``, which says what the key stands for, and files of encoded
    prompts that are only ever added: a file is whole or absent, its header lists its prompts, and no two
    writers choose one name. So nothing has to be locked, and an interrupted filling resumes where it was.
    Rows are read through memory maps and compared with a checksum at their first reading, the list of a
    file's prompts when it is opened. A file that is damaged is removed with a warning, and its prompts are
    encoded again. Zeros at the ends of token rows, such as those that CLIP's are padded with, are not stored.

    A prompt is encoded by itself, so its encoding does not depend on what was encoded beside it.

    Attributes:
        folder: Of this encoder.
        encoder: What an encoding depends on beside its prompt.
    """

    def __init__(self, folder: str | PathLike[str], encoder: Mapping[str, Any]) -> None:
        """Open the cache, or begin one.

        Args:
            folder: Holds the caches of all encoders.
            encoder: Everything that an encoding depends on beside its prompt, as JSON has it.
        """
        described = {**encoder, "format": _FORMAT}
        self.encoder = encoder
        self.folder = Path(resolve_path(folder)) / _key(encoder)
        self._files: dict[Path, _File] = {}
        self._rows: dict[str, tuple[_File, int]] = {}
        try:
            if not (self.folder / "encoder.json").is_file():
                atomic_write_json(self.folder / "encoder.json", described)
            self.refresh()
        except OSError as error:
            if is_full_disk(error):
                raise
            raise ValueError(
                f"model.prompt_cache={folder} cannot be used ({error}); name a folder that can be written, "
                "or null to encode prompts again in every run"
            ) from error

    @staticmethod
    def already_in(folder: str | PathLike[str], encoder: Mapping[str, Any]) -> PromptCache | None:
        """The cache of an encoder if ``folder`` has one; nothing is made."""
        there = Path(resolve_path(folder)) / _key(encoder) / "encoder.json"
        return PromptCache(folder, encoder) if there.is_file() else None

    def __len__(self) -> int:
        return len(self._rows)

    def refresh(self) -> None:
        """Take notice of files that were added since."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self._files:
                continue
            try:
                file = _File.open(path)
            except FileNotFoundError:  # another process found it damaged
                continue
            except (SafetensorError, ValueError) as error:
                _discard(path, f"{type(error).__name__}: {error}")
                continue
            self._files[path] = file
            for row, text in enumerate(file.texts):
                self._rows.setdefault(text, (file, row))

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The different prompts among ``texts`` that are not there."""
        return [text for text in dict.fromkeys(texts) if text not in self._rows]

    def fill(
        self,
        texts: Sequence[str],
        encode_each: EncodeEach,
        *,
        rank: int,
        num_processes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Encode what is missing of this process's share of many prompts.

        A share does not depend on what is there, so processes that look at different times leave nothing
        out. When all are done, each calls :meth:`refresh`.

        Args:
            texts: The same on all processes.
            encode_each: Encodes one by one.
            rank: Number of this process, which takes every ``num_processes``-th prompt.
            num_processes: How many there are.
            clock: Seconds, rising.

        Raises:
            ValueError: If the disk has no room for them.
        """
        self.refresh()
        to_do = self.missing(list(dict.fromkeys(texts))[rank::num_processes])
        if not to_do:
            return
        log.info("encoding %d prompts into %s", len(to_do), self.folder)
        start = last_line = clock()
        encoded = encode_each(to_do)
        rows: list[Conditioning] = []
        for done, row in enumerate(itertools.islice(encoded, len(to_do)), 1):
            rows.append(row)
            now = clock()
            if done < len(to_do) and now - last_line >= SECONDS_PER_LINE:
                left = (now - start) / done * (len(to_do) - done)
                log.info("encoded %d of %d prompts, %.0f s left", done, len(to_do), left)
                last_line = now
            if done % SHARD_ROWS == 0 or done == len(to_do):
                size = self._add(to_do[done - len(rows) : done], rows)
                rows = []
                if done == SHARD_ROWS < len(to_do):
                    self._check_room(size * (len(to_do) - done) / done * num_processes, len(to_do))
        next(encoded, None)  # lets it tidy up
        log.info("encoded %d prompts in %.0f s", len(to_do), clock() - start)

    def _check_room(self, needed: float, num_prompts: int) -> None:
        """Compare what a filling is going to write with the free disk.

        Raises:
            ValueError: If there is no room.
        """
        free = shutil.disk_usage(self.folder).free
        log.info("these prompts take about %.1f GB on disk, %.1f GB are free", needed / 1e9, free / 1e9)
        if needed > free:
            raise ValueError(
                f"model.prompt_cache: {num_prompts:,} prompts take about {needed / 1e9:.1f} GB in "
                f"{self.folder}, and {free / 1e9:.1f} GB are free; choose another disk, a shorter "
                "model.text_length, fewer rounds (only their prompts are encoded), or model.prompt_cache=null"
            )

    def conditioning(self, texts: Sequence[str], encode_each: EncodeEach) -> Conditioning:
        """Encoded prompts on the CPU; what is missing is encoded and kept.

        Args:
            texts: One row each.
            encode_each: Encodes one by one.
        """
        if self.missing(texts):
            self.refresh()
        found = {text: self._read(text) for text in dict.fromkeys(texts)}
        if to_do := [text for text, row in found.items() if row is None]:
            found.update(zip(to_do, encode_each(to_do), strict=True))
        if lost := self.missing(texts):  # also rows read just before their file was found to be damaged
            self._add(lost, [row for text in lost if (row := found[text]) is not None])
        return Conditioning.concat([row for text in texts if (row := found[text]) is not None])

    def _read(self, text: str) -> Conditioning | None:
        """One row, mapped; None if it is not there or is not what was written."""
        if text not in self._rows:
            return None
        file, row = self._rows[text]
        try:
            return file.read(row)
        except (SafetensorError, ValueError) as error:
            self._rows = {known: place for known, place in self._rows.items() if place[0] is not file}
            _discard(file.path, str(error))
            return None

    def _add(self, texts: Sequence[str], rows: Sequence[Conditioning]) -> int:
        """Write one file, and say how many bytes it holds."""
        tensors: dict[str, Tensor] = {}
        index: list[dict[str, Any]] = []
        for number, (text, row) in enumerate(zip(texts, rows, strict=True)):
            parts = {"embeds": row.embeds[0]} | ({} if row.pooled is None else {"pooled": row.pooled[0]})
            parts = {name: part.detach().cpu().contiguous() for name, part in parts.items()}
            kept, runs = without_end_zeros(parts["embeds"])
            stored = parts | {"embeds": kept}
            tensors |= {f"{number}.{name}": part for name, part in stored.items()}
            columns = parts["embeds"].shape[1]
            layout = {"runs": runs, "columns": columns, "lengths": row.lengths}
            index.append({"text": text, **layout, "checksum": _checksum(parts)})
        path = self.folder / f"{uuid.uuid4().hex}.safetensors"
        text = json.dumps(index)
        atomic_save_safetensors(path, tensors, {_ROWS: text, _DIGEST: _digest(text)})
        self.refresh()
        return path.stat().st_size


@dataclass
class _File:
    """One file of encoded prompts, mapped into memory.

    Attributes:
        path: Where it is.
        mapped: The open file.
        index: For each row, its ``text``, its ``lengths``, the ``runs`` and ``columns`` of its tokens
            (:mod:`~diffopd.model.end_zeros`), and the ``checksum`` of the row as it was encoded.
        checked: Rows that were compared with their checksum.
    """

    path: Path
    mapped: Any
    index: Sequence[Mapping[str, Any]]
    checked: set[int] = field(default_factory=set)

    @staticmethod
    def open(path: Path) -> _File:
        """Map a file; its header alone is read.

        Raises:
            SafetensorError: If it is cut short or no safetensors file.
            ValueError: If the list of its prompts is not what was written.
        """
        mapped = safe_open(path, framework="pt")
        header = mapped.metadata() or {}
        text = header.get(_ROWS, "")
        if header.get(_DIGEST) != _digest(text):
            raise ValueError("the checksum of its list of prompts is wrong")
        return _File(path, mapped, json.loads(text))

    @property
    def texts(self) -> list[str]:
        """The prompts."""
        return [row["text"] for row in self.index]

    def read(self, row: int) -> Conditioning:
        """One row, without copying it unless it has zeros to be put back.

        Raises:
            ValueError: If it is not what was written.
        """
        entry = self.index[row]
        names = [name for name in ("embeds", "pooled") if f"{row}.{name}" in self.mapped.keys()]
        if "embeds" not in names:
            raise ValueError(f"prompt {row} is missing")
        parts = {name: self.mapped.get_tensor(f"{row}.{name}") for name in names}
        parts["embeds"] = with_end_zeros(parts["embeds"], entry["runs"], entry["columns"])
        if row not in self.checked:
            if _checksum(parts) != entry["checksum"]:
                raise ValueError(f"the checksum of prompt {row} is wrong")
            self.checked.add(row)
        lengths = None if entry["lengths"] is None else tuple(entry["lengths"])
        pooled = parts["pooled"][None] if "pooled" in parts else None
        return Conditioning(parts["embeds"][None], pooled, lengths)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _key(encoder: Mapping[str, Any]) -> str:
    """Name of an encoder's folder."""
    described = {**encoder, "format": _FORMAT}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _checksum(parts: Mapping[str, Tensor]) -> int:
    """CRC-32 over a row: names, types, shapes and bytes."""
    value = 0
    for name, part in parts.items():
        value = zlib.crc32(f"{name} {part.dtype} {tuple(part.shape)}".encode(), value)
        value = zlib.crc32(part.flatten().view(torch.uint8).numpy().data, value)
    return value


def _discard(path: Path, reason: str) -> None:
    log.warning("%s is damaged (%s); it is removed and its prompts are encoded again", path, reason)
    path.unlink(missing_ok=True)
