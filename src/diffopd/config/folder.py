"""Where the configs are: in the wheel beside the code, in a checkout at the top level. And their settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def config_folder() -> str:
    """Absolute path of ``conf/``."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "conf", package.parents[1] / "conf")
    found = next((folder for folder in candidates if (folder / "train.yaml").is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no train.yaml in {' or '.join(map(str, candidates))}; reinstall diffopd")
    return str(found)


def flat_settings(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """Config path and value of every leaf of a config of plain values.

    Examples:
        >>> flat_settings({"sampler": {"num_steps": 10}, "seed": 0})
        [('sampler.num_steps', 10), ('seed', 0)]
    """
    if isinstance(node, Mapping) and node:
        return [
            leaf
            for key, value in node.items()
            for leaf in flat_settings(value, f"{path}.{key}" if path else str(key))
        ]
    return [(path, node)]
