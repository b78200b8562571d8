"""What the runs at hand say about claims, all claims of a page together."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from diffopd.report.methods.claims import Claim
from diffopd.report.methods.difference import CONFIDENCE, TESTS, Difference, difference_of, holm
from diffopd.report.methods.measured import QUANTITIES, Measuring, NotMeasuredError, SeedValues
from diffopd.report.methods.methods import Method

HOLDS, FAILS, EQUAL, _UNDECIDED = (
    "holds",
    "does not hold here",
    "no difference larger than",
    "not decidable at",
)
LEVEL = 1 - CONFIDENCE
"""Adjusted p-values below this decide."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the runs at hand say about a claim.

    Attributes:
        claim: The claim.
        outcome: ``holds``, ``does not hold here``, ``no difference larger than <margin>`` or ``not decidable
            at <n> seeds``.
        reason: What it rests on, or why nothing can be said.
        num_seeds: Of the side that has fewer.
        guidance: Guidance of the compared scores, or None for what is no score at one guidance.
        method: Values of the method said to be better, or None.
        against: Values of the other, or None.
        difference: Interval and p-values, or None.
        level: The reward that was to be reached, or None.
        p: p-value of no difference, adjusted for all tests of the page; None without a test.
        p_equivalent: The same of a difference as large as the margin.
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


def judge(
    claims: Sequence[Claim], methods: Sequence[Method], measuring: Measuring, *, test: str = "welch"
) -> list[Verdict]:
    """Test claims together: benchmark scores at every guidance that both methods have, others once.

    p-values are adjusted by Holm's rule over all tests of the page, those of a difference and those of
    equivalence each as one family. The adjusted p-value of a difference is below 5 %: the claim holds, or
    does not hold here, by the side of the difference. Otherwise that of equivalence is below 5 %: there is no
    difference larger than the claim's margin. Otherwise, or if a side has fewer than two seeds: not
    decidable.

    A seed that never reached a level counts with its whole run, too little, so that such seeds of the one
    method cannot make a claim hold, nor those of the other refute it, nor either make them equal.

    Args:
        claims: What is to be tested.
        methods: The runs.
        measuring: How quantities are taken.
        test: ``welch`` or ``paired``.

    Raises:
        ValueError: If there is no such test.
    """
    if test not in TESTS:
        raise ValueError(f"test={test} must be one of {', '.join(TESTS)}")
    measured = [verdict for claim in claims for verdict in _measured(claim, methods, measuring, test)]
    tested = [verdict.difference for verdict in measured if verdict.difference is not None]
    adjusted = iter(holm([difference.p for difference in tested]))
    equivalent = iter(holm([d.p_equivalent for d in tested if d.p_equivalent is not None]))
    verdicts: list[Verdict] = []
    for verdict in measured:
        difference = verdict.difference
        if difference is None:
            verdicts.append(verdict)
            continue
        known = dataclasses.replace(
            verdict,
            p=next(adjusted),
            p_equivalent=None if difference.p_equivalent is None else next(equivalent),
        )
        verdicts.append(_decided(known, difference, methods))
    return verdicts


def _decided(verdict: Verdict, difference: Difference, methods: Sequence[Method]) -> Verdict:
    """With the outcome that its adjusted p-values make."""
    assert verdict.p is not None
    assert verdict.method is not None
    assert verdict.against is not None
    kind = "Welch" if difference.num_pairs is None else f"paired, {difference.num_pairs} seeds"
    basis = f"{kind}, {'seeds and prompts' if difference.over_prompts else 'seeds'} as drawn"
    unreached = {
        _label(verdict.claim.method, methods): verdict.method.unreached,
        _label(verdict.claim.against, methods): verdict.against.unreached,
    }
    never = [
        f"{_seeds(seeds)} of {label} never reached the level" for label, seeds in unreached.items() if seeds
    ]
    if verdict.p < LEVEL:
        holds = difference.mean > 0
        if (verdict.method if holds else verdict.against).unreached:
            return dataclasses.replace(verdict, reason="; ".join(never))
        return dataclasses.replace(verdict, outcome=HOLDS if holds else FAILS, reason=basis)
    if verdict.p_equivalent is not None and verdict.p_equivalent < LEVEL and not never:
        outcome = f"{EQUAL} {verdict.claim.margin:g}"
        return dataclasses.replace(verdict, outcome=outcome, reason=f"{basis}, two one-sided tests")
    if difference.p < LEVEL:
        why = "its own interval excludes 0, but with so many tests that may be chance"
    else:
        why = "the interval includes 0"
    return dataclasses.replace(verdict, reason="; ".join([why, basis, *never]))


