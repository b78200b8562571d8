"""How much better one method is than another: the difference of two means over seeds, and over prompts."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student_t

CONFIDENCE = 0.95
TESTS = ("by_rule", "welch", "paired")
"""How seeds are compared: seed by seed where :mod:`diffopd.report.methods.pairing` shows that this helps,
else as independent draws of each side; always as these; always seed by seed."""

Source = tuple[float, float]
"""A part of the squared standard error, and its degrees of freedom."""


@dataclass(frozen=True, kw_only=True)
class PromptScores:
    """Scores of one task, prompt by prompt, each the mean over a method's seeds.

    Attributes:
        texts: The prompts.
        strata: Tag number of each prompt; the task's score is the mean over tags of the means over their
            prompts.
        values: The scores.
        over_seeds: Variance of each prompt's score over seeds; None if it is not known.
    """

    texts: tuple[str, ...]
    strata: tuple[int, ...]
    values: Float[np.ndarray, " prompts"]
    over_seeds: Float[np.ndarray, " prompts"] | None = None

    @property
    def vary(self) -> bool:
        """Whether each tag has two prompts at least, so that their variance can be known."""
        return min(Counter(self.strata).values()) > 1


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better the first of two methods is, positive = better.

    Attributes:
        mean: Difference of the means.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p: Two-sided p-value of no difference.
        p_equivalent: p-value of a difference of the margin or more in either direction (two one-sided tests);
            None without a margin.
        num_pairs: Seeds compared pair by pair, or None for Welch's test of independent seeds.
        over_prompts: Whether prompts count as drawn, too.
    """

    mean: float
    low: float
    high: float
    p: float
    p_equivalent: float | None
    num_pairs: int | None
    over_prompts: bool


def difference_of(
    first: Mapping[int, float],
    second: Mapping[int, float],
    better: int,
    *,
    test: str = "welch",
    resolution: float = 0.0,
    prompts: Sequence[tuple[PromptScores, PromptScores]] = (),
    margin: float | None = None,
) -> Difference | None:
    """Student's t interval and p-value of ``better * (first - second)``.

    Two sources of error are added. Seeds: by Welch's test, which takes the seeds of each side as independent,
    or by the differences of the seeds that both have. Prompts: the variance over prompts of the difference
    between the sides' scores on one prompt, over the number of prompts, so that the claim is about prompts
    like these and not about these alone. How a prompt's score varies over seeds is in both, and is taken from
    the prompts' part, down to 0 at most; of pairs, and where it is not known, it stays in both. The degrees
    of freedom are Satterthwaite's for the sum. Where so much is taken away that not one is left, it
    stays in both, too: the interval is rather too wide than without meaning.

    Values known only to a step, as rounds that are scored every 20, have at least the variance that rounding
    to that step gives, ``step**2 / 12``: equal differences do not make an interval without width.

    Args:
        first: Seed -> value.
        second: The same.
        better: 1 if more is better, else -1.
        test: ``paired`` for pairs, which needs two seeds that both have; anything else is Welch's.
        resolution: Step to which a value is known.
        prompts: Both sides' scores by prompt, one entry for each task of which the values are the mean; empty
            to take the prompts as given.
        margin: A difference that does not matter; None to leave that untested.

    Returns:
        None if a side has fewer than two seeds, or nothing varies.

    References:
        Welch, "The generalization of 'Student's' problem", Biometrika 34, 1947.
        Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics 2, 1946.
        Schuirmann, "A comparison of the two one-sided tests procedure and the power approach", 1987.
    """
    if min(len(first), len(second)) < 2:
        return None
    shared = [seed for seed in first if seed in second]
    paired = test == "paired" and len(shared) >= 2
    if paired:
        gains = [better * (first[seed] - second[seed]) for seed in shared]
        mean = statistics.fmean(gains)
        sources = [_source(gains, 2 * resolution**2 / 12)]
    else:
        mean = better * (statistics.fmean(first.values()) - statistics.fmean(second.values()))
        sources = [_source(list(side.values()), resolution**2 / 12) for side in (first, second)]
    drawn = [source for pair in prompts for source in over_prompts(*pair, num_tasks=len(prompts))]
    of_prompts = sum(part for part, _ in drawn)
    if not paired:
        for side, values in enumerate((first, second)):
            each = sum(over_seeds(pair[side], num_tasks=len(prompts)) for pair in prompts)
            of_prompts -= each / len(values)
    of_seeds = sum(part for part, _ in sources)
    spread = sum(part**2 / own for part, own in [*sources, *drawn])
    if spread == 0:
        return None
    variance = of_seeds + max(of_prompts, 0.0)
    if variance**2 / spread < 1:
        variance = of_seeds + sum(part for part, _ in drawn)
    freedom = variance**2 / spread
    error = math.sqrt(variance)
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        p=float(2 * student_t.sf(abs(mean) / error, freedom)),
        p_equivalent=None if margin is None else float(student_t.sf((margin - abs(mean)) / error, freedom)),
        num_pairs=len(shared) if paired else None,
        over_prompts=bool(prompts),
    )


def half_interval(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean over seeds by Student's t.

    Returns:
        None where it is not known: below two values, or if all are equal, which leaves no error to judge by.

    Examples:
        >>> round(half_interval([1.0, 2.0, 3.0]), 3)  # 4.303 * 1 / sqrt(3)
        2.484
    """
    if len(set(values)) < 2:
        return None
    freedom = len(values) - 1
    error = statistics.stdev(values) / math.sqrt(len(values))
    return float(student_t.ppf((1 + CONFIDENCE) / 2, freedom)) * error


def spread_text(values: Sequence[float], digits: int) -> str:
    """What tables print behind a mean over seeds: nothing for one seed, a question mark if it is not known.

    Examples:
        >>> [spread_text(values, 1) for values in ([2.0], [2.0, 2.0], [1.0, 3.0])]
        ['', ' ±?', ' ±12.7']
    """
    return half_text(half_interval(values), len(values), digits)


def half_text(half: float | None, num_seeds: int, digits: int) -> str:
    """The same, of half of an interval that is computed already."""
    if half is None:
        return " ±?" if num_seeds > 1 else ""
    return f" ±{half:,.{digits}f}"


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down rule.

    The chance that any of the adjusted values falls below 5 % by luck is at most 5 %, however they depend.

    References:
        Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Examples:
        >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(values), 0.0
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = highest
    return adjusted


def _source(values: Sequence[float], least: float) -> Source:
    """The squared standard error of a mean of independent values whose variance is at least ``least``."""
    return max(statistics.variance(values), least) / len(values), len(values) - 1.0


def over_prompts(first: PromptScores, second: PromptScores, *, num_tasks: int) -> list[Source]:
    """The part that prompts have in the squared error of a task's difference, one entry for each tag."""
    differences, strata = first.values - second.values, np.array(first.strata)
    groups = [differences[strata == stratum] for stratum in np.unique(strata)]
    weight = 1 / (num_tasks * len(groups)) ** 2
    return [
        (weight * float(group.var(ddof=1)) / len(group), len(group) - 1.0)
        for group in groups
        if len(group) > 1
    ]


def over_seeds(scores: PromptScores, *, num_tasks: int) -> float:
    """A task's part in the variance of one run's score that comes from how single prompts' scores vary."""
    if scores.over_seeds is None:
        return 0.0
    strata = np.array(scores.strata)
    groups = [scores.over_seeds[strata == stratum] for stratum in np.unique(strata)]
    return sum(float(group.mean()) / len(group) for group in groups) / (num_tasks * len(groups)) ** 2
