"""Plain velocity matching: every step counts the same."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import checked_reduction, matching_term
from diffopd.types import LossTerm, Transition


def velocity_uniform_weight(coefficient: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Weight 1 for every sample."""
    return torch.ones_like(coefficient)


@final
class VelocityUniform:
    """The squared velocity gap itself, with any sampler.

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
        weight = velocity_uniform_weight(student.coefficient)
        return matching_term(student, teacher_velocity, weight, reduction=self.reduction)
