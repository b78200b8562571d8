"""The steps of a rollout that a round trains: all, a window, or a few drawn at random."""

from __future__ import annotations

from typing import final

import torch


@final
class StepChoice:
    """Steps ``first`` to ``last``, or ``size`` of them drawn anew each round.

    The draw is one for all samples of a round, so the rollout can stop after the last step drawn. Each step
    is drawn with the same probability: weighted with its inverse (:meth:`weight`), the expected loss is that
    of all steps from ``first`` to ``last``.

    Args:
        first: First step that may be trained, 0 = pure noise; negative numbers count from the end.
        last: Last one, -1 = the rollout's last step, which on the shifted grid is almost empty.
        size: How many of them a round trains; None for all.

    References:
        DanceOPD, 2026, arXiv:2606.27377, trains a single late step (``size=1``).
    """

    def __init__(self, *, first: int, last: int, size: int | None) -> None:
        if size is not None and size < 1:
            raise ValueError(f"states.size={size} must be at least 1, or null for all steps")
        self.first = first
        self.last = last
        self.size = size

    def steps(self, num_steps: int) -> range:
        """The steps that may be trained in a rollout of ``num_steps``.

        Raises:
            ValueError: If there are none, or fewer than are to be drawn.
        """
        first, last = (step + num_steps if step < 0 else step for step in (self.first, self.last))
        if not 0 <= first <= last < num_steps:
            raise ValueError(
                f"states.first={self.first} to states.last={self.last} leaves nothing to train with "
                f"sampler.num_steps={num_steps}: steps are 0 to {num_steps - 1}, -1 is the last one; choose "
                "states=all, or more steps"
            )
        steps = range(first, last + 1)
        if self.size is not None and self.size > len(steps):
            raise ValueError(
                f"states.size={self.size} is more than the {len(steps)} steps from states.first={self.first} "
                f"to states.last={self.last} of sampler.num_steps={num_steps}"
            )
        return steps

    def draw(self, num_steps: int, generator: torch.Generator) -> tuple[int, ...]:
        """The steps to train in one round, in the order the rollout visits them."""
        steps = self.steps(num_steps)
        if self.size is None:
            return tuple(steps)
        places = torch.randperm(len(steps), generator=generator)[: self.size].tolist()
        return tuple(sorted(steps[place] for place in places))

    def weight(self, num_steps: int) -> float:
        """Inverse probability that a step which may be trained is drawn."""
        return 1.0 if self.size is None else len(self.steps(num_steps)) / self.size
