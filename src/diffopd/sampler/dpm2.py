"""The second-order multistep DPM-Solver++ sampler."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from diffopd.flow import Step, ddim, dpm2
from diffopd.sampler.base import TransitionSampler


@final
class DPM2Sampler(TransitionSampler):
    """An ODE solver that extrapolates with the clean prediction of the step before.

    The first step has no history and the last ends at sigma 0, where the log signal-to-noise ratio is
    infinite: both are first-order (DDIM without noise). The history is a constant: gradients and slopes are
    those of the current velocity alone.
    """

    max_noise_level: ClassVar[float] = 0.0
    noiseless_end: ClassVar[bool] = True
    uses_history: ClassVar[bool] = True

    def solve(self, step: int, latent: Tensor, velocity: Tensor, previous_clean: Tensor | None) -> Step:
        """Second-order step, first-order at both ends."""
        sigma, sigma_next = self.sigma_at(step, latent), self.sigma_at(step + 1, latent)
        if previous_clean is None or step in (0, self.num_steps - 1):
            return ddim(latent, velocity, sigma, sigma_next, noise_level=0)
        return dpm2(
            latent,
            velocity,
            sigma,
            sigma_next,
            previous_clean=previous_clean,
            sigma_previous=self.sigma_at(step - 1, latent),
        )
