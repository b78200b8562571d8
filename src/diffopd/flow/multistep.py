"""The second-order multistep solver, which also looks at the previous step's clean prediction."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow.broadcast import per_row
from diffopd.flow.step import Step, affine_step, log_snr


def dpm2(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    sigma_next: Float[Tensor, " batch"],
    *,
    previous_clean: Float[Tensor, " batch *latent"],
    sigma_previous: Float[Tensor, " batch"],
) -> Step:
    """Second-order DPM-Solver++ multistep update (2M) with data prediction.

    With ``h`` the gain in log signal-to-noise ratio of this step and ``r h`` that of the previous one, the
    clean prediction of ``dpm1`` is replaced by ``clean + (clean - previous_clean) / (2 r)``.

    Args:
        latent: State the step starts from.
        velocity: Model output at ``latent``.
        sigma: Noise of ``latent``, in (0, 1).
        sigma_next: Noise after the step, smaller than ``sigma`` and above 0, where ``h`` would be infinite.
        previous_clean: Clean prediction of the previous step; a constant, shared by student and teacher.
        sigma_previous: Noise at which ``previous_clean`` was made, larger than ``sigma``; at 1 it has no
            weight, as ``r`` is infinite there.

    Returns:
        The step; its coefficient is the slope with ``previous_clean`` held fixed.

    References:
        Lu et al., "DPM-Solver++", 2022, arXiv:2211.01095, Algorithm 2.
    """
    r, s, t = sigma_previous.double(), sigma.double(), sigma_next.double()
    gain = log_snr(t) - log_snr(s)
    extrapolation = gain / (2 * (log_snr(s) - log_snr(r)))
    clean_weight = -(1 - t) * torch.expm1(-gain)
    current_weight = clean_weight * (1 + extrapolation)
    step = affine_step(
        latent, velocity, latent_coefficient=t / s + current_weight, coefficient=-current_weight * s
    )
    history = (clean_weight * extrapolation).to(step.mean.dtype)
    return replace(step, mean=step.mean - per_row(history, latent) * previous_clean.detach())
