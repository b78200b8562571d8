"""The group of processes that train together."""

from __future__ import annotations

from torch import distributed


def num_processes() -> int:
    """How many processes train together."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1
