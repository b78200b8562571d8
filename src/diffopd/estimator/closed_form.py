"""The loss itself, differentiated through the transition's mean."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from diffopd.types import LossTerm, Transition, TransitionLoss


@final
class ClosedForm:
    """The pathwise gradient of the loss: the same whatever action was drawn.

    Attributes:
        name: How configs select the estimator.
        needs_noise: Whether a transition without noise is refused.

    References:
        DiffusionOPD, 2026, arXiv:2605.15055, Eq. 15.
    """

    name: ClassVar[str] = "closed_form"
    needs_noise: ClassVar[bool] = False

    def __call__(
        self, loss: TransitionLoss, student: Transition, velocity_old: Tensor, teacher_velocity: Tensor
    ) -> LossTerm:
        """``loss(student, teacher_velocity)`` as it is: there is no ratio, so its metrics have none."""
        return loss(student, teacher_velocity)

    def expected_scale(self, latent_size: int) -> float:
        """The gradient is the loss's own."""
        return 1.0
