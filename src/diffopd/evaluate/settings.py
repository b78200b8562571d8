"""Which settings of an evaluation its results depend on, and the folder's name that they make."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from diffopd.config.folder import flat_settings
from diffopd.config.harmless import EVALUATION, is_harmless
from diffopd.config.renamed import with_first_names
from diffopd.files.paths import resolve_path

_LABEL_LENGTH = 40
_TAKEN = "taken_adapter"
"""Entry of a config's cache: the adapters that paths in it were found to name."""


def evaluated_settings(cfg: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """What affects an evaluation's results beyond rounding: config path -> value.

    Args:
        cfg: A composed ``conf/evaluate.yaml``.
        resolve: Whether references are followed.
    """
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=resolve))
    return {path: value for path, value in flat_settings(plain) if not is_harmless(path, EVALUATION)}


def evaluation_id(*, _root_: DictConfig) -> str:
    """A name for an evaluation's folder: the adapter's, and eight letters made of all that is evaluated.

    The same command has the same name, whatever its batch size, devices and threads, and so finds its folder
    again. A run has the name of the adapter that is taken of it: once it has trained on, another one.
    """
    settings = evaluated_settings(_root_, resolve=False)
    adapter = settings["adapter_path"] = _named(_root_, settings.get("adapter_path"))
    label = "base" if adapter is None else "_".join(PurePosixPath(str(adapter)).parts[-3:])
    label = re.sub(r"[^\w.]+", "_", label).strip("_.")[-_LABEL_LENGTH:]
    text = json.dumps(with_first_names(settings), sort_keys=True, default=str)
    return f"{label}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def taken_adapter(cfg: DictConfig, adapter: str) -> str:
    """The adapter of a checkpoint or a run, which is found and verified once for a config.

    So an evaluation is of the adapter that its folder is named after, though the run trains on meanwhile.

    Args:
        cfg: Remembers it, as do its copies.
        adapter: As in :func:`~diffopd.run.trained.adapter_of`.

    Raises:
        ValueError: If the checkpoint is damaged, or there is no adapter in the checkpoint or the run.
    """
    from diffopd.run.trained import adapter_of  # brings torch, and most commands end before they need it

    known = OmegaConf.get_cache(cfg)[_TAKEN]
    if adapter not in known:
        known[adapter] = adapter_of(adapter, setting="adapter")
    return known[adapter]


def _named(cfg: DictConfig, adapter: Any) -> Any:
    """What a folder is named after; that a checkpoint or a run has no adapter is told when it begins."""
    if not isinstance(adapter, str) or "${" in adapter or not _is_folder(adapter):
        return adapter
    with contextlib.suppress(ValueError):
        return taken_adapter(cfg, adapter)
    return adapter


def _is_folder(path: str) -> bool:
    """Whether a path names a folder here."""
    try:
        return Path(resolve_path(path)).is_dir()
    except ValueError:
        return False


def register_evaluation_id() -> None:
    """Let configs say ``${evaluation_id:}``."""
    OmegaConf.register_new_resolver("evaluation_id", evaluation_id, replace=True)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two evaluations, one a line."""
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    return [f"  {key}: {before.get(key, 'absent')} -> {now.get(key, 'absent')}" for key in changed]
