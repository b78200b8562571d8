"""The released code's form of the KL loss, with its variance."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import TransitionMatching
from diffopd.types import Transition

VARIANCE_FLOOR = 1e-8
"""Smallest variance the released code divides by."""


def reverse_kl_released_weight(
    coefficient: Float[Tensor, " batch"], std_released: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """Weight of the squared velocity gap with ``std_dev_t``: ``coefficient^2 / (2 std_dev_t^2)``.

    For the flow SDE ``std_dev_t`` lacks ``sqrt(-dt)``, so this is the exact weight times ``-dt``, which moves
    training further towards the last steps. For DDIM, CPS and dance it is the exact weight.

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
class ReverseKLReleased(TransitionMatching):
    """Eq. 11 as released. A transition without noise is an error (the released code divides by the floor)."""

    name: ClassVar[str] = "reverse_kl_released"
    needs_noise: ClassVar[bool] = True

    def weight(self, student: Transition) -> Float[Tensor, " batch"]:
        """See :func:`reverse_kl_released_weight`."""
        return reverse_kl_released_weight(student.coefficient, student.std_released)
