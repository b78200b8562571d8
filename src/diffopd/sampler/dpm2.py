"""The second-order multistep DPM-Solver++ sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, final, get_args

from torch import Tensor

from diffopd.flow import SigmaGrid, Step, ddim, dpm2
from diffopd.sampler.base import TransitionSampler

LossCoefficient = Literal["taken", "first_order"]


@final
class DPM2Sampler(TransitionSampler):
    """An ODE solver that extrapolates with the clean prediction of the step before.

    The first step has no history and the last ends at sigma 0, where the log signal-to-noise ratio is
    infinite: both are first-order (DDIM without noise). The history is a constant: gradients and slopes are
    those of the current velocity alone.

    Args:
        num_steps: See ``TransitionSampler``, as for the other settings.
        noise_level: Only 0.
        shift: Shift of the sigma grid, or another rule for it.
        guidance_scale: Guidance of the velocities.
        loss_coefficient: Slope that a transition carries for the distillation losses; the rollout is the
            same. ``taken`` is that of the step taken, ``d mean / d velocity``: the losses then compare the
            means of student and teacher with one shared history. ``first_order`` is Euler's, ``dt``: the
            released code's loss computes both means again without history, so it weighs the velocity gap as
            ``sampler=flow`` does.
    """

    max_noise_level: ClassVar[float] = 0.0
    noiseless_end: ClassVar[bool] = True
    uses_history: ClassVar[bool] = True

    def __init__(
        self,
        *,
        num_steps: int,
        noise_level: int | float,
        shift: int | float | SigmaGrid,
        guidance_scale: int | float,
        loss_coefficient: LossCoefficient,
    ) -> None:
        super().__init__(
            num_steps=num_steps, noise_level=noise_level, shift=shift, guidance_scale=guidance_scale
        )
        if loss_coefficient not in get_args(LossCoefficient):
            raise ValueError(
                f"sampler.loss_coefficient must be one of {', '.join(get_args(LossCoefficient))}, got "
                f"{loss_coefficient!r}; taken is the slope of the second-order step, first_order what "
                "released code trains with"
            )
        self.loss_coefficient = loss_coefficient

    def solve(self, step: int, latent: Tensor, velocity: Tensor, previous_clean: Tensor | None) -> Step:
        """Second-order step, first-order at both ends, with the slope that ``loss_coefficient`` names."""
        taken = self._taken(step, latent, velocity, previous_clean)
        if self.loss_coefficient == "taken":
            return taken
        slope = self.sigma_at(step + 1, latent).double() - self.sigma_at(step, latent).double()
        return replace(taken, coefficient=slope.to(taken.coefficient.dtype))

    def _taken(self, step: int, latent: Tensor, velocity: Tensor, previous_clean: Tensor | None) -> Step:
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
