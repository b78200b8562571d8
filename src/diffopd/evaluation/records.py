"""What is known of the images made so far, in memory or on disk: results are made of these records alone."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffopd.files.atomic import atomic_save_safetensors
from diffopd.metric.kept import Kept

log = logging.getLogger(__name__)

_INDICES = "indices"
_DIGEST = "sha256"


@runtime_checkable
class Records(Protocol):
    """Keeps what metrics need of each image, under its task and index."""

    def done(self, task: str) -> set[int]:
        """Indices of the images of ``task`` that are recorded."""
        ...

    def add(self, task: str, indices: tuple[int, ...], kept: Mapping[str, Kept]) -> None:
        """Record a batch: metric -> what it keeps of each image."""
        ...

    def read(self, task: str) -> tuple[tuple[int, ...], Mapping[str, Kept]]:
        """Everything recorded of ``task``, by index."""
        ...


class MemoryRecords:
    """Records of one process that need not outlive it."""

    def __init__(self) -> None:
        self._batches: dict[str, list[tuple[tuple[int, ...], Mapping[str, Kept]]]] = {}

    def done(self, task: str) -> set[int]:
        """As in :class:`Records`."""
        return {index for indices, _ in self._batches.get(task, []) for index in indices}

    def add(self, task: str, indices: tuple[int, ...], kept: Mapping[str, Kept]) -> None:
        """As in :class:`Records`."""
        self._batches.setdefault(task, []).append((indices, kept))

    def read(self, task: str) -> tuple[tuple[int, ...], Mapping[str, Kept]]:
        """As in :class:`Records`."""
        return _by_index(self._batches.get(task, []))


class FolderRecords:
    """Records as files, ``<folder>/<task>/<first index>_<number>.safetensors``, one a batch.

    A file is whole or absent, so a batch is recorded with all its metrics or has to be made again. So has one
    whose file does not have the checksum it was written with; it is removed with a warning. Any number
    of processes may write here at once, as long as they make different images.

    Args:
        folder: Gets the files; made when the first batch is recorded.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def done(self, task: str) -> set[int]:
        """As in :class:`Records`."""
        return {index for indices, _ in self._read(task) for index in indices}

    def add(self, task: str, indices: tuple[int, ...], kept: Mapping[str, Kept]) -> None:
        """As in :class:`Records`."""
        tensors: dict[str, Tensor] = {_INDICES: torch.tensor(indices)}
        for metric, rows in kept.items():
            tensors |= {f"{metric}:{name}": values for name, values in rows.rows.items()}
        place = self.folder / task / f"{min(indices):06d}_{len(indices)}.safetensors"
        atomic_save_safetensors(place, tensors, {_DIGEST: _digest(tensors)})

    def read(self, task: str) -> tuple[tuple[int, ...], Mapping[str, Kept]]:
        """As in :class:`Records`."""
        return _by_index(list(self._read(task)))

    def _read(self, task: str) -> Iterator[tuple[tuple[int, ...], Mapping[str, Kept]]]:
        """The batches that are intact; others are removed."""
        for file in self._files(task):
            try:
                yield _read_file(file)
            except (SafetensorError, ValueError) as error:
                log.warning("%s is damaged (%s); it is removed and its images are made again", file, error)
                file.unlink(missing_ok=True)

    def count(self) -> int:
        """How many images of all tasks are recorded, by all processes; reads no file."""
        return sum(int(file.stem.partition("_")[2]) for file in self.folder.glob("*/[0-9]*_*.safetensors"))

    def _files(self, task: str) -> list[Path]:
        return sorted((self.folder / task).glob("[0-9]*_*.safetensors"))


def _read_file(file: Path) -> tuple[tuple[int, ...], Mapping[str, Kept]]:
    """A batch.

    Raises:
        SafetensorError: If the file is no safetensors file.
        ValueError: If it is not what was written.
    """
    with safe_open(file, framework="pt") as opened:
        tensors: dict[str, Tensor] = {key: opened.get_tensor(key) for key in opened.keys()}
        digest = (opened.metadata() or {}).get(_DIGEST)
    if digest != _digest(tensors):
        raise ValueError("its checksum is wrong")
    rows: dict[str, dict[str, Tensor]] = {}
    for key in tensors.keys() - {_INDICES}:
        metric, _, name = key.partition(":")
        rows.setdefault(metric, {})[name] = tensors[key]
    return tuple(tensors[_INDICES].tolist()), {metric: Kept(columns) for metric, columns in rows.items()}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and bytes of all tensors."""
    value = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        value.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        value.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return value.hexdigest()


def _by_index(
    batches: list[tuple[tuple[int, ...], Mapping[str, Kept]]],
) -> tuple[tuple[int, ...], Mapping[str, Kept]]:
    """All batches as one, in the order of the indices, each index once."""
    indices = [index for batch, _ in batches for index in batch]
    place = {index: row for row, index in reversed(list(enumerate(indices)))}
    order = [place[index] for index in sorted(place)]
    names = batches[0][1] if batches else ()
    kept = {name: Kept.concat([batch[name] for _, batch in batches]).select(order) for name in names}
    return tuple(sorted(place)), kept
