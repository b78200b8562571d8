"""How many seeds a comparison needs, from the variance of runs that are there."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from scipy.stats import nct
from scipy.stats import t as student_t

from diffopd.report.methods.difference import PromptScores, Source, over_prompts, over_seeds

POWER = 0.8
"""Chance of the verdict that is wanted."""
MOST = 1000
"""Seeds beyond which no number is given."""


@dataclass(frozen=True, kw_only=True)
class ErrorParts:
    """What the squared standard error of a difference is made of: with n seeds ``seeds / n + prompts``.

    Where that has less than one degree of freedom, ``images / n`` is added, as in
    :func:`~diffopd.report.methods.difference.difference_of`.

    Attributes:
        seeds: Variance over seeds, the sum of both sides', or that of the differences seed by seed.
        images: The part of ``seeds`` that comes from how single prompts' scores vary; more images shrink it.
        prompts: The prompts' part, which no number of seeds shrinks: prompts on which one method is better
            than on others.
        prompts_freedom: Degrees of freedom of that.
        paired: Whether seeds are compared pair by pair.
    """

    seeds: float
    images: float = 0.0
    prompts: float = 0.0
    prompts_freedom: float = float("inf")
    paired: bool = False

    def error(self, num_seeds: int) -> float:
        """Standard error with so many seeds."""
        return self._variance(num_seeds) ** 0.5

    def freedom(self, num_seeds: int) -> float:
        """Degrees of freedom with so many seeds by Satterthwaite's rule."""
        parts = self._spread(num_seeds)
        return self._variance(num_seeds) ** 2 / parts if parts > 0 else float(self._own(num_seeds))

    def _variance(self, num_seeds: int) -> float:
        least = self.seeds / num_seeds + self.prompts
        few = least**2 < self._spread(num_seeds)
        return least + self.images / num_seeds if few else least

    def _spread(self, num_seeds: int) -> float:
        of_prompts = self.images / num_seeds + self.prompts
        own = self._own(num_seeds)
        return (self.seeds / num_seeds) ** 2 / own + of_prompts**2 / self.prompts_freedom

    def _own(self, num_seeds: int) -> int:
        return (1 if self.paired else 2) * (num_seeds - 1)

    def with_benchmark(self, prompts: float, images: float) -> ErrorParts:
        """These parts on another benchmark of the same kind.

        Args:
            prompts: How many times as many prompts it has.
            images: How many times as many images of all prompts together. That a prompt's score varies over
                seeds as images of different noise do is taken for granted.
        """
        smaller = self.images / images
        return replace(
            self,
            seeds=max(self.seeds - self.images, 0.0) + smaller,
            images=smaller,
            prompts=self.prompts / prompts,
            prompts_freedom=self.prompts_freedom * prompts,
        )


@dataclass(frozen=True, kw_only=True)
class SeedsNeeded:
    """Seeds of each method with which the chance of a verdict is :data:`POWER`; None if no number does it.

    Attributes:
        difference: To find a difference that is as large as the margin.
        equivalence: To find that there is none as large as the margin, if there is none at all.
        seen: To find a difference that is as large as the one measured; None, too, if that is 0.
        beyond: Whether the measured one is larger than the margin.
    """

    difference: int | None
    equivalence: int | None
    seen: int | None = None
    beyond: bool = False

    @property
    def decide(self) -> int | None:
        """Enough to decide: for the measured difference if that is beyond the margin, else for either."""
        if self.beyond:
            return self.seen
        if self.difference is None or self.equivalence is None:
            return None
        return max(self.difference, self.equivalence)


