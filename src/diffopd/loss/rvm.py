"""Reward-based velocity matching: regress to samples with signed weights, held by an anchor."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from diffopd.flow import reduce_latent
from diffopd.loss.noised import at_hand, row_weight, sample_velocity
from diffopd.loss.ram import RESIDUALS
from diffopd.loss.setting import check_at_least_zero, check_choice, check_positive
from diffopd.types import LossTerm

ANCHORS = ("reference", "old")
"""To whose velocity the student's is held."""


def rvm_loss(
    velocity: Float[Tensor, " batch *latent"],
    velocity_old: Float[Tensor, " batch *latent"] | None,
    velocity_anchor: Float[Tensor, " batch *latent"] | None,
    latent: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    clean: Float[Tensor, " batch *latent"],
    reward: Float[Tensor, " batch"],
    *,
    residual: Literal["student", "old"],
    anchor_weight: int | float,
) -> LossTerm:
    """Move towards samples of positive ``reward``, away from those of negative, near the anchor.

    With ``y = noise - clean``, means over the latent, and the residual at the student,

        ``reward * |velocity - y|^2 + anchor_weight * |velocity - anchor|^2``;

    at the old policy the first term is its tangent there, ``2 reward <velocity - old, old - y>``, whose pull
    does not grow as the student moves. Two papers are cases of it: RAM with the reference as anchor of weight
    1 and the residual at the student; DiffusionNFT, its adaptive weights aside, with the old policy as anchor
    of weight ``beta * advantage_clip`` and the residual at the old policy.

    Args:
        velocity: Output of the model being trained; carries the gradient.
        velocity_old: Output of the policy that made the samples; None unless ``residual`` is ``old``.
        velocity_anchor: Output of the anchor; None only if ``anchor_weight`` is 0.
        latent: ``(1 - sigma) * clean + sigma * noise`` with fresh noise.
        sigma: Noise of ``latent``, above 0.
        clean: The sample the reward judged.
        reward: Its advantage times the reward's scale; may be negative, and with it the loss.
        residual: Where the reward's term is taken: ``student`` or ``old``.
        anchor_weight: Weight of the anchor, at least 0.

    Returns:
        Loss per sample. Metrics: ``policy``, the reward's term; ``kl_anchor``, the mean squared distance to
        the anchor, if there is one.

    References:
        Choi et al., "Scaling Reinforcement Learning for Diffusion Models via Velocity Matching", 2026,
        arXiv:2608.23664. Second hand: the update as a public implementation for another model has it; that
        RAM and DiffusionNFT are cases is the abstract's word and worked out here.
    """
    current, target = velocity.double(), sample_velocity(latent, sigma, clean)
    if residual == "student":
        distance = (current - target).square()
    else:
        old = at_hand(velocity_old, "old")
        distance = 2 * (current - old) * (old - target)
    policy = reduce_latent(row_weight(reward, target) * distance, "mean")
    metrics = {"policy": policy.detach().float()}
    if anchor_weight == 0:
        return LossTerm(value=policy.float(), metrics=metrics)
    held = reduce_latent((current - at_hand(velocity_anchor, "anchor")).square(), "mean")
    metrics["kl_anchor"] = held.detach().float()
    return LossTerm(value=(policy + anchor_weight * held).float(), metrics=metrics)


@final
class RVM:
    """The RVM loss with its settings.

    Attributes:
        name: What its value is logged as.
        needs_noise: Whether a deterministic sampler is an error.
        supervision: What the loss learns from.
    """

    name: ClassVar[str] = "rvm"
    needs_noise: ClassVar[bool] = False
    supervision: ClassVar[str] = "advantage"

    def __init__(
        self,
        *,
        reward_scale: int | float,
        residual: Literal["student", "old"],
        anchor: Literal["reference", "old"],
        anchor_weight: int | float,
        advantage_clip: int | float,
    ) -> None:
        check_positive(reward_scale=reward_scale, advantage_clip=advantage_clip)
        check_at_least_zero(anchor_weight=anchor_weight)
        check_choice("residual", residual, RESIDUALS)
        self.residual: Literal["student", "old"] = residual
        check_choice("anchor", anchor, ANCHORS)
        self.anchor = anchor
        self.reward_scale, self.advantage_clip = reward_scale, advantage_clip
        self.anchor_weight = anchor_weight

    @property
    def needs_old(self) -> bool:
        """True if a call needs the velocity of the policy that made the samples."""
        return self.residual == "old" or (self.anchor == "old" and self.anchor_weight > 0)

    @property
    def needs_reference(self) -> bool:
        """True if a call needs the frozen reference's velocity."""
        return self.anchor == "reference" and self.anchor_weight > 0

    def __call__(
        self,
        velocity: Tensor,
        velocity_old: Tensor | None,
        velocity_reference: Tensor | None,
        latent: Tensor,
        sigma: Tensor,
        clean: Tensor,
        advantage: Tensor,
    ) -> LossTerm:
        """Loss per sample for raw advantages; gradients reach ``velocity`` alone."""
        return rvm_loss(
            velocity,
            velocity_old,
            velocity_reference if self.anchor == "reference" else velocity_old,
            latent,
            sigma,
            clean,
            self.reward_scale * advantage.clamp(-self.advantage_clip, self.advantage_clip),
            residual=self.residual,
            anchor_weight=self.anchor_weight,
        )
