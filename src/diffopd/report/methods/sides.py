"""The two sides of a claim, measured: its verdicts before anything is tested."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from diffopd.report.methods.claims import Claim
from diffopd.report.methods.measured import AT_EACH_GUIDANCE, Measuring, NotMeasuredError, SeedValues
from diffopd.report.methods.methods import Method
from diffopd.report.methods.untrained import BASE, base_of
from diffopd.report.methods.verdict import UNTESTED, Verdict, number_of


def measured_sides(claim: Claim, methods: Sequence[Method], measuring: Measuring) -> list[Verdict]:
    """What was measured of a claim, once for each guidance: verdicts that are not decided yet."""
    sides = [_find(name, methods) for name in (claim.method, claim.against)]
    if sides[0] is not None and sides[1] is None and claim.against == BASE and claim.metric == "held_out":
        sides[1] = base_of(sides[0], measuring.benchmark)
    absent = [name for name, side in zip((claim.method, claim.against), sides, strict=True) if side is None]
    first, second = sides
    if first is None or second is None or not first.runs or not second.runs:
        empty = [side.label for side in sides if side is not None and not side.runs]
        why = [_absent(name, methods) for name in absent] + [f"no run of {name} counts" for name in empty]
        return [_undecided(claim, 0, "; ".join(why))]
    if claim.metric not in AT_EACH_GUIDANCE:
        return [_one(claim, first, second, measuring, None)]
    scales: Sequence[float | None] = measuring.scales([first, second]) or [None]
    return [_one(claim, first, second, measuring, scale) for scale in scales]


def _one(claim: Claim, first: Method, second: Method, measuring: Measuring, scale: float | None) -> Verdict:
    num_seeds = min(first.num_seeds, second.num_seeds)
    try:
        ours, theirs, level = _measure(claim, first, second, measuring, scale)
    except NotMeasuredError as error:
        return dataclasses.replace(_undecided(claim, num_seeds, str(error)), guidance=scale)
    if min(len(ours.values), len(theirs.values)) < 2:
        why = "an interval needs two seeds of each"
    else:
        why = "the seeds do not differ, so there is no error estimate"
    return dataclasses.replace(
        _undecided(claim, num_seeds, why), guidance=scale, method=ours, against=theirs, level=level
    )


def _measure(
    claim: Claim, first: Method, second: Method, measuring: Measuring, scale: float | None
) -> tuple[SeedValues, SeedValues, float | None]:
    """Both sides' values, and the level they were to reach."""
    if claim.metric in AT_EACH_GUIDANCE:
        if claim.metric == "held_out":
            assert claim.task is not None  # read_claims
            sides = [measuring.held_out(method, claim.task, scale) for method in (first, second)]
        else:
            sides = [measuring.final_score(method, claim.task, scale) for method in (first, second)]
        if lines := measuring.unlike(first, second, scale):
            raise NotMeasuredError(
                f"{first.label} and {second.label} were scored with different settings: {'; '.join(lines)}"
            )
        return sides[0], sides[1], None
    if claim.metric == "leak":
        return measuring.leak(first), measuring.leak(second), None
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


def label_of(name: str, methods: Sequence[Method]) -> str:
    """The label of the method that a claim calls ``name``."""
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
        outcome=f"{UNTESTED} {number_of(num_seeds)}",
        reason=reason,
        num_seeds=num_seeds,
    )
