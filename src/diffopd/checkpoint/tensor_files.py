"""The tensors of a checkpoint as safetensors: one file, or several of a stated size with an index.

What a part of the checkpoint (the exported adapter or transformer) holds bit for bit is not stored again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

TENSORS = "tensors.safetensors"
INDEX = f"{TENSORS}.index.json"
LARGEST_FILE = 5 * 1024**3
"""Bytes of tensors in one file at most, where nothing else is said."""
ELSEWHERE = "elsewhere"
"""In the header of the one file, or in the index: tensor that a part holds -> its file, its name there."""
ONE_FILE, ONE_FILE_ELSEWHERE, SEVERAL_FILES = FORMATS = (1, 2, 3)
"""Formats: all tensors in one file; some of them only in the files of a part; files with an index."""
_WEIGHTS = "weight_map"

Elsewhere = Mapping[str, Sequence[str]]


def write_tensors(
    folder: Path, tensors: Mapping[str, Tensor], others: Iterable[str], largest: int
) -> tuple[list[str], int]:
    """Write tensors, but for those that other files hold already.

    What is on a GPU is copied to the CPU file by file.

    Args:
        folder: The checkpoint's, where the other files are.
        tensors: By name; they share no memory.
        others: Names of files that were written.
        largest: Bytes of tensors in one file at most; a larger tensor has a file of its own.

    Returns:
        The names of the files that were written, and the format.
    """
    elsewhere = _elsewhere(folder, others, tensors)
    rest = {name: tensor for name, tensor in tensors.items() if name not in elsewhere}
    files = split(rest, largest)
    if len(files) <= 1:
        _save(rest, folder / TENSORS, {ELSEWHERE: json.dumps(elsewhere)} if elsewhere else None)
        return [TENSORS], ONE_FILE_ELSEWHERE if elsewhere else ONE_FILE
    written: list[str] = []
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files, start=1):
        written.append(TENSORS.replace(".", f"-{number:05d}-of-{len(files):05d}.", 1))
        _save({name: rest[name] for name in names}, folder / written[-1], None)
        weight_map |= dict.fromkeys(names, written[-1])
    total = {"total_size": sum(tensor.nbytes for tensor in rest.values())}
    index = {"metadata": total, _WEIGHTS: weight_map, ELSEWHERE: elsewhere}
    (folder / INDEX).write_text(json.dumps(index, indent=1))
    return [*written, INDEX], SEVERAL_FILES


def _save(tensors: Mapping[str, Tensor], path: Path, header: Mapping[str, str] | None) -> None:
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, path, dict(header or {}) or None)


def split(tensors: Mapping[str, Tensor], largest: int) -> list[list[str]]:
    """Names of tensors in files of at most so many bytes, in their order.

    Examples:
        >>> one, two = torch.zeros(1), torch.zeros(2)
        >>> split({"a": one, "b": one, "c": two, "d": one}, 8)
        [['a', 'b'], ['c'], ['d']]
    """
    files: list[list[str]] = []
    room = 0
    for name, tensor in tensors.items():
        if not files or tensor.nbytes > room:
            files.append([])
            room = largest
        files[-1].append(name)
        room -= tensor.nbytes
    return files


def required(version: int) -> str:
    """The file of tensors that every checkpoint of a format has."""
    return INDEX if version == SEVERAL_FILES else TENSORS


def read_tensors(folder: Path, device: str, verified: Collection[str]) -> dict[str, Tensor]:
    """All tensors of a checkpoint, also those that a part's file holds.

    Args:
        folder: The checkpoint's.
        device: Where they go; on the CPU they are read when they are used.
        verified: Names of the files that are known to be what was written.

    Raises:
        ValueError: If another file is referred to.
    """
    if INDEX in verified:
        index = json.loads((folder / INDEX).read_text())
        source, files, elsewhere = INDEX, sorted(set(index[_WEIGHTS].values())), index[ELSEWHERE]
    else:
        with safe_open(folder / TENSORS, framework="pt") as opened:
            elsewhere = json.loads((opened.metadata() or {}).get(ELSEWHERE, "{}"))
        source, files = TENSORS, [TENSORS]
    others = sorted({file for file, _ in elsewhere.values()})
    if unknown := [file for file in (*files, *others) if file not in verified]:
        raise ValueError(f"{folder / source} refers to {unknown[0]}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(folder / file, device=device)
    for file in others:
        with safe_open(folder / file, framework="pt", device=device) as opened:
            tensors |= {name: opened.get_tensor(key) for name, (of, key) in elsewhere.items() if of == file}
    return tensors


def _elsewhere(folder: Path, others: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Tensors that files written already hold: whole weights are exported as they are in the state."""
    found: dict[str, list[str]] = {}
    for file in (name for name in others if name.endswith(".safetensors")):
        with safe_open(folder / file, framework="pt") as opened:
            there = set(opened.keys())
            for name, tensor in tensors.items():
                parts = name.split(".")
                ends = (".".join(parts[start:]) for start in range(1, len(parts)))
                key = next((end for end in ends if end in there), None)
                if key is not None and name not in found and _same_bytes(tensor, opened.get_tensor(key)):
                    found[name] = [file, key]
    return found


def _same_bytes(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.cpu().flatten().view(torch.uint8), other.flatten().view(torch.uint8))
