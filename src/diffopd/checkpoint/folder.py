"""One checkpoint = one folder of tensors, state and manifest, complete or absent."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffopd.checkpoint.tree import decode_tree, encode_tree
from diffopd.config.renamed import with_current_names
from diffopd.files.atomic import flush, give_usual_mode
from diffopd.files.fingerprint import sha256_of

log = logging.getLogger(__name__)

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
ADAPTER = "adapter"
"""Folder within a checkpoint of the adapter that its run would export, in PEFT's format."""
INPUTS = "inputs"
"""Entry of a training's state: fingerprints of the files it learns from."""
SETTINGS = "settings"
"""Entry of a training's state: what of its config affects the result, flat."""
SET_ASIDE = "set_aside"
"""Folder beside the checkpoints for what had the name of one that was to be saved, or a later one."""
ELSEWHERE = "elsewhere"
"""Entry of the header of the tensors' file: name of one that a part holds -> its file, its name there."""
_VERSION, _VERSION_ELSEWHERE = 1, 2
"""Formats: all tensors in one file; some of them only in the files of a part."""
_PURPOSES = ("writing", "replaced", "removing")
"""Endings of hidden folders beside a checkpoint, each there for a moment."""


class CheckpointError(RuntimeError):
    """A checkpoint that is absent, incomplete, altered, of another format, or that could not be read."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is not what was written: incomplete or altered. Only such a one is ever removed."""


def write_checkpoint(
    state: Any, folder: str | PathLike[str], parts: Mapping[str, Callable[[Path], Any]] | None = None
) -> Path:
    """Write ``state`` so that ``folder`` holds either all of it or what it held before.

    The files go to a temporary folder beside ``folder`` (a rename is atomic only within one file system),
    reach the disk, and the temporary folder is renamed. Replacing an existing checkpoint sets it aside for
    the moment between two renames.

    Args:
        state: Anything :func:`~diffopd.checkpoint.tree.encode_tree` accepts.
        folder: Where the checkpoint will be.
        parts: Name of a folder within it -> writes the folder's files; they are verified as the others are.
            A tensor of the state that one of their safetensors files holds, too, bit for bit and under the
            end of its name, is kept there alone.

    Returns:
        ``folder``. A file or link of its name is moved to ``set_aside``.

    Raises:
        TypeError: If ``state`` holds something a checkpoint cannot; nothing is written then.
    """
    folder = Path(folder)
    encoded, tensors = encode_tree(state)
    text = json.dumps(encoded, allow_nan=False, indent=1)

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, replaced = _beside(folder, "writing"), _beside(folder, "replaced")
    _remove(temporary)  # what an earlier, killed writer left
    _remove(replaced)
    temporary.mkdir()
    try:
        _fill(temporary, tensors, text, parts or {})
    except Exception:
        _remove(temporary)  # a full disk needs the room
        raise

    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        set_aside(folder)
    if folder.exists():
        os.rename(folder, replaced)
    os.rename(temporary, folder)
    flush(folder.parent)
    _remove(replaced)
    return folder


