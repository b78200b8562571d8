"""Files that are whole or absent, their fingerprints, and paths inside the package."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.resources
import json
import logging
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

log = logging.getLogger(__name__)

PACKAGE_PREFIX = "package://"


def resolve_path(path: str | PathLike[str]) -> str:
    """The place ``path`` names, with ``package://`` meaning the installed package's own folder.

    Args:
        path: A file system path, a hub id, or e.g. ``"package://assets/mini_sd3"``.

    Returns:
        An absolute path for the package's own files, otherwise ``path`` with ``~`` expanded.

    Raises:
        ValueError: If ``~`` stands for a home folder that is not known.

    Examples:
        >>> resolve_path("runs/one")
        'runs/one'
    """
    text = os.fspath(path)
    if text.startswith(PACKAGE_PREFIX):
        return str(importlib.resources.files("diffopd").joinpath(text.removeprefix(PACKAGE_PREFIX)))
    return str(expanded(text)) if text.startswith("~") else text


def expanded(path: str | PathLike[str]) -> Path:
    """``path`` with ``~`` replaced by the home folder.

    Raises:
        ValueError: If it starts with ``~`` and there is no home folder: in a container, HOME may not be set
            and the user id have no entry in the password file.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{os.fspath(path)}: the home folder that ~ stands for is not known ({error}); set HOME, or "
            "give a path without ~"
        ) from error


def home() -> Path | None:
    """The user's home folder; None where there is none, see :func:`expanded`."""
    with contextlib.suppress(RuntimeError):
        return Path.home()
    return None


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
    try:  # there are folders, such as those of /proc, that say one may and mean not
        os.rmdir(tempfile.mkdtemp(dir=place, prefix=".diffopd_"))
    except OSError as error:
        return None if is_full_disk(error) else f"nothing can be made in {place} ({error.strerror})"
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


def sha256_of(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LARGE = 64 * 2**20
"""Bytes from which on a file's SHA-256 is worth remembering."""


def cached_sha256_of(path: str | PathLike[str]) -> str:
    """SHA-256 of a file that is not expected to change, computed once for a large one.

    From ``LARGE`` bytes on it is kept in ``~/.cache/diffopd/sha256`` (or ``XDG_CACHE_HOME``) under the file's
    path, size, inode and times of change, so a file that was written again is read again. A note that is
    damaged is computed again; without a home folder none is kept. Damage to the file itself that leaves these
    as they were goes unseen: to verify a file, use :func:`sha256_of`.
    """
    note = _note_of(Path(path))
    if note is None:
        return sha256_of(path)
    with contextlib.suppress(OSError):
        kept = note.read_bytes()
        if kept == _hash_note(kept[:64]):
            return kept[:64].decode()
        log.warning("%s is damaged; the SHA-256 of %s is computed again", note, path)
    found = sha256_of(path)
    with (
        contextlib.suppress(OSError),
        replacing(note) as temporary,
    ):  # a cache that cannot be kept is no error
        temporary.write_bytes(_hash_note(found.encode()))
    return found


def is_hashed(path: str | PathLike[str]) -> bool:
    """Whether :func:`cached_sha256_of` answers at once: the file is small, or its SHA-256 is known."""
    file = Path(path)
    note = _note_of(file)
    return file.stat().st_size < LARGE if note is None else note.is_file()


def _note_of(path: Path) -> Path | None:
    """Where the SHA-256 of a file is kept; None if it is not worth it, or there is no home folder."""
    file = path.resolve()
    about = file.stat()
    if about.st_size < LARGE:
        return None
    try:
        root = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except ValueError:
        return None
    key = f"{file} {about.st_dev} {about.st_ino} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"
    return root / "diffopd" / "sha256" / hashlib.sha256(key.encode()).hexdigest()


def _hash_note(value: bytes) -> bytes:
    """A SHA-256 in hexadecimal with a checksum of its own."""
    return value + b" " + hashlib.sha256(value).hexdigest()[:16].encode() + b"\n"


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
