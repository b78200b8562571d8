"""Where the checkpoints of a run are: the only place that knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT = "checkpoints"
_CALLBACK = ".RoundCheckpoint"


def checkpoints_folder(values: Mapping[str, Any], folder: Path) -> Path:
    """The folder that a training's ``round_checkpoint`` callback saves in.

    Args:
        values: The training's config.
        folder: The run's folder; without the callback its ``checkpoints`` counts.
    """
    node = saving_callback(values)
    return folder / DEFAULT if node is None else Path(node["folder"])


def saving_callback(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Settings of the callback that saves checkpoints, or None."""
    for node in (values.get("callbacks") or {}).values():
        if isinstance(node, Mapping) and str(node.get("_target_")).endswith(_CALLBACK) and node.get("folder"):
            return node
    return None


def earlier_folder(saved: Mapping[str, Any], folder: Path) -> Path:
    """The same by the config that a run saved, whose folder may have been moved since.

    Args:
        saved: The saved config.
        folder: The run's folder now.
    """
    place = checkpoints_folder(saved, folder)
    before = (saved.get("paths") or {}).get("run")
    if before and place.is_relative_to(before):
        return folder / place.relative_to(before)
    return place
