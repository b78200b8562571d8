"""Eq. 11's weights for a noise level that is not the rollout's: to take weights and visited states apart."""

from __future__ import annotations

import math
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.flow import flow_sde
from diffopd.loss.reverse_kl import reverse_kl_weight
from diffopd.loss.velocity_matching import TransitionMatching
from diffopd.types import Transition


def reverse_kl_at_weight(
    sigma: Float[Tensor, " batch"], sigma_next: Float[Tensor, " batch"], *, noise_level: int | float
) -> Float[Tensor, " batch"]:
    """Weight of the squared velocity gap in the KL divergence of two steps of the flow SDE.

    Below sigma 1 it is ``(1 + a^2 / 2)^2 / a^2`` times ``(sigma - sigma_next) (1 - sigma) / (2 sigma)``: the
    noise level a scales all steps alike, so it does not change their ratios.

    Args:
        sigma: Noise of the state that the step starts from.
        sigma_next: Noise after the step.
        noise_level: The coefficient a of the flow SDE, above 0.

    References:
        DiffusionOPD, 2026, arXiv:2605.15055, Eq. 11.
    """
    zero = sigma.reshape(-1, 1) * 0
    step = flow_sde(zero, zero, sigma, sigma_next, noise_level=noise_level)
    return reverse_kl_weight(step.coefficient, step.std)


@final
class ReverseKLAt(TransitionMatching):
    """Eq. 11's weights of the flow SDE at a stated noise level, whatever sampler made the states."""

    name: ClassVar[str] = "reverse_kl_at"

    def __init__(self, *, reduction: str, normalize: bool, noise_level: int | float) -> None:
        """Check the settings.

        Args:
            reduction: ``"mean"`` or ``"sum"`` over the latent axes.
            normalize: Whether the weights are divided by their mean over the trained steps.
            noise_level: The noise level whose weights are taken.

        Raises:
            ValueError: If a setting is out of range.
        """
        super().__init__(reduction=reduction, normalize=normalize)
        if not 0 < noise_level < math.inf:
            raise ValueError(
                f"loss.noise_level must be a finite number above 0, got {noise_level}; for the weights of "
                "noise level 0 use loss=ode_l2"
            )
        self.noise_level = noise_level

    def weight(self, student: Transition) -> Float[Tensor, " batch"]:
        """See :func:`reverse_kl_at_weight`."""
        return reverse_kl_at_weight(student.sigma, student.sigma_next, noise_level=self.noise_level)
