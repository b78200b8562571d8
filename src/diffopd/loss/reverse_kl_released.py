"""The released code's form of the KL loss, with its variance."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import checked_reduction, matching_term, require_noise
from diffopd.types import LossTerm, Transition

VARIANCE_FLOOR = 1e-8
"""Smallest variance the released code divides by."""


def reverse_kl_released_weight(
    coefficient: Float[Tensor, " batch"], std_released: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Weight of the squared velocity gap with ``std_dev_t``: ``coefficient^2 / (2 std_dev_t^2)``.

    For the flow SDE ``std_dev_t`` lacks ``sqrt(-dt)``, so this is the exact weight times ``-dt``, which moves
    training further towards the last steps. For DDIM and CPS it is the exact weight.

    Args:
        coefficient: d mean / d velocity.
        std_released: The released code's ``std_dev_t``; its square is floored at 1e-8.

    Examples:
        >>> import torch
        >>> reverse_kl_released_weight(torch.tensor([-0.2]), torch.tensor([0.5]))
        tensor([0.0800])
    """
    return coefficient.square() / (2 * std_released.square().clamp_min(VARIANCE_FLOOR))


@final
class ReverseKLReleased:
    """Eq. 11 as released. A transition without noise is an error (the released code divides by the floor).

    Attributes:
        needs_noise: Whether a deterministic sampler is refused.
        supervision: What the loss learns from.
    """

    needs_noise: ClassVar[bool] = True
    supervision: ClassVar[str] = "teacher"

    def __init__(self, *, reduction: str) -> None:
        self.reduction = checked_reduction(reduction)

    def __call__(self, student: Transition, teacher_velocity: Tensor) -> LossTerm:
        """Loss per sample; gradients reach ``student.velocity`` alone."""
        require_noise(student, "reverse_kl_released")
        weight = reverse_kl_released_weight(student.coefficient, student.std_released)
        return matching_term(student, teacher_velocity, weight, reduction=self.reduction)
