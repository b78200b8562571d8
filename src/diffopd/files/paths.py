"""Paths: inside the package, at home, on the hub; and where something can be written."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import tempfile
from os import PathLike
from pathlib import Path

from diffopd.files.atomic import is_full_disk

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
