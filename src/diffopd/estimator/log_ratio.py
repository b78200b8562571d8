"""The policy gradient of language models' distillation: reward an action by what the teacher thinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.estimator.base import Surrogate
from diffopd.loss import flow_grpo_log_ratio, policy_step
from diffopd.types import Transition


def log_ratio_advantage(
    student: Transition, teacher_velocity: Float[Tensor, " batch *latent"], *, reduction: str
) -> Float[Tensor, " batch"]:
    """``log p_teacher - log p_student`` of the drawn ``next_latent``, without gradient.

    Computed from the velocity gap: with ``drift = coefficient (student - teacher velocity)`` and ``noise``
    the drawn latent's standardized distance from the teacher's mean, ``log p_student - log p_teacher`` is
    ``noise drift / std - drift^2 / (2 std^2)``. Two large log-densities are never subtracted. Drawn by the
    student itself, its mean is minus the KL divergence from student to teacher.

    Args:
        student: Transition of the model in training, with the ``next_latent`` that was drawn.
        teacher_velocity: The teacher's velocity at the same latent.
        reduction: ``"sum"`` over the latent axes gives nats; ``"mean"`` divides them by the latent's size.
    """
    step = policy_step(student, teacher_velocity.detach())
    return -flow_grpo_log_ratio(step, density="gaussian", reduction=reduction).detach()


@final
@dataclass(frozen=True, kw_only=True)
class LogRatio(Surrogate):
    """REINFORCE of the reverse KL from one drawn action, as in on-policy distillation of language models.

    Its expected gradient is that of the exact KL whatever ``loss`` is chosen, which serves the metrics alone.
    The student of the advantage is the one in training, so the expectation holds at any ratio until the clip
    acts. With ``log_prob_reduction=mean`` both advantage and log-ratio shrink by the latent's size D, the
    gradient by D^2.
    """

    name: ClassVar[str] = "log_ratio"

    def advantage(
        self, value: Float[Tensor, " batch"], student: Transition, teacher_velocity: Tensor
    ) -> Float[Tensor, " batch"]:
        """See :func:`log_ratio_advantage`."""
        return log_ratio_advantage(student, teacher_velocity, reduction=self.log_prob_reduction)

    def expected_scale(self, latent_size: int) -> float:
        """A multiple of the gradient of the KL in nats: ``loss=reverse_kl`` with ``loss.reduction=sum``."""
        return 1.0 if self.log_prob_reduction == "sum" else latent_size**-2.0
