"""What the runs at hand say about one claim, and the words for it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from diffopd.report.methods.claims import Claim
from diffopd.report.methods.difference import Difference
from diffopd.report.methods.measured import QUANTITIES, SeedValues
from diffopd.report.methods.pairing import SeedEffect
from diffopd.report.methods.seeds_needed import ErrorParts, SeedsNeeded

HOLDS, FAILS, EQUAL, OPEN, UNTESTED = (
    "holds",
    "does not hold",
    "no difference larger than",
    "open",
    "not decidable at",
)
"""Outcomes, or how they begin."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the runs at hand say about a claim.

    Attributes:
        claim: The claim.
        outcome: ``holds``, ``does not hold``, ``no difference larger than <margin>``, ``open: <n> seeds would
            decide`` (without a margin ``open at <n> seeds``), or, for what could not be tested, ``not
            decidable at <n> seeds``.
        reason: What it rests on, or why nothing can be said.
        num_seeds: Of the side that has fewer.
        guidance: Guidance of the compared scores, or None for what is no score at one guidance.
        method: Values of the method said to be better, or None.
        against: Values of the other, or None.
        difference: Interval and p-values, or None.
        level: The reward that was to be reached, or None.
        p: p-value of no difference, adjusted for all tests of the page; None without a test.
        p_equivalent: The same of a difference as large as the margin.
        margin: The claim's margin in the metric's unit, or None.
        parts: What the error of the difference is made of, or None without a test.
        needed: Seeds that decide at the margin, or None without a test or a margin.
        effect: What seeds have in common over the methods that claims compare by this quantity, or None.
    """

    claim: Claim
    outcome: str
    reason: str
    num_seeds: int
    guidance: float | None = None
    method: SeedValues | None = None
    against: SeedValues | None = None
    difference: Difference | None = None
    level: float | None = None
    p: float | None = None
    p_equivalent: float | None = None
    margin: float | None = None
    parts: ErrorParts | None = None
    needed: SeedsNeeded | None = None
    effect: SeedEffect | None = None

    @property
    def quantity(self) -> tuple[object, ...]:
        """What is compared: verdicts of one quantity have values that compare."""
        return self.claim.metric, self.claim.task, self.guidance, self.level

    @property
    def shown_p(self) -> str:
        """The adjusted p-value as it is printed, a dash without one."""
        if self.p is None:
            return "-"
        return f"{self.p:.3f}" if self.p >= 0.001 else "< 0.001"

    @property
    def no_runs(self) -> bool:
        """Whether a method of the claim has no run that counts."""
        return self.num_seeds == 0

    @property
    def kind(self) -> str:
        """``good``, ``bad``, ``equal`` or ``open``."""
        if self.outcome.startswith(EQUAL):
            return "equal"
        return {HOLDS: "good", FAILS: "bad"}.get(self.outcome, "open")

    @property
    def ratio(self) -> float | None:
        """Rounds, or minutes, of ``against`` over those of the method."""
        if self.level is None or self.method is None or self.against is None:
            return None
        own = statistics.fmean(self.method.values.values())
        return statistics.fmean(self.against.values.values()) / own if own > 0 else None


def shown_margin(verdict: Verdict) -> str:
    """A margin as it is printed, a share with what it came to."""
    margin = verdict.claim.margin
    if isinstance(margin, str) and verdict.margin is not None:
        return f"{margin} ({verdict.margin:.{QUANTITIES[verdict.claim.metric].digits}f})"
    return "-" if margin is None else f"{margin:g}"


def number_of(seeds: int) -> str:
    """So many seeds."""
    return f"{seeds} seed{'s' * (seeds != 1)}"
