"""The paper's distillation loss: Eq. 12 where a step has no noise, Eq. 11 where it has some."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.loss.ode_l2 import ode_l2_weight
from diffopd.loss.reverse_kl import reverse_kl_weight
from diffopd.loss.velocity_matching import checked_reduction, matching_term
from diffopd.types import LossTerm, Transition


def opd_weight(student: Transition) -> Float[Tensor, " batch"]:
    """``coefficient^2 / (2 std^2)`` for a transition with noise, ``0.5 coefficient^2`` for one without.

    Eq. 12 is Eq. 11 with variance 1, so the last step of stochastic DDIM and CPS rollouts, whose variance is
    0, gets a finite weight too.

    References:
        DiffusionOPD, 2026, arXiv:2605.15055, Eq. 11 and 12.
    """
    if student.stochastic:
        return reverse_kl_weight(student.coefficient, student.std)
    return ode_l2_weight(student.coefficient)


@final
class OPD:
    """Eq. 12 for deterministic samplers, Eq. 11 for stochastic ones, decided step by step.

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
        return matching_term(student, teacher_velocity, opd_weight(student), reduction=self.reduction)
