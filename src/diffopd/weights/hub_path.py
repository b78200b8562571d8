"""Names of weights that are neither here nor on the hub, each kind of slip with a sentence of its own."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from diffopd.files.paths import PACKAGE_PREFIX, is_hub_path, resolve_path

FORM = "owner/name[/folder][/file.safetensors][@revision]"
"""How weights on the hub are named."""
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_PAGES = ("resolve", "blob", "tree", "raw")
"""What stands in a URL of the hub between the repository and the revision."""


def why_no_place(path: str) -> str | None:
    """Why ``path`` names neither something on disk nor something that the hub may have; None if it may.

    The hub is not asked.

    Examples:
        >>> why_no_place("@someone/teachers")
        'a name on the hub does not begin with @, which stands before a revision: give someone/teachers'
    """
    place = Path(resolve_path(path))
    if place.exists():
        return None
    if "://" in path and not path.startswith(PACKAGE_PREFIX):
        return _about_url(path)
    if path.startswith("@"):
        rest = path.lstrip("@")
        return f"a name on the hub does not begin with @, which stands before a revision: give {rest}"
    if is_hub_path(path):
        repository = path.partition("@")[0]
        if "/" in repository.strip("/"):
            return None
        return f"{repository!r} before the @ is no owner/name; a name on the hub is {FORM}"
    missing = f"there is no such folder or file ({place.absolute()})"
    owner = path.partition("/")[0]
    if _is_hidden(path, owner):
        return (
            f"{missing}. The folder {owner}/ is here, so the path is looked for in it and not on the hub; if "
            f"{path} is on the hub, rename that folder or start from another one"
        )
    return missing


def misplaced_revision(path: str) -> str | None:
    """What was meant by ``owner/name@revision/folder``, if it is that; a revision may have slashes itself.

    Examples:
        >>> misplaced_revision("someone/teachers@v2/ocr"), misplaced_revision("someone/teachers/ocr@v2")
        ('someone/teachers/ocr@v2', None)
    """
    repository, _, revision = path.partition("@")
    first, _, folder = revision.partition("/")
    return f"{repository.rstrip('/')}/{folder}@{first}" if folder else None


def _is_hidden(path: str, owner: str) -> bool:
    """Whether ``path`` would be a name on the hub if there were no folder named like its owner."""
    local = path.startswith((".", "/", "~", PACKAGE_PREFIX)) or "\\" in path
    return not local and bool(path.partition("/")[2].strip("/")) and Path(owner).is_dir()


def _about_url(url: str) -> str:
    parts = urlsplit(url)
    names = [name for name in parts.path.split("/") if name]
    if parts.hostname not in _HUB_HOSTS or len(names) < 2:
        return f"URLs are not fetched; download the file and give its path, or name it on the hub as {FORM}"
    owner, name, *rest = names
    revision = ""
    if rest and rest[0] in _PAGES:
        revision, rest = "".join(rest[1:2]), rest[2:]
    given = "/".join((owner, name, *rest)) + (f"@{revision}" if revision not in ("", "main") else "")
    return f"this is the URL of a page, and weights on the hub are given by name: {given}"
