"""Scores that nothing is trained on, as cards and tables have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HIGHER, LOWER, NEITHER = "higher", "lower", "neither"
"""Which direction of a value is better."""
BETTER = (HIGHER, LOWER, NEITHER)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The value of one metric over the images of several tasks together.

    Attributes:
        value: In the metric's unit.
        n: Number of images; None where it is not recorded.
        better: One of ``BETTER``.
        conditions: What it was measured with (``diffopd.evaluation.held_out_conditions_of``): it stands
            beside values of the same conditions only. Empty in results of before these were kept.
    """

    value: float
    n: int | None
    better: str
    conditions: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.better not in BETTER:
            raise ValueError(f"better is {self.better!r}, it must be one of {', '.join(BETTER)}")

    @staticmethod
    def of_each(raw: Mapping[str, Mapping[str, Any]]) -> dict[str, HeldOut]:
        """Metric -> value, from what JSON holds of one benchmark."""
        return {name: HeldOut(**entry) for name, entry in raw.items()}
