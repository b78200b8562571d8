"""Squared distance of the transition means: the paper's loss for ODE samplers."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import checked_reduction, matching_term
from diffopd.types import LossTerm, Transition


def ode_l2_weight(coefficient: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Weight of the squared velocity gap in ``0.5 ||student_mean - teacher_mean||^2``: ``0.5 coefficient^2``.

    References:
        DiffusionOPD, 2026, arXiv:2605.15055, Eq. 12.

    Examples:
        >>> import torch
        >>> ode_l2_weight(torch.tensor([-0.2]))
        tensor([0.0200])
    """
    return 0.5 * coefficient.square()


@final
class ODEL2:
    """Eq. 12 at every step, whatever the sampler's noise.

    Attributes:
        needs_noise: Whether a deterministic sampler is refused.
        supervision: What the loss learns from.
    """

    needs_noise: ClassVar[bool] = False
    supervision: ClassVar[str] = "teacher"

    def __init__(self, *, reduction: str) -> None:
        self.reduction = checked_reduction(reduction)

    def __call__(self, student: Transition, teacher_velocity: Tensor) -> LossTerm:
        """Loss per sample; gradients reach ``student.velocity`` alone."""
        weight = ode_l2_weight(student.coefficient)
        return matching_term(student, teacher_velocity, weight, reduction=self.reduction)
