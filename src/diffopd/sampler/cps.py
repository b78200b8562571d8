"""The coefficients-preserving sampler."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from diffopd.flow import Step, cps
from diffopd.sampler.base import TransitionSampler


@final
class CPSSampler(TransitionSampler):
    """Fresh noise is a fixed share ``sin(noise_level pi / 2)`` of each level; none in the last step."""

    max_noise_level: ClassVar[float] = 1.0
    noiseless_end: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False

    def solve(self, step: int, latent: Tensor, velocity: Tensor, previous_clean: Tensor | None) -> Step:
        """Coefficients-preserving step."""
        sigma, sigma_next = self.sigma_at(step, latent), self.sigma_at(step + 1, latent)
        return cps(latent, velocity, sigma, sigma_next, noise_level=self.noise_level)
