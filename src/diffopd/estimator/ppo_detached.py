"""The policy gradient with a constant advantage: a negative control, which learns nothing on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.estimator.base import Surrogate
from diffopd.types import Transition


@final
@dataclass(frozen=True, kw_only=True)
class PPODetached(Surrogate):
    """The paper's surrogate with a constant advantage, as ordinary PPO would have it: a negative control.

    The loss does not depend on the action that was drawn, so the expected gradient at ratio 1 is 0.

    References:
        Flow-OPD, 2026, arXiv:2605.08063, Eq. 5 as printed; its code does not detach.
    """

    name: ClassVar[str] = "ppo_detached"

    def advantage(
        self, value: Float[Tensor, " batch"], student: Transition, teacher_velocity: Tensor
    ) -> Float[Tensor, " batch"]:
        """Minus the loss, a constant."""
        return -value.detach()

    def expected_scale(self, latent_size: int) -> float:
        """Nothing is left in expectation."""
        return 0.0
