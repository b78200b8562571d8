"""What every estimator answers, and the clipped surrogate that those on a drawn action share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from diffopd.flow.reduction import REDUCTIONS
from diffopd.loss import clipped_surrogate, flow_grpo_log_ratio, policy_step
from diffopd.types import LossTerm, Transition, TransitionLoss


@runtime_checkable
class Estimator(Protocol):
    """Gradient of a distillation loss at one visited transition.

    Attributes:
        needs_noise: Whether a transition without noise is refused.
    """

    needs_noise: ClassVar[bool]

    def __call__(
        self, loss: TransitionLoss, student: Transition, velocity_old: Tensor, teacher_velocity: Tensor
    ) -> LossTerm:
        """A value per sample whose gradient is the estimate; gradients reach ``student.velocity`` alone.

        Args:
            loss: The distillation loss to descend.
            student: Transition of the model in training, with the ``next_latent`` that was drawn.
            velocity_old: Velocity of the policy that drew it; a constant. In a fused round the detached
                current velocity, so that the ratio is exactly 1.
            teacher_velocity: The teacher's velocity at the same latent; a constant.

        Returns:
            Metrics are those of the loss; where the drawn action counts, also ``ratio``, and ``clipped``: 1
            where the ratio is out of bounds.
        """
        ...

    def expected_scale(self, latent_size: int) -> float:
        """Expected gradient at ratio 1, before any clipping, as a multiple of ``loss``'s own.

        Args:
            latent_size: Number of elements of a latent.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Surrogate(ABC):
    """PPO's clipped surrogate on the action that was drawn; estimators differ in the advantage.

    Attributes:
        name: How configs select the estimator.
        needs_noise: Without noise a transition has no density, so no ratio.
        log_prob_reduction: Of log-probabilities over the latent axes: ``sum`` is the density's, ``mean`` the
            released code's.
        clip_low: The ratio is clipped below 1 by this.
        clip_high: And above 1 by this.
        advantage_clip: Largest magnitude of an advantage; None for no limit.
    """

    name: ClassVar[str]
    needs_noise: ClassVar[bool] = True

    log_prob_reduction: Literal["mean", "sum"]
    clip_low: int | float
    clip_high: int | float
    advantage_clip: int | float | None

    def __post_init__(self) -> None:
        if self.log_prob_reduction not in REDUCTIONS:
            raise ValueError(
                f"estimator.log_prob_reduction must be one of {', '.join(REDUCTIONS)}, got "
                f"{self.log_prob_reduction!r}; mean is the released setting, sum the log-density"
            )
        for setting in ("clip_low", "clip_high", "advantage_clip"):
            value = getattr(self, setting)
            if setting == "advantage_clip" and value is None:
                continue
            if not 0 < value < math.inf:
                unlimited = " or null" if setting == "advantage_clip" else ""
                raise ValueError(
                    f"estimator.{setting} must be a finite number above 0{unlimited}, got {value}"
                )

    @abstractmethod
    def advantage(
        self, value: Float[Tensor, " batch"], student: Transition, teacher_velocity: Tensor
    ) -> Float[Tensor, " batch"]:
        """Advantage of the drawn action, before it is clipped.

        Args:
            value: The loss, with its gradient.
            student: Transition of the model in training, with the ``next_latent`` that was drawn.
            teacher_velocity: The teacher's velocity at the same latent.
        """

    @abstractmethod
    def expected_scale(self, latent_size: int) -> float:
        """See :class:`Estimator`."""

    def __call__(
        self, loss: TransitionLoss, student: Transition, velocity_old: Tensor, teacher_velocity: Tensor
    ) -> LossTerm:
        """See :class:`Estimator`.

        Raises:
            ValueError: If the transition has no noise.
        """
        if not student.stochastic:
            raise ValueError(
                f"estimator={self.name} needs a transition with noise, but step {student.step} (counted from "
                f"0) of {student.num_steps} has none, so its action has no density; use "
                "estimator=closed_form, raise sampler.noise_level, or leave that step untrained"
            )
        term = loss(student, teacher_velocity)
        advantage = self.advantage(term.value, student, teacher_velocity)
        if self.advantage_clip is not None:
            advantage = advantage.clamp(-self.advantage_clip, self.advantage_clip)
        step = policy_step(student, velocity_old.detach())
        ratio = flow_grpo_log_ratio(step, density="gaussian", reduction=self.log_prob_reduction).exp()
        clipped = (ratio < 1 - self.clip_low) | (ratio > 1 + self.clip_high)
        return LossTerm(
            value=clipped_surrogate(ratio, advantage, clip_low=self.clip_low, clip_high=self.clip_high),
            metrics={**term.metrics, "ratio": ratio.detach(), "clipped": clipped.to(ratio.dtype)},
        )
