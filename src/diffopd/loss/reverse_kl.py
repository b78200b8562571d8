"""Exact KL divergence from student to teacher transition: the paper's loss for SDE samplers."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import checked_reduction, matching_term, require_noise
from diffopd.types import LossTerm, Transition


def reverse_kl_weight(
    coefficient: Float[Tensor, " batch"], std: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Weight of the squared velocity gap in the KL divergence: ``coefficient^2 / (2 std^2)``.

    Args:
        coefficient: d mean / d velocity.
        std: Standard deviation of the transition, strictly positive; for the flow SDE with ``sqrt(-dt)``.

    References:
        DiffusionOPD, 2026, arXiv:2605.15055, Eq. 11 with the transition variance of its Eq. 6.

    Examples:
        >>> import torch
        >>> reverse_kl_weight(torch.tensor([-0.2]), torch.tensor([0.1]))
        tensor([2.])
    """
    return (coefficient / std).square() / 2


@final
class ReverseKL:
    """Eq. 11 with the exact transition variance. A transition without noise is an error.

    Attributes:
        needs_noise: Whether a deterministic sampler is refused.
        supervision: What the loss learns from.
    """

    needs_noise: ClassVar[bool] = True
    supervision: ClassVar[str] = "teacher"

    def __init__(self, *, reduction: str) -> None:
        self.reduction = checked_reduction(reduction)

    def __call__(self, student: Transition, teacher_velocity: Tensor) -> LossTerm:
        """Loss per sample, in nats with ``reduction="sum"``; gradients reach ``student.velocity`` alone."""
        require_noise(student, "reverse_kl")
        weight = reverse_kl_weight(student.coefficient, student.std)
        return matching_term(student, teacher_velocity, weight, reduction=self.reduction)
