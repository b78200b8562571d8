"""The first-order DPM-Solver++ sampler."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from diffopd.flow import Step, dpm1
from diffopd.sampler.base import TransitionSampler


@final
class DPM1Sampler(TransitionSampler):
    """An ODE solver; on straight flow paths each step equals Euler's."""

    max_noise_level: ClassVar[float] = 0.0
    noiseless_end: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False

    def solve(self, step: int, latent: Tensor, velocity: Tensor, previous_clean: Tensor | None) -> Step:
        """First-order step."""
        return dpm1(latent, velocity, self.sigma_at(step, latent), self.sigma_at(step + 1, latent))
