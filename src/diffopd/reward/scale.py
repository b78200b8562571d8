"""The two scales in which papers give learned scores."""

from __future__ import annotations

from typing import Literal, cast, get_args

Scale = Literal["training", "table"]
"""``"training"``: what the released reinforcement learning code maximizes. ``"table"``: what tables of
results print. For most scorers both are one number."""


def checked_scale(scale: str) -> Scale:
    """``scale`` if there is one of that name.

    Raises:
        ValueError: If there is none.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"reward.scale={scale} must be one of {', '.join(get_args(Scale))}")
    return cast(Scale, scale)
