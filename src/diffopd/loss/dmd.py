"""Distribution matching: samples move from where the student is too dense to where it is not enough."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import per_row, reduce_latent
from diffopd.loss.flow_matching import flow_matching_loss
from diffopd.types import LossTerm


def dmd_gradient(
    clean: Float[Tensor, " batch *latent"],
    clean_real: Float[Tensor, " batch *latent"],
    clean_fake: Float[Tensor, " batch *latent"],
) -> Float[Tensor, " batch *latent"]:
    """``(p_real - p_fake) / mean |p_real|`` per sample, in float64.

    ``p_real = clean - clean_real`` and ``p_fake = clean - clean_fake``: up to a factor per noise level the
    negative scores of the two noised distributions, so their difference is the gradient of the KL divergence
    from student to teacher. The division makes all noise levels count alike.

    Args:
        clean: Samples of the student.
        clean_real: The teacher's clean prediction of the noised samples.
        clean_fake: Clean prediction by a model of the student's own distribution.

    Returns:
        The direction along which the divergence grows; 0 for a sample that the teacher predicts exactly.
        Unlike in the released code, predictions that are no numbers stay so, and are noticed.

    References:
        Yin et al., "One-step Diffusion with Distribution Matching Distillation", 2024, arXiv:2311.18828.

    Examples:
        >>> import torch
        >>> clean, real, fake = (torch.tensor([values]) for values in ([1.0, 1.0], [0.0, -2.0], [1.0, 0.0]))
        >>> dmd_gradient(clean, real, fake)
        tensor([[0.5000, 1.0000]], dtype=torch.float64)
    """
    start = clean.detach().double()
    real, fake = start - clean_real.detach().double(), start - clean_fake.detach().double()
    scale = per_row(reduce_latent(real.abs(), "mean"), real)
    return torch.where(scale == 0, torch.zeros_like(real), (real - fake) / scale)


def dmd_loss(
    clean: Float[Tensor, " batch *latent"],
    clean_real: Float[Tensor, " batch *latent"],
    clean_fake: Float[Tensor, " batch *latent"],
) -> Float[Tensor, " batch"]:
    """Half the mean squared distance to ``clean - gradient``, a constant; its slope is :func:`dmd_gradient`.

    Args:
        clean: Samples of the student; carry the gradient.
        clean_real: The teacher's clean prediction.
        clean_fake: The student model's.

    References:
        Yin et al., "Improved Distribution Matching Distillation for Fast Image Synthesis", 2024,
        arXiv:2405.14867, and its released code.
    """
    target = clean.detach().double() - dmd_gradient(clean, clean_real, clean_fake)
    return (0.5 * reduce_latent((clean.double() - target).square(), "mean")).float()


@final
class DMD:
    """The DMD loss: distribution matching for the student, flow matching for the model of its distribution.

    Attributes:
        needs_noise: Whether a deterministic sampler is an error.
        supervision: What the loss learns from.
    """

    needs_noise: ClassVar[bool] = False
    supervision: ClassVar[str] = "distribution"

    def __call__(self, clean: Tensor, clean_real: Tensor, clean_fake: Tensor) -> LossTerm:
        """Loss of the student per sample; gradients reach ``clean`` alone."""
        return LossTerm(value=dmd_loss(clean, clean_real, clean_fake))

    def fake(self, velocity: Tensor, latent: Tensor, sigma: Tensor, clean: Tensor, fresh: Tensor) -> LossTerm:
        """Loss of the model of the student's distribution: flow matching on the student's samples.

        Args:
            velocity: That model's output at ``latent``; carries the gradient.
            latent: ``(1 - sigma) * clean + sigma * fresh``.
            sigma: Its noise.
            clean: The samples; treated as a constant.
            fresh: The noise they were mixed with.
        """
        return LossTerm(value=flow_matching_loss(velocity, clean, fresh, reduction="mean"))