def _measured(claim: Claim, methods: Sequence[Method], measuring: Measuring, test: str) -> list[Verdict]:
    """Not yet decided: what was measured, once for each guidance."""
    sides = [_find(name, methods) for name in (claim.method, claim.against)]
    absent = [name for name, side in zip((claim.method, claim.against), sides, strict=True) if side is None]
    first, second = sides
    if first is None or second is None or not first.runs or not second.runs:
        empty = [side.label for side in sides if side is not None and not side.runs]
        why = [_absent(name, methods) for name in absent] + [f"no run of {name} counts" for name in empty]
        return [_undecided(claim, 0, "; ".join(why))]
    if claim.metric != "final_score":
        return [_one(claim, first, second, measuring, test, None)]
    scales: Sequence[float | None] = measuring.scales([first, second]) or [None]
    return [_one(claim, first, second, measuring, test, scale) for scale in scales]


def _one(
    claim: Claim, first: Method, second: Method, measuring: Measuring, test: str, scale: float | None
) -> Verdict:
    num_seeds = min(first.num_seeds, second.num_seeds)
    try:
        ours, theirs, level = _measure(claim, first, second, measuring, scale)
    except NotMeasuredError as error:
        return dataclasses.replace(_undecided(claim, num_seeds, str(error)), guidance=scale)
    shared = [task for task in ours.prompts if task in theirs.prompts]
    pairs = [(ours.prompts[task], theirs.prompts[task]) for task in shared]
    drawn = len(shared) == len(ours.prompts) and all(pair[0].vary for pair in pairs)
    difference = difference_of(
        ours.values,
        theirs.values,
        1 if QUANTITIES[claim.metric].higher_is_better else -1,
        test=test,
        resolution=max(ours.resolution, theirs.resolution),
        prompts=pairs if drawn else (),
        margin=claim.margin,
    )
    if min(len(ours.values), len(theirs.values)) < 2:
        why = "an interval needs two seeds of each"
    else:
        why = "the seeds do not differ, so there is no error estimate"
    return dataclasses.replace(
        _undecided(claim, num_seeds, why),
        guidance=scale,
        method=ours,
        against=theirs,
        difference=difference,
        level=level,
    )


def _measure(
    claim: Claim, first: Method, second: Method, measuring: Measuring, scale: float | None
) -> tuple[SeedValues, SeedValues, float | None]:
    """Both sides' values, and the level they were to reach."""
    if claim.metric == "final_score":
        sides = [measuring.final_score(method, claim.task, scale) for method in (first, second)]
        if lines := measuring.unlike(first, second, scale):
            raise NotMeasuredError(
                f"{first.label} and {second.label} were scored with different settings: {'; '.join(lines)}"
            )
        return sides[0], sides[1], None
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


def _label(name: str, methods: Sequence[Method]) -> str:
    found = _find(name, methods)
    return name if found is None else found.label


def _absent(name: str, methods: Sequence[Method]) -> str:
    alike = [method.label for method in methods if any(run.name == name for run, _ in method.every_run)]
    if alike:
        return f"{name} is the name of runs with different settings: {'; '.join(alike)}"
    return f"no run is called {name}"


def _undecided(claim: Claim, num_seeds: int, reason: str) -> Verdict:
    return Verdict(
        claim=claim,
        outcome=f"{_UNDECIDED} {num_seeds} seed{'s' * (num_seeds != 1)}",
        reason=reason,
        num_seeds=num_seeds,
    )


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))}"
