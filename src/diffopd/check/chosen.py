"""What a group's choice builds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffopd.check.source import read_target


def target_of(values: Mapping[str, Any], group: str) -> str:
    """Name of the class a group's choice builds, empty if there is none.

    Args:
        values: A composed config, or a node of it.
        group: The group.
    """
    node = values.get(group)
    return str(node.get("_target_", "")) if isinstance(node, Mapping) else ""


def lacks(values: Mapping[str, Any], group: str, name: str) -> bool:
    """Whether the class that a group names is known not to have something."""
    known = read_target(target_of(values, group))
    return known is not None and not known.function and not known.constants.get(name)
