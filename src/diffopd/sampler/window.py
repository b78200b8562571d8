"""Noise in some steps of a rollout only."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import ClassVar, final

from torch import Tensor

from diffopd.flow import Step
from diffopd.sampler.base import TransitionSampler


@final
class NoiseWindow(TransitionSampler):
    """A stochastic sampler whose noise is confined to a few steps; the others are its ODE steps.

    Args:
        sampler: The stochastic sampler.
        steps: Positions in the grid, 0 = pure noise, that draw noise.

    References:
        Flow-GRPO's "fast" variant, 2025, arXiv:2505.05470.
    """

    max_noise_level: ClassVar[float] = math.inf
    noiseless_end: ClassVar[bool] = False
    uses_history: ClassVar[bool] = False

    def __init__(self, sampler: TransitionSampler, steps: Collection[int]) -> None:
        if sampler.uses_history:
            raise ValueError(
                f"{type(sampler).__name__} has no stochastic form; choose sampler=flow, ddim, cps or dance"
            )
        super().__init__(
            num_steps=sampler.num_steps,
            noise_level=sampler.noise_level,
            shift=sampler.grid,
            guidance_scale=sampler.guidance_scale,
        )
        self.noisy, self.quiet = sampler, sampler.at_noise_level(0)
        self.steps = frozenset(steps)

    def stochastic(self, step: int) -> bool:
        """True for the window's steps."""
        return step in self.steps and self.noisy.stochastic(step)

    def solve(self, step: int, latent: Tensor, velocity: Tensor, previous_clean: Tensor | None) -> Step:
        """The stochastic sampler's step inside the window, its ODE step outside."""
        solver = self.noisy if self.stochastic(step) else self.quiet
        return solver.solve(step, latent, velocity, previous_clean)
