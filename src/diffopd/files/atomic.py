"""Files and folders that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

if TYPE_CHECKING:  # programs that write no tensors start without torch
    from torch import Tensor


def is_full_disk(error: BaseException) -> bool:
    """Whether a write failed for want of space; safetensors says it in words alone."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return isinstance(error, SafetensorError) and "No space left on device" in str(error)


@contextlib.contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write; when the block ends well it takes the place of ``path``.

    The temporary file lies beside ``path``, since a rename is atomic only within one file system, and reaches
    the disk before the rename. If the block raises, ``path`` stays as it was.

    Args:
        path: The file to write; its folder is made if need be.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".writing")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        give_usual_mode(temporary)  # mkstemp makes private files
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder to fill; when the block ends well, all on disk, it becomes ``path``.

    If the block raises, nothing is left.

    Args:
        path: The folder to make; there must be nothing of that name.

    Raises:
        FileExistsError: If there is.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; remove it, or choose another folder")
    with _filled_beside(path) as temporary:
        yield temporary
        _to_disk(temporary)
        temporary.rename(path)
        flush(path.parent)


@contextlib.contextmanager
def replacing_folder(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder to fill; when the block ends well, it is on disk in the place of ``path``.

    What was there is moved aside for the moment between two renames, then removed. If the block raises, it
    stays as it was.

    Args:
        path: The folder, which may be there.
    """
    path = Path(path)
    with _filled_beside(path) as temporary:
        yield temporary
        _to_disk(temporary)
        replaced = temporary.with_suffix(".replaced")
        if path.exists():
            path.rename(replaced)
        try:
            temporary.rename(path)
        except OSError:
            if replaced.exists():  # the only copy now
                replaced.rename(path)
            raise
        flush(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def _filled_beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``; whatever is left of it at the end is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".writing"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _to_disk(temporary: Path) -> None:
    give_usual_mode(temporary)  # mkdtemp makes private folders
    flush_all(temporary)


def atomic_write_text(path: str | PathLike[str], text: str) -> None:
    """Write a text, whole or not at all; a file that holds it already is left as it is."""
    content = text.encode()
    with contextlib.suppress(OSError):
        if Path(path).read_bytes() == content:
            return
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_json(path: str | PathLike[str], value: Any) -> None:
    """Write ``value`` as JSON with sorted keys, whole or not at all; NaN is an error.

    Args:
        path: The file.
        value: What the ``json`` module can write.
    """
    atomic_write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def atomic_save_safetensors(
    path: str | PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to one safetensors file, whole or not at all.

    Args:
        path: The file.
        tensors: Copied to the CPU.
        metadata: Strings for the file's header; ``format`` is added.
    """
    from safetensors.torch import save_file

    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_produce(path, lambda temporary: save_file(copies, temporary, {"format": "pt", **(metadata or {})}))


def atomic_produce(path: str | PathLike[str], write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file that then takes the place of ``path``."""
    with replacing(path) as temporary:
        write(temporary)


def give_usual_mode(place: Path) -> None:
    """Give a file, or a folder with all that is in it, the permissions that ``open`` gives new ones.

    Temporary files are private, and safetensors writes through one.
    """
    mask = os.umask(0)
    os.umask(mask)
    for entry in (place, *(place.rglob("*") if place.is_dir() else ())):
        if not entry.is_symlink():
            entry.chmod((0o777 if entry.is_dir() else 0o666) & ~mask)


def flush_all(folder: Path) -> None:
    """Force all files in a folder, and its lists of entries, to the disk."""
    for entry in (*folder.rglob("*"), folder):
        flush(entry)


def flush(path: Path) -> None:
    """Force a file, or a folder's list of entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
