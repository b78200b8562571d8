"""Files that are whole or absent, their fingerprints, and paths inside the package."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.resources
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

PACKAGE_PREFIX = "package://"


def resolve_path(path: str | PathLike[str]) -> str:
    """The place ``path`` names, with ``package://`` meaning the installed package's own folder.

    Args:
        path: A file system path, a hub id, or e.g. ``"package://assets/mini_sd3"``.

    Returns:
        An absolute path for the package's own files, otherwise ``path`` with ``~`` expanded.

    Examples:
        >>> resolve_path("runs/one")
        'runs/one'
    """
    text = os.fspath(path)
    if text.startswith(PACKAGE_PREFIX):
        return str(importlib.resources.files("diffopd").joinpath(text.removeprefix(PACKAGE_PREFIX)))
    return os.path.expanduser(text)


def is_hub_path(path: str) -> bool:
    """Whether a path that is not there may mean ``owner/name`` on the hub, with or without a folder in it.

    A path whose first part is a folder here is taken for one that was mistyped.

    Examples:
        >>> is_hub_path("someone/teachers/ocr"), is_hub_path("/teachers/ocr"), is_hub_path("ocr")
        (True, False, False)
    """
    first, _, rest = path.partition("/")
    local = path.startswith((".", "/", "~", PACKAGE_PREFIX)) or "\\" in path
    return not local and bool(first) and bool(rest.strip("/")) and not Path(first).is_dir()


def existing_parent(path: str | PathLike[str]) -> Path:
    """``path`` itself, or the nearest folder above it that is there."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return place


def why_not_writable(folder: str | PathLike[str]) -> str | None:
    """Why no file can be made in ``folder``, which need not be there yet; None if one can."""
    place = existing_parent(folder)
    if not place.is_dir():
        return f"{place} is a file, where a folder is needed"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"no permission to write in {place}, or it is read-only"
    return None


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
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".writing"))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes private folders
        for file in (*(entry for entry in temporary.rglob("*") if entry.is_file()), temporary):
            _flush(file)
        temporary.rename(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def atomic_write_json(path: str | PathLike[str], value: Any) -> None:
    """Write ``value`` as JSON with sorted keys, whole or not at all; NaN is refused.

    Args:
        path: The file.
        value: What the ``json`` module can write.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def atomic_save_safetensors(
    path: str | PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to one safetensors file, whole or not at all.

    Args:
        path: The file.
        tensors: Copied to the CPU.
        metadata: Strings for the file's header; ``format`` is added.
    """
    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    atomic_produce(path, lambda temporary: save_file(copies, temporary, {"format": "pt", **(metadata or {})}))


def atomic_produce(path: str | PathLike[str], write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file that then takes the place of ``path``."""
    with replacing(path) as temporary:
        write(temporary)


def sha256_of(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LARGE = 64 * 2**20
"""Bytes from which on a file's SHA-256 is worth remembering."""


def cached_sha256_of(path: str | PathLike[str]) -> str:
    """SHA-256 of a file that is not expected to change, computed once for a large one.

    From ``LARGE`` bytes on it is kept in ``~/.cache/diffopd/sha256`` (or ``XDG_CACHE_HOME``) under the file's
    path, size, inode and times of change, so a file that was written again is read again. Damage that
    leaves these as they were goes unseen: to verify a file, use :func:`sha256_of`.
    """
    note = _note_of(Path(path))
    if note is None:
        return sha256_of(path)
    with contextlib.suppress(OSError):
        return note.read_text(encoding="ascii")
    found = sha256_of(path)
    with (
        contextlib.suppress(OSError),
        replacing(note) as temporary,
    ):  # a cache that cannot be kept is no error
        temporary.write_text(found, encoding="ascii")
    return found


def is_hashed(path: str | PathLike[str]) -> bool:
    """Whether :func:`cached_sha256_of` answers at once: the file is small, or its SHA-256 is known."""
    file = Path(path)
    note = _note_of(file)
    return file.stat().st_size < LARGE if note is None else note.is_file()


def _note_of(path: Path) -> Path | None:
    """Where the SHA-256 of a file is kept; None if it is not worth it."""
    file = path.resolve()
    about = file.stat()
    if about.st_size < LARGE:
        return None
    key = f"{file} {about.st_dev} {about.st_ino} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return root / "diffopd" / "sha256" / hashlib.sha256(key.encode()).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    """Force a file, or a folder's list of entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
