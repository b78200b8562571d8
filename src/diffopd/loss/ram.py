"""Reinforce Adjoint Matching: regress to the reference's velocity, corrected by the reward."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from diffopd.flow import reduce_latent
from diffopd.loss.noised import at_hand, row_weight, sample_velocity
from diffopd.loss.setting import check_choice, check_positive
from diffopd.types import LossTerm

RESIDUALS = ("student", "old")
"""Whose velocity the correction is measured from."""


def ram_loss(
    velocity: Float[Tensor, " batch *latent"],
    velocity_old: Float[Tensor, " batch *latent"] | None,
    velocity_reference: Float[Tensor, " batch *latent"],
    latent: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    clean: Float[Tensor, " batch *latent"],
    reward: Float[Tensor, " batch"],
    *,
    residual: Literal["student", "old"],
) -> LossTerm:
    """Mean squared distance to the reference's velocity, corrected by the reward.

    With ``y = noise - clean`` the target is ``reference + reward * (y - v)``, a constant, where ``v`` is the
    student's own velocity (Eq. 17) or the old policy's. At ``v = student`` the gradient is that of
    ``|velocity - reference|^2 + reward * |velocity - y|^2``. Where it vanishes in the mean, the velocity is
    the reference's tilted by the reward, to first order: a larger ``reward`` leads further away.

    Args:
        velocity: Output of the model being trained; carries the gradient.
        velocity_old: Output of the policy that made the samples; None unless ``residual`` is ``old``.
        velocity_reference: Output of the frozen reference.
        latent: ``(1 - sigma) * clean + sigma * noise`` with fresh noise.
        sigma: Noise of ``latent``, above 0.
        clean: The sample the reward judged.
        reward: Its advantage times the reward's scale; may be negative.
        residual: ``student`` as in the paper's Eq. 17, ``old`` as the released code is said to do.

    Returns:
        Loss per sample. Metrics: ``kl_reference``, the mean squared distance to the reference.

    References:
        Bergmeister et al., "Reinforce Adjoint Matching", 2026, arXiv:2605.10759, Eq. 17. Second hand: read in
        two public accounts of the paper that agree, and derived again from its tilt of the clean samples;
        its code, and so ``residual=old``, through one of them alone.
    """
    current = velocity.double()
    reference = at_hand(velocity_reference, "reference")
    start = current.detach() if residual == "student" else at_hand(velocity_old, "old")
    target = sample_velocity(latent, sigma, clean)
    goal = reference + row_weight(reward, target) * (target - start)
    value = reduce_latent((current - goal).square(), "mean").float()
    distance = reduce_latent((current.detach() - reference).square(), "mean").float()
    return LossTerm(value=value, metrics={"kl_reference": distance})


@final
class RAM:
    """The RAM loss with its settings.

    Attributes:
        name: What its value is logged as.
        needs_noise: Whether a deterministic sampler is an error.
        supervision: What the loss learns from.
    """

    name: ClassVar[str] = "ram"
    needs_noise: ClassVar[bool] = False
    supervision: ClassVar[str] = "advantage"
    needs_reference: ClassVar[bool] = True

    def __init__(
        self,
        *,
        reward_scale: int | float,
        residual: Literal["student", "old"],
        advantage_clip: int | float,
    ) -> None:
        check_positive(reward_scale=reward_scale, advantage_clip=advantage_clip)
        check_choice("residual", residual, RESIDUALS)
        self.residual: Literal["student", "old"] = residual
        self.reward_scale, self.advantage_clip = reward_scale, advantage_clip

    @property
    def needs_old(self) -> bool:
        """True if a call needs the velocity of the policy that made the samples."""
        return self.residual == "old"

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
        reward = self.reward_scale * advantage.clamp(-self.advantage_clip, self.advantage_clip)
        reference = at_hand(velocity_reference, "reference")
        return ram_loss(
            velocity, velocity_old, reference, latent, sigma, clean, reward, residual=self.residual
        )
