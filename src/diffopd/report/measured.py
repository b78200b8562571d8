"""Numbers that claims compare: one per seed of a method."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffopd.report.bands import running_mean
from diffopd.report.curve import REWARD
from diffopd.report.methods import Method
from diffopd.report.runs import Run, Series


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something to compare methods by.

    Attributes:
        title: What it is, with its unit.
        higher_is_better: Its direction.
        digits: Decimal places to show.
    """

    title: str
    higher_is_better: bool
    digits: int


QUANTITIES = {
    "final_score": Quantity(title="benchmark score", higher_is_better=True, digits=3),
    "final_reward": Quantity(title="reward of the last rollouts", higher_is_better=True, digits=3),
    "reward_area": Quantity(title="mean reward over the rounds both have", higher_is_better=True, digits=3),
    "rounds_to_level": Quantity(title="rounds to a reward", higher_is_better=False, digits=0),
    "minutes_to_level": Quantity(title="minutes to a reward", higher_is_better=False, digits=1),
}
"""What a claim's ``metric`` can be. A reward or score of several tasks is the mean over them."""


class NotMeasuredError(Exception):
    """A quantity is not known for these runs; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A quantity of one method.

    Attributes:
        values: Seed -> value.
        unreached: Seeds that never reached the level; their value is what their whole run took.
    """

    values: Mapping[int, float]
    unreached: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How quantities are taken.

    Attributes:
        benchmark: Name of the benchmark of ``final_score``.
        window: Values in the running mean of rewards.
    """

    benchmark: str
    window: int

    def final_score(self, method: Method, task: str | None) -> Measured:
        """Score on the benchmark, at the guidance each run was trained for."""
        return Measured(
            values={seed: self._final_score(run, method, task) for seed, run in method.runs.items()}
        )

    def _final_score(self, run: Run, method: Method, task: str | None) -> float:
        found = [result for _, result in run.results if result.benchmark == self.benchmark]
        fitting = [result for result in found if result.guidance_scale == run.guidance_scale] or found[:1]
        if not fitting:
            raise NotMeasuredError(f"{method.label}, seed {run.seed} has no scores on {self.benchmark}")
        scores = {name: estimate.mean for name, estimate in fitting[0].estimates.items()}
        if task is not None and task not in scores:
            raise NotMeasuredError(f"{method.label}, seed {run.seed} has no score of {task}")
        return scores[task] if task is not None else statistics.fmean(scores.values())

    def final_reward(self, method: Method, task: str | None) -> Measured:
        """Mean of the last ``window`` rewards."""
        curves = self._curves(method, task)
        return Measured(
            values={seed: statistics.fmean(curve.values[-self.window :]) for seed, curve in curves.items()}
        )

    def reward_areas(self, first: Method, second: Method, task: str | None) -> tuple[Measured, Measured]:
        """Area under each reward curve by the trapezoidal rule, over the rounds all have, per round."""
        sides = [self._curves(method, task) for method in (first, second)]
        every = [curve for curves in sides for curve in curves.values()]
        low, high = max(curve.rounds[0] for curve in every), min(curve.rounds[-1] for curve in every)
        if high <= low:
            raise NotMeasuredError("the reward curves have fewer than two rounds in common")
        found = [
            Measured(values={seed: _mean_height(curve, low, high) for seed, curve in curves.items()})
            for curves in sides
        ]
        return found[0], found[1]

    def level(self, method: Method, task: str | None, share: float) -> float:
        """The reward that is ``share`` of the way from the first to the last of a method's mean curve.

        Raises:
            NotMeasuredError: If that curve does not rise.
        """
        ends = [
            (means[0], means[-1])
            for curve in self._curves(method, task).values()
            for means in [running_mean(curve.values, self.window)]
        ]
        start, end = (float(np.mean(side)) for side in zip(*ends, strict=True))
        if end <= start:
            raise NotMeasuredError(f"the reward of {method.label} does not rise ({start:.3f} to {end:.3f})")
        return start + share * (end - start)

    def time_to(self, level: float, method: Method, task: str | None, *, minutes: bool) -> Measured:
        """Rounds, or minutes, until the running mean of the reward is at ``level``."""
        values: dict[int, float] = {}
        unreached: list[int] = []
        for seed, curve in self._curves(method, task).items():
            means = running_mean(curve.values, self.window)
            reached = np.flatnonzero(means >= level)
            if not len(reached):
                unreached.append(seed)
            number = curve.rounds[int(reached[0])] if len(reached) else curve.rounds[-1]
            values[seed] = _minutes(method, seed, number) if minutes else number
        return Measured(values=values, unreached=unreached)

    def _curves(self, method: Method, task: str | None) -> dict[int, Series]:
        return {seed: _reward(run, method, task) for seed, run in method.runs.items()}


def _reward(run: Run, method: Method, task: str | None) -> Series:
    """A task's reward, or the mean over tasks in the rounds that have all of them."""
    tasks = run.family(REWARD)
    if task is not None:
        tasks = {name: series for name, series in tasks.items() if name == task}
    by_round = [dict(zip(series.rounds, series.values, strict=True)) for series in tasks.values()]
    rounds = sorted(set.intersection(*(set(values) for values in by_round))) if by_round else []
    if not rounds:
        raise NotMeasuredError(
            f"{method.label}, seed {run.seed} logged no reward" + (f" of {task}" if task else "")
        )
    return Series(rounds, [statistics.fmean(values[number] for values in by_round) for number in rounds])


def _mean_height(curve: Series, low: int, high: int) -> float:
    inside = [number for number in curve.rounds if low < number < high]
    x = np.array([low, *inside, high], float)
    return float(np.trapezoid(np.interp(x, curve.rounds, curve.values), x) / (high - low))


def _minutes(method: Method, seed: int, number: int) -> float:
    minutes = method.runs[seed].minutes
    if number not in minutes:
        raise NotMeasuredError(f"{method.label}, seed {seed} logged no times (callbacks.throughput)")
    return minutes[number]
