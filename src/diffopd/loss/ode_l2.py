"""Squared distance of the transition means: the paper's loss for ODE samplers."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.loss.velocity_matching import TransitionMatching
from diffopd.types import Transition


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
class ODEL2(TransitionMatching):
    """Eq. 12 at every step, whatever the sampler's noise."""

    name: ClassVar[str] = "ode_l2"

    def weight(self, student: Transition) -> Float[Tensor, " batch"]:
        """See :func:`ode_l2_weight`."""
        return ode_l2_weight(student.coefficient)
