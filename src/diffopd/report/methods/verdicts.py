"""The claims of a page, judged together."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from diffopd.report.methods.claims import Claim
from diffopd.report.methods.difference import (
    CONFIDENCE,
    TESTS,
    Difference,
    PromptScores,
    difference_of,
    holm,
)
from diffopd.report.methods.measured import QUANTITIES, Measuring, SeedValues
from diffopd.report.methods.methods import Method
from diffopd.report.methods.pairing import SeedEffect, seed_effect
from diffopd.report.methods.seeds_needed import MOST, ErrorParts, error_parts, pooled, seeds_needed
from diffopd.report.methods.sides import label_of, measured_sides
from diffopd.report.methods.verdict import EQUAL, FAILS, HOLDS, OPEN, Verdict, number_of, shown_margin

LEVEL = 1 - CONFIDENCE
"""Adjusted p-values below this decide."""


def judge(
    claims: Sequence[Claim], methods: Sequence[Method], measuring: Measuring, *, test: str = TESTS[0]
) -> list[Verdict]:
    """Test claims together: benchmark scores at every guidance that both methods have, others once.

    p-values are adjusted by Holm's rule over all tests of the page, those of a difference and those of
    equivalence each as one family. The adjusted p-value of a difference is below 5 %: the claim holds, or
    does not hold, by the side of the difference. Otherwise that of equivalence is below 5 %: there is no
    difference larger than the claim's margin. Otherwise it is open, with the number of seeds that would
    decide it; a side with fewer than two seeds leaves nothing to test.

    With ``by_rule`` seeds are compared pair by pair for a quantity if, over all methods that claims compare
    by it, :attr:`SeedEffect.pairs_help`; else as independent draws.

    A seed that never reached a level counts with its whole run, too little, so that such seeds of the one
    method cannot make a claim hold, nor those of the other refute it, nor either make them equal.

    Args:
        claims: What is to be tested.
        methods: The runs.
        measuring: How quantities are taken.
        test: ``by_rule``, ``welch`` or ``paired``.

    Raises:
        ValueError: If there is no such test.
    """
    if test not in TESTS:
        raise ValueError(f"test={test} must be one of {', '.join(TESTS)}")
    found = [verdict for claim in claims for verdict in measured_sides(claim, methods, measuring)]
    effects = _effects(found)
    measured = [_tested(verdict, effects.get(verdict.quantity), test) for verdict in found]
    tested = [verdict.difference for verdict in measured if verdict.difference is not None]
    adjusted = iter(holm([difference.p for difference in tested]))
    equivalent = iter(holm([d.p_equivalent for d in tested if d.p_equivalent is not None]))
    measured = _planned(measured, num_tests=len(tested))
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


def _effects(verdicts: Sequence[Verdict]) -> dict[tuple[object, ...], SeedEffect | None]:
    """Quantity -> what seeds have in common over all methods that are compared by it."""
    values: dict[tuple[object, ...], dict[str, Mapping[int, float]]] = {}
    for verdict in verdicts:
        if verdict.method is not None and verdict.against is not None:
            known = values.setdefault(verdict.quantity, {})
            known[verdict.claim.method] = verdict.method.values
            known[verdict.claim.against] = verdict.against.values
    return {quantity: seed_effect(list(known.values())) for quantity, known in values.items()}


def _tested(verdict: Verdict, effect: SeedEffect | None, test: str) -> Verdict:
    """With the difference, its test and the parts of its error, where there are two seeds of each."""
    ours, theirs = verdict.method, verdict.against
    if ours is None or theirs is None:
        return verdict
    helps = effect is not None and effect.pairs_help
    paired = test == "paired" or (test == "by_rule" and helps)
    resolution, prompts = max(ours.resolution, theirs.resolution), _drawn_prompts(ours, theirs)
    margin = verdict.claim.margin_from(statistics.fmean(theirs.values.values()))
    difference = difference_of(
        ours.values,
        theirs.values,
        1 if QUANTITIES[verdict.claim.metric].higher_is_better else -1,
        test="paired" if paired else "welch",
        resolution=resolution,
        prompts=prompts,
        margin=margin,
    )
    if difference is None:
        return dataclasses.replace(verdict, margin=margin, effect=effect)
    shared = [seed for seed in ours.values if seed in theirs.values]
    sides = (
        [[side.values[seed] for seed in shared] for side in (ours, theirs)]
        if difference.num_pairs is not None
        else [list(side.values.values()) for side in (ours, theirs)]
    )
    parts = error_parts(sides, prompts, resolution=resolution, paired=difference.num_pairs is not None)
    return dataclasses.replace(verdict, difference=difference, margin=margin, parts=parts, effect=effect)


def _drawn_prompts(ours: SeedValues, theirs: SeedValues) -> list[tuple[PromptScores, PromptScores]]:
    """Both sides' scores by prompt, task by task; empty where they are not known or too few to vary."""
    shared = [task for task in ours.prompts if task in theirs.prompts]
    pairs = [(ours.prompts[task], theirs.prompts[task]) for task in shared]
    drawn = len(shared) == len(ours.prompts) and all(pair[0].vary for pair in pairs)
    return pairs if drawn else []