def error_parts(
    sides: Sequence[Sequence[float]],
    prompts: Sequence[tuple[PromptScores, PromptScores]],
    *,
    resolution: float,
    paired: bool,
) -> ErrorParts:
    """Take the error of a measured difference apart.

    Args:
        sides: Each method's values over seeds, two at least; in one order of seeds if ``paired``.
        prompts: Both sides' scores by prompt, one entry for each task; empty to take the prompts as given.
        resolution: Step to which a value is known.
        paired: Whether seeds are compared pair by pair.
    """
    least = resolution**2 / 12
    if paired:
        first, second = sides
        gains = [ours - theirs for ours, theirs in zip(first, second, strict=True)]
        seeds = max(statistics.variance(gains), 2 * least)
    else:
        seeds = sum(max(statistics.variance(side), least) for side in sides)
    sources: list[Source] = [
        source for pair in prompts for source in over_prompts(*pair, num_tasks=len(prompts))
    ]
    now = sum(part for part, _ in sources)
    if now == 0:
        return ErrorParts(seeds=seeds, paired=paired)
    each = [sum(over_seeds(pair[side], num_tasks=len(prompts)) for pair in prompts) for side in (0, 1)]
    averaged = sum(part / len(side) for part, side in zip(each, sides, strict=True))
    return ErrorParts(
        seeds=seeds,
        images=0.0 if paired else sum(each),
        prompts=now if paired else max(now - averaged, 0.0),
        prompts_freedom=now**2 / sum(part**2 / freedom for part, freedom in sources),
        paired=paired,
    )


def pooled(parts: Sequence[ErrorParts]) -> list[ErrorParts]:
    """Comparisons of one quantity with the mean of their variances over seeds, the rest as it is.

    The variance of three seeds alone is known to a factor of two at best.
    """
    seeds = statistics.fmean(part.seeds for part in parts)
    images = statistics.fmean(part.images for part in parts)
    return [replace(part, seeds=seeds, images=images) for part in parts]


def seeds_needed(
    parts: ErrorParts,
    margin: float,
    *,
    seen: float = 0.0,
    num_tests: int = 1,
    level: float = 0.05,
    power: float = POWER,
) -> SeedsNeeded:
    """Seeds for ``power`` at the margin, for a difference and for equivalence.

    Args:
        parts: Of the error.
        margin: A difference that just matters, in the same unit.
        seen: The measured difference, without its sign.
        num_tests: Tests that are adjusted together. The first, and hardest, step of Holm's rule is at
            ``level / num_tests``.
        level: Of the adjusted p-values.
        power: Chance of the verdict.

    Examples:
        >>> seeds_needed(ErrorParts(seeds=2.0), 1.0)  # variance 1 of each side, margin 1 standard deviation
        SeedsNeeded(difference=17, equivalence=18, seen=None, beyond=False)
    """
    each = level / num_tests
    return SeedsNeeded(
        difference=_first(lambda n: power_of_difference(parts, n, margin, each) >= power),
        equivalence=_first(lambda n: power_of_equivalence(parts, n, margin, each) >= power),
        seen=_first(lambda n: power_of_difference(parts, n, seen, each) >= power) if seen > 0 else None,
        beyond=seen > margin,
    )


def power_of_difference(parts: ErrorParts, num_seeds: int, true: float, level: float) -> float:
    """Chance that a two-sided test finds a difference that is ``true``, on its side."""
    freedom = parts.freedom(num_seeds)
    limit = float(student_t.ppf(1 - level / 2, freedom))
    return float(nct.sf(limit, freedom, true / parts.error(num_seeds)))


def power_of_equivalence(parts: ErrorParts, num_seeds: int, margin: float, level: float) -> float:
    """Chance that two one-sided tests put a difference that is 0 inside the margin."""
    freedom = parts.freedom(num_seeds)
    room = margin / parts.error(num_seeds) - float(student_t.ppf(1 - level, freedom))
    return max(2 * float(student_t.cdf(room, freedom)) - 1, 0.0)


def _first(enough: Callable[[int], bool]) -> int | None:
    """The smallest number of seeds, from 2 to :data:`MOST`, that is enough; more seeds are never worse."""
    if not enough(MOST):
        return None
    low, high = 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
