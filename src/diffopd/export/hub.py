"""A finished export on the hub: one commit with all of it, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from diffopd.weights.hub import HUB_ERRORS, tell_at_once

UPLOAD_ERRORS = (*HUB_ERRORS, ValueError, RuntimeError)
"""A look-up's, a card that the hub refuses, and a large file that does not arrive."""
_OF_THE_HUB = ".gitattributes"
"""The file that a repository has from the beginning."""


def check_hub(repository: str, *, private: bool) -> None:
    """Ask the hub whether it would take a push, before anything is computed for it.

    The token is found by huggingface_hub, in the environment or where ``hf auth login`` keeps it, and never
    read here.

    Args:
        repository: ``owner/name``.
        private: Whether the files are to be private.

    Raises:
        ValueError: If the hub is out of reach, there is no token, or one that may not write there, or the
            repository is public and the files are not to be.
    """
    _visible_files(_api(repository), repository, private=private)


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Put the files of a folder into a repository of the hub, which is made if it is not there.

    Args:
        folder: A finished export, with its card.
        repository: ``owner/name``.
        private: Whether a repository that is made is private.

    Returns:
        The address of the commit.

    Raises:
        ValueError: As :func:`check_hub`; if the folder is no export, the repository holds files that are not
            replaced, or the upload fails. The commit is made last, so that nothing is there in that case.
    """
    setting = f"push_to_hub={repository}"
    if not (folder / "README.md").is_file():
        raise ValueError(f"{setting}: {folder} holds no README.md; give the folder that an export made")
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    api = _api(repository)
    there = _visible_files(api, repository, private=private)
    if others := sorted((there or set()) - files - {_OF_THE_HUB}):
        raise ValueError(
            f"{setting}: the repository holds {', '.join(others[:3])}{', ...' if others[3:] else ''}, which "
            "this export does not replace; give a name that is not there yet, or remove these files"
        )
    try:
        if there is None:
            api.create_repo(repository, private=private)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Weights exported by diffopd"
        )
    except UPLOAD_ERRORS as error:
        raise ValueError(f"{setting}: nothing was uploaded, {_why(error)}") from error
    try:
        arrived = set(api.list_repo_files(repository, revision=commit.oid))
    except HUB_ERRORS as error:
        raise ValueError(
            f"{setting}: {commit.commit_url} was made and cannot be looked at, {_why(error)}"
        ) from error
    if missing := sorted(files - arrived):
        raise ValueError(
            f"{setting}: {commit.commit_url} lacks {', '.join(missing)}; does a .gitignore in the repository "
            "name them?"
        )
    return str(commit.commit_url)


def _api(repository: str) -> HfApi:
    """The hub, for a token that may write to ``repository`` as far as the token says."""
    setting = f"push_to_hub={repository}"
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"{setting} must be owner/name: {error}") from error
    owner, separator, _ = repository.partition("/")
    if not separator:
        raise ValueError(f"{setting} must be owner/name, as in push_to_hub=you/my_student")
    if huggingface_hub.constants.is_offline_mode():
        raise ValueError(f"{setting}: HF_HUB_OFFLINE is set, so the hub is not asked; unset it to upload")
    if huggingface_hub.get_token() is None:
        raise ValueError(
            f"{setting}: no token of the hub is known; log in with `hf auth login`, or set HF_TOKEN to one "
            "that may write"
        )
    tell_at_once()
    api = HfApi(token=True, library_name="diffopd")
    try:
        me: dict[str, Any] = api.whoami()
    except HUB_ERRORS as error:
        raise ValueError(f"{setting}: {_why(error)}") from error
    token = me.get("auth", {}).get("accessToken", {})
    if token.get("role") == "read":
        raise ValueError(f"{setting}: the token may only read; make one with the role write at the hub")
    owners = [me["name"], *(org["name"] for org in me.get("orgs", []))]
    if owner not in owners and token.get("role") == "write":  # a fine-grained one need not show its places
        raise ValueError(
            f"{setting}: the token is of {me['name']}, who writes to {', '.join(owners)} and not to {owner}"
        )
    return api


def _visible_files(api: HfApi, repository: str, *, private: bool) -> set[str] | None:
    """Files of the repository; None if there is none.

    Raises:
        ValueError: If it is public and the files are not to be.
    """
    setting = f"push_to_hub={repository}"
    try:
        info = api.model_info(repository)
    except RepositoryNotFoundError:
        return None
    except HUB_ERRORS as error:
        raise ValueError(f"{setting}: {_why(error)}") from error
    if private and not info.private:
        raise ValueError(
            f"{setting}: the repository is there and public; set hub_private=false if everybody may read the "
            "export, or give another name"
        )
    return {file.rfilename for file in info.siblings or ()}


def _why(error: Exception) -> str:
    """What went wrong, in a sentence; permissions in words of what to do."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status == 401:
        return "the hub does not accept the token; log in again with `hf auth login`, or renew HF_TOKEN"
    if status == 403:
        return f"the token may not write there; use one with the role write ({_first_line(error)})"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = f": {error.__cause__}" if isinstance(error, RuntimeError) and error.__cause__ else ""
    return (lines[0] if lines else type(error).__name__) + cause
