"""What policy-gradient losses on transitions share: ratio, clip, KL to a reference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.flow import per_row
from diffopd.loss.reverse_kl import reverse_kl_weight
from diffopd.loss.setting import check_kl_weight, check_positive, checked_reduction, missing_reference
from diffopd.loss.velocity_matching import require_noise, velocity_gap
from diffopd.types import LossTerm, Transition

KL_VARIANCES = ("exact", "released")
"""Which variance the KL to the reference divides by: the transition's, or one that lacks ``-dt``."""


class StoredStep(NamedTuple):
    """One visited transition, seen by the policy that drew it and by the one in training.

    Attributes:
        drift: ``mean - mean_old``; carries the gradient.
        noise: Standard normal noise that the old policy drew.
        std: Standard deviation both share.
    """

    drift: Float[Tensor, " batch *latent"]
    noise: Float[Tensor, " batch *latent"]
    std: Float[Tensor, " batch"]


def policy_step(transition: Transition, velocity_old: Float[Tensor, " batch *latent"]) -> StoredStep:
    """Compare a transition at a stored state with the one that was drawn there.

    The means' difference is taken from the velocities (the mean is affine in them), so it is exactly 0 for
    equal velocities and a small one is not lost in rounding.

    Args:
        transition: Transition of the model in training, with the stored ``next_latent``.
        velocity_old: Velocity of the policy that drew ``next_latent``.
    """
    coefficient = per_row(transition.coefficient, velocity_old)
    drift = coefficient * (transition.velocity.float() - velocity_old.float())
    mean_old = transition.mean.detach() - drift.detach()
    noise = (transition.next_latent - mean_old) / per_row(transition.std, mean_old)
    return StoredStep(drift, noise, transition.std)


def clipped_surrogate(
    ratio: Float[Tensor, " batch"],
    advantage: Float[Tensor, " batch"],
    *,
    clip_low: int | float,
    clip_high: int | float,
) -> Float[Tensor, " batch"]:
    """PPO's pessimistic loss: ``max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high))``.

    References:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017, arXiv:1707.06347, Eq. 7.

    Examples:
        >>> import torch
        >>> advantage = torch.tensor([1.0, -1.0])
        >>> clipped_surrogate(torch.tensor([1.5, 1.5]), advantage, clip_low=0.2, clip_high=0.2)
        tensor([-1.2000,  1.5000])
    """
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip_low, 1 + clip_high))


def reference_kl(
    transition: Transition,
    velocity_reference: Float[Tensor, " batch *latent"],
    *,
    variance: str,
    reduction: str,
) -> Float[Tensor, " batch"]:
    """KL divergence of the transition from the reference's, or the released code's form of it.

    Args:
        transition: Carries the gradient.
        velocity_reference: The frozen reference's velocity at the same state.
        variance: ``"exact"`` divides by twice the transition's variance; ``"released"`` by twice
            ``std_dev_t^2``, which for the flow SDE lacks ``-dt``.
        reduction: ``"sum"`` over the latent axes gives nats; the released code takes the ``"mean"``.
    """
    scale = transition.std if variance == "exact" else transition.std_released
    gap = velocity_gap(transition.velocity, velocity_reference, reduction=reduction)
    return reverse_kl_weight(transition.coefficient, scale) * gap


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(ABC):
    """A clipped policy-gradient loss at one visited transition.

    Attributes:
        name: How configs select the loss.
        needs_noise: Without noise a transition has no density, so no ratio.
        supervision: What the loss learns from.
        reduction: Of log-ratio and KL over the latent axes.
        clip_low: The ratio is clipped below 1 by this.
        clip_high: And above 1 by this.
        advantage_clip: Largest magnitude of an advantage.
        kl_weight: Weight of the KL to the reference.
        kl_variance: ``exact`` or ``released``, see :func:`reference_kl`.
    """

    name: ClassVar[str]
    needs_noise: ClassVar[bool] = True
    supervision: ClassVar[str] = "transition_advantage"

    reduction: str
    clip_low: int | float
    clip_high: int | float
    advantage_clip: int | float
    kl_weight: int | float
    kl_variance: str

    def __post_init__(self) -> None:
        check_positive(clip_low=self.clip_low, clip_high=self.clip_high, advantage_clip=self.advantage_clip)
        check_kl_weight(self.kl_weight)
        if self.kl_variance not in KL_VARIANCES:
            raise ValueError(
                f"loss.kl_variance must be one of {', '.join(KL_VARIANCES)}, got {self.kl_variance!r}; exact "
                "divides by the transition's variance, released lacks its time step"
            )
        checked_reduction(self.reduction)

    @property
    def needs_reference(self) -> bool:
        """True if a call needs the frozen reference's velocity."""
        return self.kl_weight > 0

    @abstractmethod
    def log_ratio(self, step: StoredStep) -> Float[Tensor, " batch"]:
        """Logarithm of what the clip sees as the ratio of new to old policy."""

    def weight(self, transition: Transition) -> Float[Tensor, " batch"]:
        """Weight of the policy term at this step; 1 unless the loss balances steps."""
        return torch.ones_like(transition.sigma)

    def __call__(
        self,
        transition: Transition,
        velocity_old: Tensor,
        velocity_reference: Tensor | None,
        advantage: Tensor,
    ) -> LossTerm:
        """Loss per sample; gradients reach ``transition.velocity`` alone.

        Args:
            transition: Transition of the model in training at a stored state, with the stored
                ``next_latent``.
            velocity_old: Velocity of the policy that drew ``next_latent``; a constant.
            velocity_reference: The frozen reference's velocity; None only if ``kl_weight`` is 0.
            advantage: One per sample, already clipped.

        Returns:
            Loss per sample. Metrics: ``ratio``; ``clipped``, 1 where the clip is active; ``kl_reference``, if
            there is a reference.

        Raises:
            ValueError: If the transition has no noise, or a reference is needed and missing.
        """
        require_noise(transition, self.name)
        if self.needs_reference and velocity_reference is None:
            raise missing_reference(self.kl_weight)
        ratio = self.log_ratio(policy_step(transition, velocity_old.detach())).exp()
        clipped = (ratio < 1 - self.clip_low) | (ratio > 1 + self.clip_high)
        policy = clipped_surrogate(ratio, advantage, clip_low=self.clip_low, clip_high=self.clip_high)
        value = policy * self.weight(transition)
        metrics = {"ratio": ratio.detach(), "clipped": clipped.to(ratio.dtype)}
        if velocity_reference is not None:
            divergence = reference_kl(
                transition, velocity_reference, variance=self.kl_variance, reduction=self.reduction
            )
            metrics["kl_reference"] = divergence.detach()
            value = value + self.kl_weight * divergence
        return LossTerm(value=value, metrics=metrics)
