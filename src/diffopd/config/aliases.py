"""Choices that are another choice with a few words changed: an entry of ``conf/aliases.yaml``, not a file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffopd.config.folder import config_folder

FILE = "aliases.yaml"
GLOBAL = ("experiment", "task", "variant")
"""Groups whose choices set keys of the whole config."""


@cache
def aliases() -> Mapping[str, Mapping[str, Any]]:
    """``group/name`` -> what a file of that name would hold."""
    found: Any = OmegaConf.to_container(OmegaConf.load(Path(config_folder()) / FILE))
    return found


def choices(group: str) -> list[str]:
    """Every choice of a config group, files and aliases.

    Examples:
        >>> [name for name in choices("adapter") if name.startswith("merged")]
        ['merged_elementwise', 'merged_exact', 'merged_svd']
    """
    files = {file.stem for file in (Path(config_folder()) / group).glob("*.yaml")}
    return sorted(files | {alias.rpartition("/")[2] for alias in aliases() if alias.startswith(f"{group}/")})
