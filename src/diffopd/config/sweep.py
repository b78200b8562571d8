"""Where runs go: short folder names that no two settings of a sweep (``-m``) share."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger(__name__)

LONGEST_NAME = 100
"""Characters of a folder name; file systems allow 255, and a run writes files below it."""
VARIED = "${hydra.job.override_dirname}"
"""What ``hydra.sweep.subdir`` calls the part of a folder's name that says what the sweep varies."""
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"

_UNSAFE = re.compile(r"[^\w.+@=,-]", re.ASCII)


def setting_name(varied: Mapping[str, str]) -> str:
    """A folder name for what one job of a sweep has otherwise than the others.

    A name that cannot be written as it is, for its length or a character such as ``/``, ends in a hash of it,
    so different settings never get one name.

    Args:
        varied: Setting -> its value as typed.

    Examples:
        >>> setting_name({"sampler.noise_level": "0.3", "loss": "opd"})
        'loss=opd,sampler.noise_level=0.3'
        >>> setting_name({"adapter.start": "runs/a/adapter"})
        'adapter.start=runs_a_adapter_33812d66'
    """
    name = ",".join(f"{key}={value}" for key, value in sorted(varied.items()))
    plain = _UNSAFE.sub("_", name)
    ambiguous = any(set(",=") & set(value) for value in varied.values())
    if plain == name and len(name) <= LONGEST_NAME and not ambiguous:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{plain[: LONGEST_NAME - 9]}_{digest}"


def named_elsewhere(overrides: Mapping[str, Override]) -> set[str]:
    """Settings that the other parts of a folder's path name already, unless these are typed, too."""
    given = {key.lstrip("+") for key in overrides}
    return {
        "run_id",
        *(() if "run_id" in given else ("seed",)),
        *(() if "name" in given else ("experiment", "+experiment")),
    }


def register_given() -> None:
    """Make ``${given:paths.root}`` known: a setting that must be text, as null would be a folder "None"."""
    OmegaConf.register_new_resolver("given", _given, replace=True)


def _given(setting: str, *, _root_: DictConfig) -> str:
    value = OmegaConf.select(_root_, setting)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{setting}={'null' if value is None else value} must be text, and not empty")
    return value


def warn_of_unused_launcher(hydra: Any) -> None:
    """Say that a launcher is for sweeps, where a single run has one in its config."""
    launcher = hydra.launcher.get("_target_")
    if hydra.mode != RunMode.MULTIRUN and launcher != BASIC:
        log.warning("the launcher %s is for sweeps: this is a single run, which does not use it", launcher)
