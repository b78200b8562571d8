"""DiffusionNFT: reward learning on the noising process, without likelihoods or a particular sampler."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.flow import per_row, reduce_latent, velocity_to_clean
from diffopd.loss.setting import check_kl_weight, check_positive, missing_reference
from diffopd.types import LossTerm

DISTANCE_FLOOR = 1e-5
"""Smallest mean distance the adaptive weighting divides by."""


def reward_weight_from_advantage(
    advantage: Float[Tensor, " batch"], *, clip: int | float
) -> Float[Tensor, " batch"]:
    """Map advantages to [0, 1]: ``-clip`` or less to 0, zero to 0.5, ``clip`` or more to 1.

    Examples:
        >>> import torch
        >>> reward_weight_from_advantage(torch.tensor([-9.0, 0.0, 2.5]), clip=5)
        tensor([0.0000, 0.5000, 0.7500])
    """
    return advantage.clamp(-clip, clip) / (2 * clip) + 0.5


def adaptive_clean_distance(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    clean: Float[Tensor, " batch *latent"],
) -> Float[Tensor, " batch"]:
    """Mean squared error of the clean prediction, over its mean absolute error (a constant), in float64.

    The division makes all noise levels count alike.
    """
    error = velocity_to_clean(latent, velocity, sigma).double() - clean.double()
    scale = reduce_latent(error.detach().abs(), "mean").clamp_min(DISTANCE_FLOOR)
    return reduce_latent(error.square() / per_row(scale, error), "mean")


def diffusion_nft_loss(
    velocity: Float[Tensor, " batch *latent"],
    velocity_old: Float[Tensor, " batch *latent"],
    velocity_reference: Float[Tensor, " batch *latent"] | None,
    latent: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
    clean: Float[Tensor, " batch *latent"],
    reward_weight: Float[Tensor, " batch"],
    *,
    beta: int | float,
    kl_weight: int | float,
    advantage_clip: int | float,
) -> LossTerm:
    """Pull towards rewarded samples and push away from the others, through two implicit policies.

    With ``r`` the reward weight, ``positive = beta velocity + (1 - beta) old`` and ``negative`` its mirror
    image about ``old``, the loss is ``advantage_clip * (r L(positive) + (1 - r) L(negative)) / beta`` with
    ``L`` the adaptively weighted clean-prediction error, plus ``kl_weight`` times the mean squared distance
    to the reference's velocity. At ``velocity = old`` the gradient is proportional to ``2 r - 1``: samples
    of average reward do not push.

    Args:
        velocity: Output of the model being trained; carries the gradient.
        velocity_old: Output of the policy that made the samples; treated as a constant.
        velocity_reference: Output of the frozen reference; None only if ``kl_weight`` is 0.
        latent: ``(1 - sigma) * clean + sigma * noise`` with fresh noise.
        sigma: Noise of ``latent``.
        clean: The sample the reward judged.
        reward_weight: How good it was, in [0, 1]; see ``reward_weight_from_advantage``.
        beta: Share of the new velocity in the positive policy, above 0.
        kl_weight: Weight of the distance to the reference, at least 0.
        advantage_clip: The clip the reward weights were made with; scales the policy term back to advantages.

    Returns:
        Loss per sample. Metrics: ``policy``, the first term; ``kl_reference``, the mean squared distance of
        the velocities before weighting, if there is a reference.

    Raises:
        ValueError: If ``kl_weight`` is above 0 and there is no reference.

    References:
        Zheng et al., "DiffusionNFT", 2025, arXiv:2509.16117.
    """
    current, old = velocity.float(), velocity_old.detach().float()
    state, target = latent.detach().float(), clean.detach().float()
    positive = beta * current + (1 - beta) * old
    negative = (1 + beta) * old - beta * current
    attraction = reward_weight * adaptive_clean_distance(state, positive, sigma, target)
    repulsion = (1 - reward_weight) * adaptive_clean_distance(state, negative, sigma, target)
    policy = ((attraction + repulsion) / beta * advantage_clip).float()
    metrics = {"policy": policy.detach()}
    if velocity_reference is None:
        if kl_weight > 0:
            raise missing_reference(kl_weight)
        return LossTerm(value=policy, metrics=metrics)
    kl_reference = reduce_latent((current - velocity_reference.detach().float()).square(), "mean")
    metrics["kl_reference"] = kl_reference.detach()
    return LossTerm(value=policy + kl_weight * kl_reference, metrics=metrics)


@final
class DiffusionNFT:
    """The DiffusionNFT loss with its settings.

    Attributes:
        name: What its value is logged as.
        needs_noise: Whether a deterministic sampler is an error.
        needs_old: Whether a call needs the velocity of the policy that made the samples.
        supervision: What the loss learns from.
    """

    name: ClassVar[str] = "nft"
    needs_old: ClassVar[bool] = True
    needs_noise: ClassVar[bool] = False
    supervision: ClassVar[str] = "advantage"

    def __init__(self, *, beta: int | float, kl_weight: int | float, advantage_clip: int | float) -> None:
        check_positive(beta=beta, advantage_clip=advantage_clip)
        check_kl_weight(kl_weight)
        self.beta = beta
        self.kl_weight = kl_weight
        self.advantage_clip = advantage_clip

    @property
    def needs_reference(self) -> bool:
        """True if a call needs the frozen reference's velocity."""
        return self.kl_weight > 0

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
        assert velocity_old is not None, "its needs_old is true"
        return diffusion_nft_loss(
            velocity,
            velocity_old,
            velocity_reference,
            latent,
            sigma,
            clean,
            reward_weight_from_advantage(advantage, clip=self.advantage_clip),
            beta=self.beta,
            kl_weight=self.kl_weight,
            advantage_clip=self.advantage_clip,
        )
