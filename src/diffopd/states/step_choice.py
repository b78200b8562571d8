"""The steps of a rollout that a round trains: all, a window, or a few drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


@final
class StepChoice:
    """Steps ``first`` to ``last``, or ``size`` of them drawn again each round.

    The draw is one for all samples of a round, so the rollout can stop after the last step drawn. A drawn
    step has the weight ``number of steps / size`` (:meth:`weight`): where each is equally likely, the
    expected loss is that of all steps from ``first`` to ``last``. With ``beta`` it is not, on purpose: likely
    steps count more, as in DanceOPD, which corrects nothing.

    Args:
        first: First step that may be trained, 0 = pure noise; negative numbers count from the end.
        last: Last one, -1 = the rollout's last step, which on the shifted grid is almost empty.
        size: How many of them a round trains; None for all.
        beta: ``(a, b)``, each at least 1: step ``i`` of ``n`` is drawn with the probability that a
            Beta(a, b) variable lies in ``[i/n, (i+1)/n)``, without replacement; None for equal
            probabilities.

    References:
        DanceOPD, 2026, arXiv:2606.27377, trains a single state a rollout (``size=1``), drawn by Beta(5, 2)
        over all states of its 16 steps (released ``query_bias=low_t``). There every sample draws its own;
        here a round's samples share it.
    """

    def __init__(
        self, *, first: int, last: int, size: int | None, beta: Sequence[int | float] | None
    ) -> None:
        if size is not None and size < 1:
            raise ValueError(f"states.size={size} must be at least 1, or null for all steps")
        if beta is not None and (len(beta) != 2 or not all(1 <= value <= 1000 for value in beta)):
            raise ValueError(
                f"states.beta={list(beta)} must be two numbers from 1 to 1000, as [5, 2] for mostly "
                "late steps, or null for equal probabilities"
            )
        if beta is not None and size is None:
            raise ValueError(
                f"states.beta={list(beta)} needs states.size, the number of steps to draw; with "
                "states.size=null all steps are trained and none is drawn"
            )
        self.first = first
        self.last = last
        self.size = size
        self.beta = None if beta is None else (float(beta[0]), float(beta[1]))

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
        if self.beta is None:
            places = torch.randperm(len(steps), generator=generator)[: self.size].tolist()
        else:
            likely = beta_shares(len(steps), *self.beta)
            places = torch.multinomial(likely, self.size, generator=generator).tolist()
        return tuple(sorted(steps[place] for place in places))

    def weight(self, num_steps: int) -> float:
        """Number of steps that may be trained for each one drawn."""
        return 1.0 if self.size is None else len(self.steps(num_steps)) / self.size


def beta_shares(num_steps: int, a: float, b: float) -> Float[Tensor, " num_steps"]:
    """Probabilities that a Beta(a, b) variable lies in each of ``num_steps`` equal parts of [0, 1].

    Args:
        num_steps: Number of parts.
        a: First shape, at least 1; larger moves the mass to late steps.
        b: Second shape, at least 1; larger moves it to early steps.

    Returns:
        In float64, summing to 1; by the midpoint rule with 1,000 points a part, right to about 1e-6.

    Examples:
        >>> beta_shares(2, 2, 1)
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    points = (torch.arange(num_steps * 1000, dtype=torch.float64) + 0.5) / (num_steps * 1000)
    log_density = (a - 1) * points.log() + (b - 1) * (-points).log1p()
    shares = (log_density - log_density.max()).exp().reshape(num_steps, 1000).sum(1)
    return shares / shares.sum()