def _planned(verdicts: Sequence[Verdict], *, num_tests: int) -> list[Verdict]:
    """With the seeds that each needs, from variances over seeds pooled over all tests of a quantity."""
    alike: dict[tuple[object, ...], list[ErrorParts]] = {}
    for verdict in verdicts:
        if verdict.parts is not None:
            alike.setdefault(_pool(verdict), []).append(verdict.parts)
    parts = {pool: iter(pooled(found)) for pool, found in alike.items()}
    planned: list[Verdict] = []
    for verdict in verdicts:
        if verdict.parts is None:
            planned.append(verdict)
            continue
        own = next(parts[_pool(verdict)])
        seen = 0.0 if verdict.difference is None else abs(verdict.difference.mean)
        needed = (
            None if not verdict.margin else seeds_needed(own, verdict.margin, seen=seen, num_tests=num_tests)
        )
        planned.append(dataclasses.replace(verdict, parts=own, needed=needed))
    return planned


def _pool(verdict: Verdict) -> tuple[object, ...]:
    """Whose variances are of one kind: rounds to a level vary alike whatever the level."""
    return verdict.claim.metric, verdict.claim.task, verdict.guidance, verdict.parts and verdict.parts.paired


def _decided(verdict: Verdict, difference: Difference, methods: Sequence[Method]) -> Verdict:
    """With the outcome that its adjusted p-values make."""
    assert verdict.p is not None
    assert verdict.method is not None
    assert verdict.against is not None
    kind = "Welch" if difference.num_pairs is None else f"paired, {difference.num_pairs} seeds"
    basis = f"{kind}, {'seeds and prompts' if difference.over_prompts else 'seeds'} as drawn"
    unreached = {
        label_of(verdict.claim.method, methods): verdict.method.unreached,
        label_of(verdict.claim.against, methods): verdict.against.unreached,
    }
    never = [
        f"{_seeds(seeds)} of {label} never reached the level" for label, seeds in unreached.items() if seeds
    ]
    if verdict.p < LEVEL:
        holds = difference.mean > 0
        if (verdict.method if holds else verdict.against).unreached:
            return dataclasses.replace(verdict, outcome=_open(verdict), reason="; ".join(never))
        return dataclasses.replace(verdict, outcome=HOLDS if holds else FAILS, reason=basis)
    if verdict.p_equivalent is not None and verdict.p_equivalent < LEVEL and not never:
        outcome = f"{EQUAL} {shown_margin(verdict)}"
        return dataclasses.replace(verdict, outcome=outcome, reason=f"{basis}, two one-sided tests")
    if difference.p < LEVEL:
        why = "its own interval excludes 0, but with so many tests that may be chance"
    else:
        why = "the interval includes 0"
    return dataclasses.replace(verdict, outcome=_open(verdict), reason="; ".join([why, basis, *never]))


def _open(verdict: Verdict) -> str:
    """What would decide a claim that these runs leave open."""
    if verdict.needed is None or verdict.parts is None:
        return f"{OPEN} at {number_of(verdict.num_seeds)}"
    if verdict.needed.decide is None:
        return f"{OPEN}: not with {MOST:,} seeds" + (", only with more prompts" * (verdict.parts.prompts > 0))
    return f"{OPEN}: {verdict.needed.decide} seeds would decide"


def _seeds(numbers: Sequence[int]) -> str:
    return f"seed{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))}"
