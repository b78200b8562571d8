"""The flow sampler: Euler's ODE step without noise, the Flow-GRPO SDE with it."""

from __future__ import annotations

import math
from typing import ClassVar, final

from torch import Tensor

from diffopd.flow import Step, euler, flow_sde
from diffopd.sampler.base import TransitionSampler


@final
class FlowSampler(TransitionSampler):
    """Euler steps at noise level 0, Euler-Maruyama steps of the SDE with the same marginals above."""

    max_noise_level: ClassVar[float] = math.inf
    noiseless_end: ClassVar[bool] = False
    uses_history: ClassVar[bool] = False

    def solve(self, step: int, latent: Tensor, velocity: Tensor, previous_clean: Tensor | None) -> Step:
        """Euler or Euler-Maruyama step."""
        sigma, sigma_next = self.sigma_at(step, latent), self.sigma_at(step + 1, latent)
        if self.noise_level == 0:
            return euler(latent, velocity, sigma, sigma_next)
        return flow_sde(latent, velocity, sigma, sigma_next, noise_level=self.noise_level)
