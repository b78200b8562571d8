"""A paper's claims as a file of ``conf/claims`` states them: one method better than another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from diffopd.report.methods.measured import QUANTITIES


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That one method is better than another.

    Attributes:
        id: Short name.
        figure: Where the paper says so.
        text: What it says.
        method: Key or label of the method said to be better.
        against: Key or label of the other. Of held-out values also ``base``, from the runs' own reports.
        metric: One of ``QUANTITIES``.
        task: The task whose reward or score is compared, or None for the mean over all. Of scores also
            several tasks separated by commas, for the mean over these. For ``held_out`` the metric, or
            several likewise.
        level: For ``rounds_to_level`` and ``minutes_to_level``: the reward to reach, as a share of the rise
            of ``against`` from its first to its last reward.
        margin: A difference that just matters, in the metric's unit or, as in ``10 %``, as a share of the
            mean of ``against``; None to leave equivalence untested.
    """

    id: str
    figure: str
    text: str
    method: str
    against: str
    metric: str
    task: str | None
    level: float | None
    margin: float | str | None

    def margin_from(self, against: float) -> float | None:
        """The margin in the metric's unit, given the mean of ``against``."""
        if isinstance(self.margin, str):
            return float(self.margin.removesuffix("%")) / 100 * abs(against)
        return self.margin


def read_claims(node: Mapping[str, Any]) -> list[Claim]:
    """Claims as a file of ``conf/claims`` has them: id -> the other fields.

    Raises:
        ValueError: If a key is missing or unknown, or a value makes no sense.
    """
    wanted = [field.name for field in fields(Claim) if field.name != "id"]
    claims = []
    for name, entry in node.items():
        if not isinstance(entry, Mapping) or set(entry) != set(wanted):
            came = ", ".join(map(str, entry)) if isinstance(entry, Mapping) else entry
            raise ValueError(f"claims.{name} must have {', '.join(wanted)}, and has {came}")
        claim = Claim(id=name, **entry)
        if claim.metric not in QUANTITIES:
            raise ValueError(f"claims.{name}.metric={claim.metric} must be one of {', '.join(QUANTITIES)}")
        needs_level = claim.metric.endswith("_to_level")
        if needs_level and not (isinstance(claim.level, (int, float)) and 0 < claim.level <= 1):
            raise ValueError(f"claims.{name}.level={claim.level} must be in (0, 1] for {claim.metric}")
        if not needs_level and claim.level is not None:
            raise ValueError(f"claims.{name}.level={claim.level} must be null for {claim.metric}")
        if claim.metric == "held_out" and claim.task is None:
            raise ValueError(f"claims.{name}.task=null must name metrics of benchmark.held_out for held_out")
        if claim.margin is not None and not _is_margin(claim.margin):
            raise ValueError(
                f"claims.{name}.margin={claim.margin} must be a number above 0, a share such as 10 %, or null"
            )
        claims.append(claim)
    return claims


def _is_margin(value: object) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\d+(\.\d+)? ?%", value) is not None and float(value.removesuffix("%")) > 0
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
