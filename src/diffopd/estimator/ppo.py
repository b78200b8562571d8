"""The paper's policy gradient: the teacher as a process reward, minus the loss as the advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.estimator.base import Surrogate
from diffopd.types import Transition


@final
@dataclass(frozen=True, kw_only=True)
class PPO(Surrogate):
    """The paper's surrogate; its advantage is minus the loss and keeps its gradient.

    At ratio 1 the gradient is ``grad loss + loss grad log p(action)``. The second term has mean 0, so the
    expectation is the closed form's, with noise on top.

    References:
        DiffusionOPD, 2026, arXiv:2605.15055, Eq. 16-21; in its Eq. 17 the sign is a misprint.
    """

    name: ClassVar[str] = "ppo"

    def advantage(
        self, value: Float[Tensor, " batch"], student: Transition, teacher_velocity: Tensor
    ) -> Float[Tensor, " batch"]:
        """Minus the loss, differentiable."""
        return -value

    def expected_scale(self, latent_size: int) -> float:
        """The score term's mean is 0, so the loss's gradient remains."""
        return 1.0
