"""Numbers that claims compare: one per seed of a method."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffopd.evaluation import EvaluationResult, TaskResult
from diffopd.report.methods.bands import fitting_window, running_mean
from diffopd.report.methods.difference import PromptScores
from diffopd.report.methods.methods import Method
from diffopd.report.methods.runs import Run, Series
from diffopd.report.run.curve import REWARD
from diffopd.teacher import HIGHER


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
    "held_out": Quantity(title="value not used for training", higher_is_better=True, digits=3),
    "leak": Quantity(title="leak of the pictures' layout", higher_is_better=False, digits=3),
    "final_reward": Quantity(title="reward of the last rollouts", higher_is_better=True, digits=3),
    "reward_area": Quantity(title="mean reward over the rounds both have", higher_is_better=True, digits=3),
    "rounds_to_level": Quantity(title="rounds to a reward", higher_is_better=False, digits=0),
    "minutes_to_level": Quantity(title="minutes to a reward", higher_is_better=False, digits=1),
}
"""What a claim's ``metric`` can be. A reward or score of several tasks is the mean over them."""
AT_EACH_GUIDANCE = ("final_score", "held_out")
"""Those that are taken at every guidance scale that both methods were scored at."""


class NotMeasuredError(Exception):
    """A quantity is not known for these runs; the message says why."""


