"""One checkpoint = one folder of tensors, state and manifest, complete or absent."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from diffopd.checkpoint.tree import decode_tree, encode_tree
from diffopd.files import sha256_of

log = logging.getLogger(__name__)

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
INPUTS = "inputs"
"""Entry of a training's state: fingerprints of the files it learns from."""
_VERSION = 1
_PURPOSES = ("writing", "replaced", "removing")
"""Endings of hidden folders beside a checkpoint, each there for a moment."""


class CheckpointError(RuntimeError):
    """A checkpoint that is absent, incomplete or altered."""


def write_checkpoint(state: Any, folder: str | PathLike[str]) -> Path:
    """Write ``state`` so that ``folder`` holds either all of it or what it held before.

    The files go to a temporary folder beside ``folder`` (a rename is atomic only within one file system),
    reach the disk, and the temporary folder is renamed. Replacing an existing checkpoint sets it aside for
    the moment between two renames.

    Args:
        state: Anything :func:`~diffopd.checkpoint.tree.encode_tree` accepts.
        folder: Where the checkpoint will be.

    Returns:
        ``folder``.

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
        _fill(temporary, tensors, text)
    except Exception:
        _remove(temporary)  # a full disk needs the room
        raise

    if folder.exists():
        os.rename(folder, replaced)
    os.rename(temporary, folder)
    _flush(folder.parent)
    _remove(replaced)
    return folder


def _fill(folder: Path, tensors: Mapping[str, Tensor], text: str) -> None:
    """Write a checkpoint's files, and have them reach the disk."""
    save_file(dict(tensors), folder / TENSORS)
    (folder / STATE).write_text(text)
    manifest = {"version": _VERSION, "files": {n: _fingerprint(folder / n) for n in (TENSORS, STATE)}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in (*folder.iterdir(), folder):
        _flush(path)


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
    return decode_tree(json.loads((folder / STATE).read_text()), load_file(folder / TENSORS, device=device))


def read_inputs(folder: str | PathLike[str]) -> dict[str, str]:
    """Fingerprints of the files that the training of a checkpoint learns from; empty if it holds none."""
    return json.loads((Path(folder) / STATE).read_text()).get(INPUTS, {})


def verify_checkpoint(folder: str | PathLike[str]) -> None:
    """Compare every file of a checkpoint with the size and SHA-256 in its manifest.

    Raises:
        CheckpointError: If a file is missing or differs, or the manifest cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"no checkpoint at {folder}: a checkpoint is a folder with {TENSORS}, {STATE}, {MANIFEST}"
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        version, files = manifest["version"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST} cannot be read ({error!r}); use an earlier checkpoint"
        ) from error
    if version != _VERSION:
        raise CheckpointError(f"{folder} has format {version!r}, this version reads format {_VERSION}")
    for name in (TENSORS, STATE):
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; use an earlier checkpoint")
        found = _fingerprint(path)
        if found != files.get(name):
            raise CheckpointError(
                f"{path} is not what was written (manifest: {files.get(name)}, found: {found}); "
                "use an earlier checkpoint"
            )


def latest_valid_checkpoint(folder: str | PathLike[str]) -> Path | None:
    """The newest intact checkpoint of a run; damaged ones are skipped with a warning.

    Args:
        folder: The folder that holds ``round_000010``, ``round_000020``, ...; it may be absent.

    Returns:
        The checkpoint with the highest round, or None.
    """
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            verify_checkpoint(checkpoint)
        except CheckpointError as error:
            log.warning("skipping a damaged checkpoint: %s", error)
        else:
            return checkpoint
    return None


def list_checkpoints(folder: str | PathLike[str]) -> list[Path]:
    """The checkpoints of a run, oldest first, damaged ones included."""
    found = [path for path in Path(folder).glob("round_*") if path.name.removeprefix("round_").isdigit()]
    return sorted(found, key=round_of)


def round_of(checkpoint: Path) -> int:
    """How many rounds were done when a checkpoint was taken, by its name."""
    return int(checkpoint.name.removeprefix("round_"))


def superfluous(checkpoints: Sequence[Path], keep_last: int, keep_every_n_rounds: int | None) -> list[Path]:
    """Those checkpoints that need not be kept.

    Args:
        checkpoints: Oldest first.
        keep_last: How many of the newest to keep.
        keep_every_n_rounds: Those after a multiple of so many rounds are kept, too; None for no others.
    """
    return [
        checkpoint
        for checkpoint in checkpoints[:-keep_last]
        if keep_every_n_rounds is None or round_of(checkpoint) % keep_every_n_rounds
    ]


def checkpoint_name(num_rounds: int) -> str:
    """Folder name of the checkpoint taken when ``num_rounds`` rounds are done."""
    return f"round_{num_rounds:06d}"


def remove_checkpoint(folder: str | PathLike[str]) -> None:
    """Remove a checkpoint if it is there; a removal cut short leaves nothing that looks like one."""
    folder = Path(folder)
    if folder.is_dir():
        doomed = _beside(folder, "removing")
        _remove(doomed)
        os.rename(folder, doomed)
        _remove(doomed)


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


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _fingerprint(path: Path) -> dict[str, str | int]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _flush(path: Path) -> None:
    """Force a file, or a folder's list of entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
