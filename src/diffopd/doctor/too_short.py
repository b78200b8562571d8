"""What a run is too short for: settings that wait for more rounds or updates than it has."""

from __future__ import annotations

from collections.abc import Iterator

from diffopd.check.setting import phase_takes
from diffopd.doctor.finding import Finding, Level
from diffopd.doctor.plan import Plan


def length_of_run_findings(plan: Plan) -> Iterator[Finding]:
    """Does the learning rate rise to what is set, and does everything that waits so many rounds ever act?"""
    warmup = plan.values["phase"].get("warmup_steps")
    if warmup and plan.cost is not None and warmup >= plan.cost.updates:
        yield Finding(
            Level.WARNING,
            "warm-up",
            f"phase.warmup_steps={warmup}: the learning rate never reaches optimizer.lr within the "
            f"{plan.cost.updates} updates of this run; train longer or set fewer",
        )
    rising = plan.values["phase"].get("warmup_rounds")
    if rising and rising >= plan.rounds:
        yield Finding(
            Level.WARNING,
            "warm-up",
            f"phase.warmup_rounds={rising}: the learning rate reaches optimizer.lr in the last of the "
            f"{plan.rounds} rounds of this run or not at all; train longer or set fewer",
        )
    for setting, needed, what in _waiting(plan):
        if needed > plan.rounds:
            yield Finding(
                Level.WARNING,
                "rounds",
                f"{setting}: {what}, after {needed} rounds, but trainer.max_epochs={plan.rounds}; "
                "train longer or set a smaller number",
            )


def _waiting(plan: Plan) -> Iterator[tuple[str, int, str]]:
    """A setting, the rounds that it needs before it has any effect, and what does not happen before."""
    callbacks, balance = plan.values["callbacks"], plan.values.get("balance") or {}
    if guard := callbacks.get("reward_guard"):
        every, patience = guard["rounds_per_evaluation"], guard["patience"]
        yield (
            f"callbacks.reward_guard.rounds_per_evaluation={every} with patience={patience}",
            every * (patience + 1),
            "the guard first compares enough evaluations to act",
        )
    if signal := callbacks.get("gradient_signal"):
        rounds = signal["num_rounds"]
        yield f"callbacks.gradient_signal.num_rounds={rounds}", rounds, "its first value is logged"
    if phase_takes(plan.values, "balance") and (every := balance.get("update_every_n_rounds")):
        first = balance.get("num_first", 1)
        yield (
            f"balance.update_every_n_rounds={every} with num_first={first}",
            every * max(1, first - 1)
            + 2,  # observed in rounds 0, `every`, ...; weights of the next one differ
            "tasks first get weights that differ",
        )