@dataclass(frozen=True, kw_only=True)
class SeedValues:
    """A quantity of one method.

    Attributes:
        values: Seed -> value.
        unreached: Seeds that never reached the level; their value is what their whole run took.
        resolution: Step to which a value is known: one image of a benchmark, or the time between two scored
            rounds.
        prompts: task -> scores by prompt, for benchmark scores.
    """

    values: Mapping[int, float]
    unreached: Sequence[int] = ()
    resolution: float = 0.0
    prompts: Mapping[str, PromptScores] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How quantities are taken.

    Attributes:
        benchmark: Name of the benchmark of ``final_score``.
        window: Values in the running mean of rewards.
        may_differ: Conditions in which scores of two methods may differ, as ``sampler.num_steps``.
    """

    benchmark: str
    window: int
    may_differ: Sequence[str] = ()

    def scales(self, methods: Sequence[Method]) -> list[float]:
        """Guidance scales at which every run of some methods was scored, the first method's own first."""
        runs = [run for method in methods for run in method.runs.values()]
        own = runs[0].guidance_scale
        found = [{result.guidance_scale for result in self._results(run)} for run in runs]
        return sorted(set.intersection(*found), key=lambda scale: (scale != own, scale))

    def final_score(self, method: Method, task: str | None, scale: float | None) -> SeedValues:
        """Score on the benchmark.

        Args:
            method: Whose.
            task: The task, several separated by commas, or None for all; the score is the mean over them.
            scale: Guidance, or None for the one that each run was trained for.

        Raises:
            NotMeasuredError: If a run has no such score, or two runs were scored with different settings.
        """
        results = {seed: self._result(run, method, scale) for seed, run in method.runs.items()}
        first = next(iter(results.values()))
        tasks = list(first.tasks) if task is None else [name.strip() for name in task.split(",")]
        for seed, result in results.items():
            if missing := [name for name in tasks if name not in result.tasks]:
                raise NotMeasuredError(f"{method.label}, seed {seed} has no score of {', '.join(missing)}")
            if lines := result.differences(first):
                raise NotMeasuredError(f"seeds of {method.label} were scored differently: {'; '.join(lines)}")
        return SeedValues(
            values={
                seed: statistics.fmean(result.tasks[name].value.mean for name in tasks)
                for seed, result in results.items()
            },
            resolution=statistics.fmean(1 / first.tasks[name].value.n for name in tasks) / len(tasks),
            prompts={name: _by_prompt([result.tasks[name] for result in results.values()]) for name in tasks},
        )

    def held_out(self, method: Method, names: str, scale: float | None) -> SeedValues:
        """What nothing is trained on, over the benchmark's images.

        Args:
            method: Whose.
            names: Held-out metrics, separated by commas, of which more is better; the value is the mean.
            scale: Guidance, or None for the one that each run was trained for.

        Raises:
            NotMeasuredError: If a run has no such value, or less of it is better.
        """
        wanted = [name.strip() for name in names.split(",")]
        values: dict[int, float] = {}
        steps: list[float] = []
        for seed, run in method.runs.items():
            found = self._result(run, method, scale).held_out_scores
            if missing := [name for name in wanted if name not in found]:
                raise NotMeasuredError(f"{method.label}, seed {seed} has no {', '.join(missing)}")
            if other := [name for name in wanted if found[name].better != HIGHER]:
                raise NotMeasuredError(f"of {', '.join(other)} more is not better, so that no mean says more")
            values[seed] = statistics.fmean(found[name].value for name in wanted)
            steps += [1 / (found[name].n or 1) for name in wanted]
        return SeedValues(values=values, resolution=statistics.fmean(steps) / len(wanted))

    def leak(self, method: Method) -> SeedValues:
        """Rise of the layout's correlation with the training pictures over the base model's (the leak test).

        Raises:
            NotMeasuredError: If a run has no leak test.
        """
        if without := [seed for seed, run in method.runs.items() if not run.leak]:
            raise NotMeasuredError(f"{method.label}, seed {without[0]} has no leak test")
        return SeedValues(values={seed: run.leak["rise"]["mean"] for seed, run in method.runs.items()})

    def unlike(self, first: Method, second: Method, scale: float | None) -> list[str]:
        """Why the scores of two methods do not compare; empty if they do."""
        sides = [next(iter(method.runs.items())) for method in (first, second)]
        ours, theirs = (
            self._result(run, method, scale) for (_, run), method in zip(sides, (first, second), strict=True)
        )
        lines = ours.differences(theirs)
        allowed = tuple(f"{name}: " for name in self.may_differ)
        return [line for line in lines if not line.rpartition(", ")[2].startswith(allowed)]

    def _results(self, run: Run) -> list[EvaluationResult]:
        return [result for _, result in run.results if result.benchmark == self.benchmark]

    def _result(self, run: Run, method: Method, scale: float | None) -> EvaluationResult:
        wanted = run.guidance_scale if scale is None else scale
        found = [result for result in self._results(run) if result.guidance_scale == wanted]
        if not found:
            at = "" if wanted is None else f" at guidance {wanted:g}"
            raise NotMeasuredError(f"{method.label}, seed {run.seed} has no scores on {self.benchmark}{at}")
        return found[0]

    def final_reward(self, method: Method, task: str | None) -> SeedValues:
        """Mean of the last ``window`` rewards, of a third of them at most."""
        curves = self._curves(method, task)
        return SeedValues(
            values={
                seed: statistics.fmean(curve.values[-fitting_window(len(curve.values), self.window) :])
                for seed, curve in curves.items()
            }
        )

    def reward_areas(self, first: Method, second: Method, task: str | None) -> tuple[SeedValues, SeedValues]:
        """Area under each reward curve by the trapezoidal rule, over the rounds all have, per round."""
        sides = [self._curves(method, task) for method in (first, second)]
        every = [curve for curves in sides for curve in curves.values()]
        low, high = max(curve.rounds[0] for curve in every), min(curve.rounds[-1] for curve in every)
        if high <= low:
            raise NotMeasuredError("the reward curves have fewer than two rounds in common")
        found = [
            SeedValues(values={seed: _mean_height(curve, low, high) for seed, curve in curves.items()})
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

    def time_to(self, level: float, method: Method, task: str | None, *, minutes: bool) -> SeedValues:
        """Rounds, or minutes, until the running mean of the reward is at ``level``."""
        values: dict[int, float] = {}
        unreached: list[int] = []
        steps: list[float] = []
        for seed, curve in self._curves(method, task).items():
            means = running_mean(curve.values, self.window)
            reached = np.flatnonzero(means >= level)
            if not len(reached):
                unreached.append(seed)
            place = int(reached[0]) if len(reached) else len(curve.rounds) - 1
            ends = [curve.rounds[max(place - 1, 0)], curve.rounds[place]]
            took = [_minutes(method, seed, end) if minutes else float(end) for end in ends]
            values[seed] = took[1]
            steps.append(took[1] - took[0] if place else took[1])
        return SeedValues(values=values, unreached=unreached, resolution=max(steps, default=0.0))

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


def _by_prompt(seeds: Sequence[TaskResult]) -> PromptScores:
    """Each prompt's score, the mean over its images and over seeds."""
    first = seeds[0]
    groups = np.array(first.groups)
    numbers = np.unique(groups)
    by_seed = np.array(
        [[np.array(result.scores)[groups == number].mean() for number in numbers] for result in seeds]
    )
    return PromptScores(
        texts=first.texts,
        strata=tuple(int(first.strata[int(np.flatnonzero(groups == number)[0])]) for number in numbers),
        values=by_seed.mean(axis=0),
        over_seeds=by_seed.var(axis=0, ddof=1) if len(seeds) > 1 else None,
    )


def _mean_height(curve: Series, low: int, high: int) -> float:
    inside = [number for number in curve.rounds if low < number < high]
    x = np.array([low, *inside, high], float)
    return float(np.trapezoid(np.interp(x, curve.rounds, curve.values), x) / (high - low))


def _minutes(method: Method, seed: int, number: int) -> float:
    minutes = method.runs[seed].minutes
    if number not in minutes:
        raise NotMeasuredError(f"{method.label}, seed {seed} logged no times (callbacks.throughput)")
    return minutes[number]