def _fill(
    folder: Path, tensors: Mapping[str, Tensor], text: str, parts: Mapping[str, Callable[[Path], Any]]
) -> None:
    """Write a checkpoint's files, and have them reach the disk."""
    names = [TENSORS, STATE]
    for name, write in parts.items():
        write(folder / name)
        found = sorted(path for path in (folder / name).rglob("*") if path.is_file())
        names += [path.relative_to(folder).as_posix() for path in found]
    elsewhere = _elsewhere(folder, names, tensors)
    header = {ELSEWHERE: json.dumps(elsewhere)} if elsewhere else None
    rest = {name: tensor for name, tensor in tensors.items() if name not in elsewhere}
    save_file(rest, folder / TENSORS, header)
    (folder / STATE).write_text(text)
    version = _VERSION_ELSEWHERE if elsewhere else _VERSION
    manifest = {"version": version, "files": {name: _fingerprint(folder / name) for name in names}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    give_usual_mode(folder)
    for path in (*folder.rglob("*"), folder):
        flush(path)


def _elsewhere(folder: Path, names: Sequence[str], tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Tensors that files written already hold: whole weights are exported as they are in the state."""
    found: dict[str, list[str]] = {}
    for file in (name for name in names if name.endswith(".safetensors") and name != TENSORS):
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
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))


def read_checkpoint(folder: str | PathLike[str], device: str = "cpu") -> Any:
    """The state in ``folder``, verified first.

    Args:
        folder: What :func:`write_checkpoint` wrote.
        device: Where its tensors go.

    Raises:
        CheckpointError: If the checkpoint is absent, incomplete or altered.
    """
    folder = Path(folder)
    verify_checkpoint(folder)
    return decode_tree(json.loads((folder / STATE).read_text()), _read_tensors(folder, device))


def _read_tensors(folder: Path, device: str) -> dict[str, Tensor]:
    """All tensors of a verified checkpoint, also those that a part's file holds."""
    tensors = load_file(folder / TENSORS, device=device)
    with safe_open(folder / TENSORS, framework="pt") as opened:
        elsewhere = json.loads((opened.metadata() or {}).get(ELSEWHERE, "{}"))
    verified = json.loads((folder / MANIFEST).read_bytes())["files"]
    for file in sorted({file for file, _ in elsewhere.values()}):
        if file not in verified:
            why = f"{folder / TENSORS} refers to {file}, which {MANIFEST} does not name"
            raise DamagedCheckpointError(f"{why}; use an earlier checkpoint")
        with safe_open(folder / file, framework="pt", device=device) as opened:
            tensors |= {name: opened.get_tensor(key) for name, (of, key) in elsewhere.items() if of == file}
    return tensors


def read_inputs(folder: str | PathLike[str]) -> dict[str, str]:
    """Fingerprints of the files that the training of a checkpoint learns from; empty if it holds none."""
    return json.loads((Path(folder) / STATE).read_text()).get(INPUTS, {})


def read_settings(folder: str | PathLike[str]) -> dict[str, Any] | None:
    """What affects the result of the training of a checkpoint, flat; None if it does not say."""
    kept = json.loads((Path(folder) / STATE).read_text()).get(SETTINGS)
    return None if kept is None else with_current_names(decode_tree(kept, {}))


def verify_checkpoint(folder: str | PathLike[str]) -> None:
    """Compare every file of a checkpoint with the size and SHA-256 in its manifest.

    Raises:
        DamagedCheckpointError: If a file is missing or differs, or the manifest is none.
        CheckpointError: If there is no checkpoint, it has a newer format, or it cannot be read now.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"no checkpoint at {folder}: a checkpoint is a folder with {TENSORS}, {STATE}, {MANIFEST}"
        )
    try:
        _verify(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read now ({error}); use an earlier checkpoint") from error


def _verify(folder: Path) -> None:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        version, files = manifest["version"], dict(manifest["files"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(
            f"{folder / MANIFEST} cannot be read ({error!r}); use an earlier checkpoint"
        ) from error
    if version not in (_VERSION, _VERSION_ELSEWHERE):
        raise CheckpointError(
            f"{folder} has format {version!r}, this version reads formats {_VERSION} and {_VERSION_ELSEWHERE}"
        )
    for name in dict.fromkeys((TENSORS, STATE, *files)):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DamagedCheckpointError(f"{folder / MANIFEST} names {name}, which is not in the checkpoint")
        path = folder / name
        try:
            found = _fingerprint(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):  # of its name
            raise DamagedCheckpointError(f"{path} is missing; use an earlier checkpoint") from None
        if found != files.get(name):
            raise DamagedCheckpointError(
                f"{path} is not what was written (manifest: {files.get(name)}, found: {found}); "
                "use an earlier checkpoint"
            )


def latest_valid_checkpoint(folder: str | PathLike[str]) -> Path | None:
    """The newest intact checkpoint of a run; others are skipped with a warning.

    Args:
        folder: The folder that holds ``round_000010``, ``round_000020``, ...; it may be absent.

    Returns:
        The checkpoint with the highest round, or None.
    """
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            verify_checkpoint(checkpoint)
        except DamagedCheckpointError as error:
            log.warning("skipping a damaged checkpoint: %s", error)
        except CheckpointError as error:
            log.warning("skipping a checkpoint, which is kept: %s", error)
        else:
            return checkpoint
    return None


def list_checkpoints(folder: str | PathLike[str]) -> list[Path]:
    """The checkpoints of a run, oldest first, damaged ones included; a link to a folder is one, too."""
    found = [path for path in Path(folder).glob("round_*") if _is_named(path) and path.is_dir()]
    return sorted(found, key=round_of)


def _is_named(path: Path) -> bool:
    """Whether a name is one that :func:`checkpoint_name` gives, and not merely similar (``round_²``)."""
    return bool(re.fullmatch("round_[0-9]+", path.name)) and path.name == checkpoint_name(round_of(path))


def round_of(checkpoint: Path) -> int:
    """How many rounds were done when a checkpoint was taken, by its name."""
    return int(checkpoint.name.removeprefix("round_"))


def checkpoint_name(num_rounds: int) -> str:
    """Folder name of the checkpoint taken when ``num_rounds`` rounds are done."""
    return f"round_{num_rounds:06d}"


def set_aside(path: Path) -> Path:
    """Move what is no damaged checkpoint out of the way, to the folder ``set_aside`` beside it.

    Returns:
        Where it is now.
    """
    folder = path.parent / SET_ASIDE
    folder.mkdir(exist_ok=True)
    number, target = 1, folder / path.name
    while os.path.lexists(target):
        number += 1
        target = folder / f"{path.name}_{number}"
    os.rename(path, target)
    log.warning("%s is kept as %s", path, target)
    return target


def remove_checkpoint(folder: str | PathLike[str]) -> None:
    """Remove a checkpoint if it is there; a removal cut short leaves nothing that looks like one.

    A link or a file in its place is left alone, and so is what cannot be removed, with a warning.
    """
    folder = Path(folder)
    if folder.is_dir() and not folder.is_symlink():
        doomed = _beside(folder, "removing")
        try:
            _remove(doomed)
            os.rename(folder, doomed)
            _remove(doomed)
        except OSError as error:
            log.warning("%s cannot be removed (%s)", folder, error)


def remove_leftovers(folder: str | PathLike[str]) -> None:
    """Remove what writers and removers of checkpoints left that were killed; none may be at work.

    Args:
        folder: The folder that holds ``round_000010``, ...; it may be absent.
    """
    for purpose in _PURPOSES:
        for leftover in Path(folder).glob(f".round_*.{purpose}"):
            _remove(leftover)


def _beside(folder: Path, purpose: str) -> Path:
    return folder.with_name(f".{folder.name}.{purpose}")


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _fingerprint(path: Path) -> dict[str, str | int]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
