"""Exact KL divergence from student to teacher transition: the paper's loss for SDE samplers."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import TransitionMatching
from diffopd.types import Transition


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
class ReverseKL(TransitionMatching):
    """Eq. 11 with the exact transition variance. A transition without noise is an error.

    In nats with ``reduction="sum"``.
    """

    name: ClassVar[str] = "reverse_kl"
    needs_noise: ClassVar[bool] = True

    def weight(self, student: Transition) -> Float[Tensor, " batch"]:
        """See :func:`reverse_kl_weight`."""
        return reverse_kl_weight(student.coefficient, student.std)
