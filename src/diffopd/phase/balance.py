"""Weights of the tasks in the loss: equal, or by how far each still is from its teacher."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final


class Balance(ABC):
    """A rule that weighs tasks; its weights have mean 1, so that it does not change the learning rate."""

    @abstractmethod
    def weights(self, tasks: Sequence[str]) -> dict[str, float]:
        """Weight of each of these tasks; their mean is 1."""

    @abstractmethod
    def wants_gaps(self, round_index: int) -> bool:
        """Whether :meth:`observe` is to be called at the end of this round, 0 being the first."""

    @abstractmethod
    def observe(self, gaps: Mapping[str, float]) -> None:
        """Take note of the tasks' mean squared velocity gaps, averaged over all processes."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to know, as JSON can hold it."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up again."""


@final
class Equal(Balance):
    """The paper's: every task counts the same."""

    def weights(self, tasks: Sequence[str]) -> dict[str, float]:
        """1 for each."""
        return dict.fromkeys(tasks, 1.0)

    def wants_gaps(self, round_index: int) -> bool:
        """Never."""
        return False

    def observe(self, gaps: Mapping[str, float]) -> None:
        """Gaps change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""


@final
class RemainingGap(Balance):
    """More weight for the tasks of which a larger part is still to be learned.

    A task's weight is proportional to ``(gap / first gap) ** power``: ``first gap`` is the mean of what was
    observed first, as one round's gap is that of a few prompts, ``gap`` an exponential average that starts
    from it. Until then a task counts as having all of it left. The factor is such that the mean is 1
    with every weight between ``smallest`` and ``largest``.
    """

    def __init__(
        self,
        *,
        decay: float,
        power: int | float,
        smallest: int | float,
        largest: int | float,
        update_every_n_rounds: int,
        num_first: int = 1,  # not in the configs that earlier runs saved
    ) -> None:
        """Check the settings.

        Args:
            decay: Share of the average that one observation leaves, in [0, 1); 0 = no smoothing.
            power: At least 0; 0 = equal weights, 1 = by the remaining share, more = more extreme.
            smallest: Smallest weight, in (0, 1].
            largest: Largest weight, at least 1.
            update_every_n_rounds: Rounds from one observation to the next.
            num_first: Observations of a task whose mean is its first gap.

        Raises:
            ValueError: If one is out of range.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"balance.decay={decay} must be in [0, 1)")
        if not 0 <= power < math.inf:
            raise ValueError(
                f"balance.power={power} must be a finite number of at least 0; 0 = equal weights"
            )
        if not 0 < smallest <= 1 <= largest < math.inf:
            raise ValueError(
                f"balance.smallest={smallest} must be in (0, 1] and balance.largest={largest} finite and at "
                "least 1, as the mean weight is 1"
            )
        if update_every_n_rounds < 1:
            raise ValueError(f"balance.update_every_n_rounds={update_every_n_rounds} must be at least 1")
        if num_first < 1:
            raise ValueError(f"balance.num_first={num_first} must be at least 1")
        self.decay, self.power = float(decay), float(power)
        self.smallest, self.largest = float(smallest), float(largest)
        self.update_every_n_rounds, self.num_first = update_every_n_rounds, num_first
        self._first: dict[str, float] = {}
        self._counted: dict[str, int] = {}
        self._smoothed: dict[str, float] = {}

    def weights(self, tasks: Sequence[str]) -> dict[str, float]:
        """Weight of each of these tasks, from what is observed so far."""
        raw = [self._remaining(task) ** self.power for task in tasks]
        return dict(zip(tasks, bounded(raw, self.smallest, self.largest), strict=True))

    def wants_gaps(self, round_index: int) -> bool:
        """In the first round, and every ``update_every_n_rounds`` from there."""
        return round_index % self.update_every_n_rounds == 0

    def observe(self, gaps: Mapping[str, float]) -> None:
        """Smooth the gaps.

        Args:
            gaps: task -> mean squared velocity gap; a task that had no prompts may be missing.

        Raises:
            ValueError: If one is negative or not finite.
        """
        for task, gap in gaps.items():
            if not 0 <= gap < math.inf:
                raise ValueError(f"the velocity gap of task {task} is {gap}; the student has diverged")
        for task, gap in gaps.items():
            before = self._smoothed.get(task, gap)
            self._smoothed[task] = self.decay * before + (1 - self.decay) * gap
            counted = self._counted.get(task, 0)
            if gap > 0 and counted < self.num_first:
                self._first[task] = (counted * self._first.get(task, 0.0) + gap) / (counted + 1)
                self._counted[task] = counted + 1
                self._smoothed[task] = self._first[task]  # one round's gap would weigh in it for long

    def state_dict(self) -> dict[str, Any]:
        """First and smoothed gaps, and how many observations the first ones are the mean of."""
        return {
            "first": dict(self._first),
            "counted": dict(self._counted),
            "smoothed": dict(self._smoothed),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from them."""
        self._first, self._smoothed = dict(state.get("first", {})), dict(state.get("smoothed", {}))
        alone = dict.fromkeys(
            self._first, 1
        )  # a state saved by an earlier version has one observation of each
        self._counted = dict(state.get("counted", alone))

    def _remaining(self, task: str) -> float:
        """Share of its first gap that a task has left; 1 until that is known."""
        known = self._counted.get(task, 0) >= self.num_first
        return self._smoothed[task] / self._first[task] if known else 1.0


def bounded(raw: Sequence[float], smallest: float, largest: float) -> list[float]:
    """Multiples of numbers, cut to an interval, with mean 1.

    The factor is the one for which ``clip(factor * raw, smallest, largest)`` has mean 1. If all numbers are
    0, every weight is 1.

    Args:
        raw: At least 0.
        smallest: In (0, 1].
        largest: At least 1.

    Examples:
        >>> bounded([1.0, 3.0], 0.25, 4.0)
        [0.5, 1.5]
        >>> bounded([0.0, 1.0, 1.0], 0.5, 4.0)
        [0.5, 1.25, 1.25]
    """
    if not any(raw):
        return [1.0] * len(raw)
    positive = [max(value, _NEARLY_0 * max(raw)) for value in raw]  # so that a large enough factor lifts any

    def clipped(factor: float) -> list[float]:
        return [min(max(factor * value, smallest), largest) for value in positive]

    # The mean of the clipped numbers grows with the factor, and is linear between those factors at which one
    # of the numbers meets a bound. At the first all are at most 1, at the last at least 1.
    knots = sorted({bound / value for value in positive for bound in (smallest, largest)})
    means = [sum(clipped(knot)) / len(raw) for knot in knots]
    above = next((place for place, mean in enumerate(means) if mean > 1), None)
    if above is None or above == 0:  # a bound is 1, and so are all weights
        return [1.0] * len(raw)
    low, high = knots[above - 1], knots[above]
    rise = (1 - means[above - 1]) / (means[above] - means[above - 1])
    return clipped(low + rise * (high - low))


_NEARLY_0 = 1e-12
