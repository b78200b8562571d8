"""The DDIM sampler."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from diffopd.flow import Step, ddim
from diffopd.sampler.base import TransitionSampler


@final
class DDIMSampler(TransitionSampler):
    """DDIM with ``eta = noise_level``; the last step, to sigma 0, has no noise."""

    max_noise_level: ClassVar[float] = 1.0
    noiseless_end: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False

    def solve(self, step: int, latent: Tensor, velocity: Tensor, previous_clean: Tensor | None) -> Step:
        """DDIM step."""
        sigma, sigma_next = self.sigma_at(step, latent), self.sigma_at(step + 1, latent)
        return ddim(latent, velocity, sigma, sigma_next, noise_level=self.noise_level)
