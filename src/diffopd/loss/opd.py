"""The paper's distillation loss: Eq. 12 where a step has no noise, Eq. 11 where it has some."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.loss.ode_l2 import ode_l2_weight
from diffopd.loss.reverse_kl import reverse_kl_weight
from diffopd.loss.velocity_matching import TransitionMatching
from diffopd.types import Transition


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
class OPD(TransitionMatching):
    """Eq. 12 for deterministic samplers, Eq. 11 for stochastic ones, decided step by step."""

    name: ClassVar[str] = "opd"

    def weight(self, student: Transition) -> Float[Tensor, " batch"]:
        """See :func:`opd_weight`."""
        return opd_weight(student)
