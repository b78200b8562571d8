"""One-step solvers: the Gaussian over the next latent, given the latent and the velocity there.

Every solver is affine in both: ``mean = latent_coefficient * latent + coefficient * velocity``. Writing the
two numbers per row first, in float64, keeps the latent arithmetic to one line and yields the slope that the
distillation losses need. In the formulas ``s`` is the current sigma, ``t`` the next one, ``dt = t - s < 0``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow.broadcast import per_row


@dataclass(frozen=True)
class Step:
    """Gaussian over the next latent.

    Attributes:
        mean: Its mean; carries the velocity's gradient. At least float32.
        std: Its standard deviation, 0 for an ODE step.
        std_released: What the released code calls ``std_dev_t``: for the flow SDE ``std / sqrt(-dt)``.
        coefficient: d mean / d velocity.
    """

    mean: Float[Tensor, " batch *latent"]
    std: Float[Tensor, " batch"]
    std_released: Float[Tensor, " batch"]
    coefficient: Float[Tensor, " batch"]


def affine_step(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    latent_coefficient: Float[Tensor, " batch"],
    coefficient: Float[Tensor, " batch"],
    std: Float[Tensor, " batch"] | None = None,
    std_released: Float[Tensor, " batch"] | None = None,
) -> Step:
    """The step with mean ``latent_coefficient * latent + coefficient * velocity``, in at least float32."""
    dtype = torch.promote_types(latent.dtype, torch.float32)
    slope = coefficient.to(dtype)
    scale = latent_coefficient.to(dtype)
    deviation = torch.zeros_like(slope) if std is None else std.to(dtype)
    mean = per_row(scale, latent) * latent.to(dtype) + per_row(slope, latent) * velocity.to(dtype)
    return Step(mean, deviation, deviation if std_released is None else std_released.to(dtype), slope)


def log_snr(sigma: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Half the log signal-to-noise ratio, ``log((1 - sigma) / sigma)``: -inf at sigma 1, inf at sigma 0.

    The infinities are wanted: ``expm1`` and division turn them into the exact limits of the solvers.
    """
    return torch.log(1 - sigma) - torch.log(sigma)


def euler(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    sigma_next: Float[Tensor, " batch"],
) -> Step:
    """Euler step of the probability-flow ODE: ``latent + dt * velocity``."""
    s, t = sigma.double(), sigma_next.double()
    return affine_step(latent, velocity, torch.ones_like(s), t - s)


def _euler_maruyama(
    latent: Tensor,
    velocity: Tensor,
    s: Float[Tensor, " batch"],
    t: Float[Tensor, " batch"],
    diffusion_squared: Float[Tensor, " batch"],
    std_released: Float[Tensor, " batch"] | None = None,
) -> Step:
    """Euler-Maruyama step of the SDE that has the ODE's marginals and diffusion ``g``, given ``g^2`` per row.

    ``mean = latent (1 + g^2 dt / (2 s)) + velocity (1 + g^2 (1 - s) / (2 s)) dt``, ``std = g sqrt(-dt)``.
    """
    dt = t - s
    return affine_step(
        latent,
        velocity,
        latent_coefficient=1 + diffusion_squared * dt / (2 * s),
        coefficient=(1 + diffusion_squared * (1 - s) / (2 * s)) * dt,
        std=diffusion_squared.sqrt() * (-dt).sqrt(),
        std_released=std_released,
    )


def flow_sde(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    sigma_next: Float[Tensor, " batch"],
    *,
    noise_level: int | float,
) -> Step:
    """Euler-Maruyama step of the SDE with the ODE's marginals and diffusion ``g = a sqrt(s / (1 - s))``.

    ``mean = latent (1 + g^2 dt / (2 s)) + velocity (1 + g^2 (1 - s) / (2 s)) dt``, ``std = g sqrt(-dt)``. At
    ``s = 1``, where every grid starts, the denominator uses the grid's second level, which is that step's
    ``sigma_next``: there ``std = a`` and the slope is ``dt``; elsewhere the slope is ``(1 + a^2 / 2) dt``.

    Args:
        latent: State the step starts from.
        velocity: Model output at ``latent``.
        sigma: Noise of ``latent``, in (0, 1].
        sigma_next: Noise after the step, smaller than ``sigma``.
        noise_level: The coefficient ``a``, at least 0; 0 is the Euler step.

    References:
        Liu et al., "Flow-GRPO", 2025, arXiv:2505.05470.
    """
    s, t = sigma.double(), sigma_next.double()
    capped = torch.where(s == 1, t, s)
    diffusion_squared = noise_level**2 * s / (1 - capped)
    return _euler_maruyama(latent, velocity, s, t, diffusion_squared, std_released=diffusion_squared.sqrt())


