"""One checkpoint = one folder of tensors, state and manifest, complete or absent."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from diffopd.checkpoint.tensor_files import (
    FORMATS,
    LARGEST_FILE,
    TENSORS,
    read_tensors,
    required,
    write_tensors,
)
from diffopd.checkpoint.tree import decode_tree, encode_tree
from diffopd.config.renamed import with_current_names
from diffopd.files.atomic import flush, give_usual_mode
from diffopd.files.fingerprint import sha256_of

log = logging.getLogger(__name__)

STATE, MANIFEST = "state.json", "manifest.json"
ADAPTER = "adapter"
"""Folder within a checkpoint of the adapter that its run would export, in PEFT's format."""
INPUTS = "inputs"
"""Entry of a training's state: fingerprints of the files it learns from."""
SETTINGS = "settings"
"""Entry of a training's state: what of its config affects the result, flat."""
SET_ASIDE = "set_aside"
"""Folder beside the checkpoints for what had the name of one that was to be saved, or a later one."""
_PURPOSES = ("writing", "replaced", "removing")
"""Endings of hidden folders beside a checkpoint, each there for a moment."""


class CheckpointError(RuntimeError):
    """A checkpoint that is absent, incomplete, altered, of another format, or that could not be read."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is not what was written: incomplete or altered. Only such a one is ever removed."""


def write_checkpoint(
    state: Any,
    folder: str | PathLike[str],
    parts: Mapping[str, Callable[[Path], Any]] | None = None,
    *,
    largest_file: int = LARGEST_FILE,
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
        largest_file: Bytes of tensors in one file at most; a larger state is in several, with an index.

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
        _fill(temporary, tensors, text, parts or {}, largest_file)
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
    folder: Path,
    tensors: Mapping[str, Tensor],
    text: str,
    parts: Mapping[str, Callable[[Path], Any]],
    largest_file: int,
) -> None:
    """Write a checkpoint's files, and have them reach the disk."""
    others = list[str]()
    for name, write in parts.items():
        write(folder / name)
        found = sorted(path for path in (folder / name).rglob("*") if path.is_file())
        others += [path.relative_to(folder).as_posix() for path in found]
    files, version = write_tensors(folder, tensors, others, largest_file)
    (folder / STATE).write_text(text)
    names = [*files, STATE, *others]
    manifest = {"version": version, "files": {name: _fingerprint(folder / name) for name in names}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    give_usual_mode(folder)
    for path in (*folder.rglob("*"), folder):
        flush(path)


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
    verified = json.loads((folder / MANIFEST).read_bytes())["files"]
    try:
        tensors = read_tensors(folder, device, verified)
    except ValueError as error:
        why = f"{error}, which {MANIFEST} does not name"
        raise DamagedCheckpointError(f"{why}; use an earlier checkpoint") from error
    return decode_tree(json.loads((folder / STATE).read_text()), tensors)


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
    if version not in FORMATS:
        known = ", ".join(map(str, FORMATS))
        raise CheckpointError(f"{folder} has format {version!r}, this version reads formats {known}")
    for name in dict.fromkeys((required(version), STATE, *files)):
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
