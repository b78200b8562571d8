"""A paper's claims, each tested on the runs at hand: one method better than another by one number."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from scipy.stats import t as student_t

from diffopd.report.measured import QUANTITIES, Measured, Measuring, NotMeasuredError
from diffopd.report.methods import Method

HOLDS, FAILS, _UNDECIDED = "holds", "does not hold here", "not decidable at"
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That one method is better than another.

    Attributes:
        id: Short name.
        figure: Where the paper says so.
        text: What it says.
        method: Key or label of the method said to be better.
        against: Key or label of the other.
        metric: One of ``QUANTITIES``.
        task: The task whose reward or score is compared, or None for the mean over all.
        level: For ``rounds_to_level`` and ``minutes_to_level``: the reward to reach, as a share of the rise
            of ``against`` from its first to its last reward.
    """

    id: str
    figure: str
    text: str
    method: str
    against: str
    metric: str
    task: str | None
    level: float | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better the first of two methods is, positive = better.

    Attributes:
        mean: Difference of the means.
        low: Lower end of the interval.
        high: Upper end.
        num_pairs: Seeds compared pair by pair, or None for Welch's interval of independent seeds.
    """

    mean: float
    low: float
    high: float
    num_pairs: int | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the runs at hand say about a claim.

    Attributes:
        claim: The claim.
        outcome: ``holds``, ``does not hold here``, or ``not decidable at <n> seeds``.
        reason: What it rests on, or why nothing can be said.
        method: Measured of the method said to be better, or None.
        against: Measured of the other, or None.
        difference: Interval, or None.
        level: The reward that was to be reached, or None.
    """

    claim: Claim
    outcome: str
    reason: str
    method: Measured | None = None
    against: Measured | None = None
    difference: Difference | None = None
    level: float | None = None

    @property
    def no_runs(self) -> bool:
        """Whether a method of the claim has no run that counts."""
        return self.outcome == f"{_UNDECIDED} 0 seeds"

    @property
    def ratio(self) -> float | None:
        """Rounds, or minutes, of ``against`` over those of the method."""
        if self.level is None or self.method is None or self.against is None:
            return None
        own = statistics.fmean(self.method.values.values())
        return statistics.fmean(self.against.values.values()) / own if own > 0 else None


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
        claims.append(claim)
    return claims


def judge(claim: Claim, methods: Sequence[Method], measuring: Measuring) -> Verdict:
    """Test one claim.

    The interval of the difference, at 95 %, excludes 0 on the claimed side: the claim holds. On the other
    side: it does not hold here. It includes 0, or a side has fewer than two seeds: not decidable. A seed that
    never reached a level counts with its whole run, too little, so that such seeds of the one method cannot
    make a claim hold, nor those of the other refute it.
    """
    sides = [_find(name, methods) for name in (claim.method, claim.against)]
    absent = [name for name, side in zip((claim.method, claim.against), sides, strict=True) if side is None]
    first, second = sides
    if first is None or second is None or not first.runs or not second.runs:
        empty = [side.label for side in sides if side is not None and not side.runs]
        why = [_absent(name, methods) for name in absent] + [f"no run of {name} counts" for name in empty]
        return _undecided(claim, 0, "; ".join(why))
    num_seeds = min(first.num_seeds, second.num_seeds)
    try:
        ours, theirs, level = _measure(claim, first, second, measuring)
    except NotMeasuredError as error:
        return _undecided(claim, num_seeds, str(error))
    better = 1 if QUANTITIES[claim.metric].higher_is_better else -1
    difference = difference_interval(ours.values, theirs.values, better)
    if difference is None:
        return _undecided(claim, num_seeds, "an interval needs two seeds of each", ours, theirs, level=level)
    known = {"method": ours, "against": theirs, "difference": difference, "level": level}
    kind = "Welch's interval" if difference.num_pairs is None else f"paired, {difference.num_pairs} seeds"
    if difference.low > 0:
        if ours.unreached:
            why = f"{_seeds(ours.unreached)} of {first.label} never reached the level"
            return _undecided(claim, num_seeds, why, **known)
        return Verdict(claim=claim, outcome=HOLDS, reason=kind, **known)
    if difference.high < 0:
        if theirs.unreached:
            why = f"{_seeds(theirs.unreached)} of {second.label} never reached the level"
            return _undecided(claim, num_seeds, why, **known)
        return Verdict(claim=claim, outcome=FAILS, reason=kind, **known)
    return _undecided(claim, num_seeds, f"the interval includes 0; {kind}", **known)


def difference_interval(
    first: Mapping[int, float], second: Mapping[int, float], better: int
) -> Difference | None:
    """Student's t interval of ``better * (first - second)`` at 95 %.

    Pairs of one seed if there are two of them at least; otherwise Welch's, which takes all seeds of each side
    as independent and their variances as different.

    Args:
        first: Seed -> value.
        second: The same.
        better: 1 if more is better, else -1.

    Returns:
        None if a side has fewer than two seeds.

    References:
        Welch, "The generalization of 'Student's' problem", Biometrika 34, 1947.
    """
    if min(len(first), len(second)) < 2:
        return None
    shared = [seed for seed in first if seed in second]
    if len(shared) >= 2:
        gains = [better * (first[seed] - second[seed]) for seed in shared]
        mean, freedom = statistics.fmean(gains), len(gains) - 1.0
        error = statistics.stdev(gains) / math.sqrt(len(gains))
    else:
        mean = better * (statistics.fmean(first.values()) - statistics.fmean(second.values()))
        parts = [statistics.variance(side.values()) / len(side) for side in (first, second)]
        error = math.sqrt(sum(parts))
        terms = (part**2 / (len(side) - 1) for part, side in zip(parts, (first, second), strict=True))
        freedom = sum(parts) ** 2 / sum(terms) if error else 1.0
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Difference(
        mean=mean, low=mean - half, high=mean + half, num_pairs=len(shared) if len(shared) >= 2 else None
    )


def _measure(
    claim: Claim, first: Method, second: Method, measuring: Measuring
) -> tuple[Measured, Measured, float | None]:
    """Both sides' values, and the level they were to reach."""
    if claim.metric == "final_score":
        return measuring.final_score(first, claim.task), measuring.final_score(second, claim.task), None
    if claim.metric == "final_reward":
        return measuring.final_reward(first, claim.task), measuring.final_reward(second, claim.task), None
    if claim.metric == "reward_area":
        return *measuring.reward_areas(first, second, claim.task), None
    assert claim.level is not None  # read_claims
    level = measuring.level(second, claim.task, claim.level)
    minutes = claim.metric == "minutes_to_level"
    ours, theirs = (measuring.time_to(level, side, claim.task, minutes=minutes) for side in (first, second))
    return ours, theirs, level


def _find(name: str, methods: Sequence[Method]) -> Method | None:
    return next((method for method in methods if name in (method.key, method.label)), None)


def _absent(name: str, methods: Sequence[Method]) -> str:
    alike = [method.label for method in methods if any(run.name == name for run, _ in method.every_run)]
    if alike:
        return f"{name} is the name of runs with different settings: {'; '.join(alike)}"
    return f"no run is called {name}"


def _undecided(
    claim: Claim,
    num_seeds: int,
    reason: str,
    method: Measured | None = None,
    against: Measured | None = None,
    difference: Difference | None = None,
    level: float | None = None,
) -> Verdict:
    return Verdict(
        claim=claim,
        outcome=f"{_UNDECIDED} {num_seeds} seed{'s' * (num_seeds != 1)}",
        reason=reason,
        method=method,
        against=against,
        difference=difference,
        level=level,
    )


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))}"
