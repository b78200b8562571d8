"""The DanceGRPO sampler."""

from __future__ import annotations

import math
from typing import ClassVar, final

from torch import Tensor

from diffopd.flow import Step, dance
from diffopd.sampler.base import TransitionSampler


@final
class DanceSampler(TransitionSampler):
    """DanceGRPO's SDE: diffusion ``eta = noise_level`` at every level; Euler's ODE step without noise."""

    max_noise_level: ClassVar[float] = math.inf
    noiseless_end: ClassVar[bool] = False
    uses_history: ClassVar[bool] = False

    def solve(self, step: int, latent: Tensor, velocity: Tensor, previous_clean: Tensor | None) -> Step:
        """Euler-Maruyama step with constant diffusion."""
        sigma, sigma_next = self.sigma_at(step, latent), self.sigma_at(step + 1, latent)
        return dance(latent, velocity, sigma, sigma_next, noise_level=self.noise_level)