def dance(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    sigma_next: Float[Tensor, " batch"],
    *,
    noise_level: int | float,
) -> Step:
    """Euler-Maruyama step of the SDE with the ODE's marginals and constant diffusion ``eta``.

    ``mean = latent (1 + eta^2 dt / (2 s)) + velocity (1 + eta^2 (1 - s) / (2 s)) dt`` and
    ``std = eta sqrt(-dt)``; in other words the mean is ``latent + dt (velocity + eta^2 noise / (2 s))`` with
    the model's noise prediction. All is finite at ``s = 1``, where the slope is ``dt``, and in the last step.
    The drift grows as ``1 / s``: a step that ends near 0 takes off ``eta^2 / 2`` of the noise prediction,
    however little noise is left.

    Args:
        latent: State the step starts from.
        velocity: Model output at ``latent``.
        sigma: Noise of ``latent``, in (0, 1].
        sigma_next: Noise after the step, smaller than ``sigma``.
        noise_level: The diffusion ``eta``, at least 0; 0 is the Euler step.

    References:
        Xue et al., "DanceGRPO", 2025, arXiv:2505.07818.
    """
    s, t = sigma.double(), sigma_next.double()
    return _euler_maruyama(latent, velocity, s, t, torch.full_like(s, noise_level**2))


def _renoise(
    latent: Tensor, velocity: Tensor, s: Float[Tensor, " batch"], t: Float[Tensor, " batch"], std: Tensor
) -> Step:
    """Predicted clean data at level ``t``, with noise of variance ``t^2`` of which ``std^2`` is fresh."""
    kept = (t.square() - std.square()).clamp_min(0).sqrt()
    return affine_step(
        latent,
        velocity,
        latent_coefficient=(1 - t) + kept,
        coefficient=kept * (1 - s) - (1 - t) * s,
        std=std,
    )


def ddim(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    sigma_next: Float[Tensor, " batch"],
    *,
    noise_level: int | float,
) -> Step:
    """DDIM step: fresh noise ``std = eta t sqrt(1 - t^2 (1 - s)^2 / (s^2 (1 - t)^2))``.

    The mean is ``(1 - t) clean + sqrt(t^2 - std^2) noise`` with the model's clean and noise predictions.

    Args:
        latent: State the step starts from.
        velocity: Model output at ``latent``.
        sigma: Noise of ``latent``, in (0, 1].
        sigma_next: Noise after the step, smaller than ``sigma``; at 0 the step has no noise.
        noise_level: DDIM's ``eta``, in [0, 1]; 0 is the Euler step.

    References:
        Song et al., "Denoising Diffusion Implicit Models", 2021, arXiv:2010.02502, Eq. 12 and 16.
    """
    s, t = sigma.double(), sigma_next.double()
    odds_ratio = t * (1 - s) / (s * (1 - t))
    std = noise_level * t * (1 - odds_ratio.square()).clamp_min(0).sqrt()
    return _renoise(latent, velocity, s, t, std)


def cps(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    sigma_next: Float[Tensor, " batch"],
    *,
    noise_level: int | float,
) -> Step:
    """Coefficients-preserving step: as DDIM with fresh noise ``std = t sin(eta pi / 2)``.

    The share of fresh noise does not shrink with the step, so with an uncertain clean prediction many small
    steps lose variance: use it with few steps.

    Args:
        latent: State the step starts from.
        velocity: Model output at ``latent``.
        sigma: Noise of ``latent``, in (0, 1].
        sigma_next: Noise after the step, smaller than ``sigma``; at 0 the step has no noise.
        noise_level: The share ``eta``, in [0, 1]; 0 is the Euler step, 1 replaces all noise.

    References:
        Wang and Yu, "Coefficients-Preserving Sampling", 2025, arXiv:2509.05952.
    """
    s, t = sigma.double(), sigma_next.double()
    return _renoise(latent, velocity, s, t, t * math.sin(noise_level * math.pi / 2))


def dpm1(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    sigma_next: Float[Tensor, " batch"],
) -> Step:
    """First-order DPM-Solver++ step with data prediction; on a straight path it is the Euler step.

    ``(t / s) latent - (1 - t) (exp(-h) - 1) clean`` with ``h`` the gain in log signal-to-noise ratio.

    References:
        Lu et al., "DPM-Solver++", 2022, arXiv:2211.01095, Eq. 4.1.
    """
    s, t = sigma.double(), sigma_next.double()
    clean_weight = -(1 - t) * torch.expm1(log_snr(s) - log_snr(t))
    return affine_step(
        latent, velocity, latent_coefficient=t / s + clean_weight, coefficient=-clean_weight * s
    )
