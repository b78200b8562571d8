"""An adapter handed on to other tools and to the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from diffopd.api.given import Place, listed
from diffopd.api.training import Run
from diffopd.check import config_errors
from diffopd.command.called import call_command, compose_command
from diffopd.config.arguments import ADAPTER, hydra_arguments, quoted
from diffopd.config.saved import CONFIG


def export_adapter(
    source: Run | Place,
    to: Place,
    *,
    format: str = "diffusers",
    push_to_hub: str | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Hand an adapter on to other tools, as ``diffopd export`` does: written, read back, compared.

    Args:
        source: A finished run or its folder; or an adapter, on the model that ``overrides`` choose.
        to: Folder to make; must not be there, or be empty.
        format: ``peft``, ``diffusers``, ``comfyui`` or ``merged``.
        push_to_hub: ``owner/name`` on the hub that gets the folder in one commit; None = none.
        overrides: Of ``conf/export.yaml``, e.g. ``["model_dtype=bf16"]``.

    Returns:
        The folder, with a model card.

    Raises:
        ConfigError: If the adapter does not fit, changes nothing, or reads back as something else, or the hub
            does not take it.
    """
    from diffopd.export.__main__ import run
    from diffopd.files.paths import expanded

    place = os.fspath(source.folder if isinstance(source, Run) else source)
    setting = "run" if isinstance(source, Run) or (Path(place) / CONFIG).is_file() else "adapter"
    given = [f"{setting}={quoted(place)}", f"to={quoted(os.fspath(to))}", f"format={format}"]
    given += [] if push_to_hub is None else [f"push_to_hub={quoted(push_to_hub)}"]
    cfg = compose_command("export", [*given, *listed(overrides)], arguments=hydra_arguments, short=ADAPTER)
    call_command(config_errors()(run), cfg, "export", short=ADAPTER)
    return expanded(os.fspath(to))


def push_to_hub(folder: Place, repository: str, *, private: bool = True) -> str:
    """Put an exported folder on the hub, in one commit: all of it is there afterwards, or nothing.

    The token is that of the environment (``HF_TOKEN``) or of ``hf auth login``.

    Args:
        folder: Of :func:`export_adapter`.
        repository: ``owner/name``; made if it is not there.
        private: Whether a repository that is made is private; one that is there stays as it is.

    Returns:
        The address of the commit.

    Raises:
        ValueError: If there is no network, token or permission, or the repository holds other files.
    """
    from diffopd.export.hub import push

    return push(Path(folder), repository, private=private)
