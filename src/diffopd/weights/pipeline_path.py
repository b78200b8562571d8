"""Does a path name a pipeline on this disk, or may the hub have it?"""

from __future__ import annotations

import re
from pathlib import Path

from diffopd.files.names import INDEX
from diffopd.files.paths import resolve_path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def local_pipeline(path: str, setting: str = "model.path") -> Path | None:
    """The folder of a pipeline, or None for an ``owner/name`` that the hub may have.

    Args:
        path: A folder, ``package://...`` or a hub id.
        setting: Where the config names it, for messages.

    Raises:
        ValueError: If it is neither, with what it is instead.
    """
    where, place = f"{setting}={path}", Path(resolve_path(path))
    if place.is_dir():
        if not (place / INDEX).is_file():
            raise ValueError(f"{where}: {place} holds no {INDEX}; give the folder of a whole pipeline")
        return place
    if place.exists():
        raise ValueError(
            f"{where} is a file; give the folder of a whole pipeline, which holds {INDEX}, or owner/name on "
            "the hub"
        )
    if "://" in path:
        raise ValueError(f"{where} is an address; give a folder, or owner/name on the hub")
    if "@" in path:
        name, _, revision = path.rpartition("@")
        use = f"{setting}={name} model.revision={revision}" if name else f"{setting}={revision}"
        raise ValueError(f"{where}: there is no such folder ({place.absolute()}); for the hub write {use}")
    if not _HUB_ID.fullmatch(path):
        raise ValueError(
            f"{where}: there is no such folder ({place.absolute()}); give the folder of a whole pipeline, or "
            "owner/name on the hub"
        )
    owner = Path(path.partition("/")[0])
    if owner.is_dir():
        raise ValueError(
            f"{where}: there is no such folder ({place.absolute()}). {owner} is a folder here, so this is "
            "not looked up on the hub; for a model of the hub's, work in another folder or rename that one"
        )
    return None
