"""Densities of transitions: log-probability of a sampled latent, and divergence between two transitions."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from diffopd.flow.broadcast import per_row
from diffopd.flow.reduction import reduce_latent


def log_prob(
    sample: Float[Tensor, " batch *latent"],
    mean: Float[Tensor, " batch *latent"],
    std: Float[Tensor, " batch"],
    *,
    reduction: str,
) -> Float[Tensor, " batch"]:
    """Log-density of ``sample`` under the isotropic Gaussian ``(mean, std)``, in nats.

    Args:
        sample: The latent that was drawn; treated as a constant.
        mean: Transition mean; carries the gradient.
        std: Transition standard deviation, strictly positive.
        reduction: ``"sum"`` over the latent axes is the log-density; the released code takes the ``"mean"``.

    Examples:
        >>> import torch
        >>> log_prob(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1), reduction="sum")
        tensor([-1.8379])
    """
    deviation = per_row(std, mean)
    standardised = (sample.detach() - mean) / deviation
    return reduce_latent(
        -0.5 * standardised.square() - deviation.log() - 0.5 * math.log(2 * math.pi), reduction
    )


def log_prob_cps_released(
    sample: Float[Tensor, " batch *latent"], mean: Float[Tensor, " batch *latent"]
) -> Float[Tensor, " batch"]:
    """What released code calls the log-probability of a CPS step: minus the mean squared distance.

    Variance and constants are dropped, so it is no log-density, but it stays finite at the last step, where
    the standard deviation is 0.
    """
    return -reduce_latent((sample.detach() - mean).square(), "mean")


def transition_kl(
    student_mean: Float[Tensor, " batch *latent"],
    teacher_mean: Float[Tensor, " batch *latent"],
    std: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """KL divergence from student to teacher for one denoising transition.

    Both transitions are isotropic Gaussians sharing ``std``, so only the means matter.

    Args:
        student_mean: Transition mean of the model being trained; carries the gradient.
        teacher_mean: Transition mean of the frozen teacher at the same latent and sigma.
        std: Transition standard deviation in latent units, strictly positive.

    Returns:
        KL per sample in nats, summed (not averaged) over the latent axes.

    Raises:
        ValueError: If the two means differ in shape.

    References:
        Ho et al., "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239, Eq. 8.

    Examples:
        >>> import torch
        >>> transition_kl(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([1.0, 0.5]))
        tensor([1.5000, 6.0000])
    """
    if student_mean.shape != teacher_mean.shape:
        raise ValueError(
            f"student_mean and teacher_mean must have one shape, got {tuple(student_mean.shape)} "
            f"and {tuple(teacher_mean.shape)}; do both models use the same VAE and resolution?"
        )
    return reduce_latent((student_mean - teacher_mean).square(), "sum") / (2 * std.square())
