"""Self-OPD: the branches of a state that end well attract its next step, the others repel it."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.loss.setting import check_positive
from diffopd.loss.velocity_matching import require_noise
from diffopd.types import LossTerm, Transition

STD_FLOOR = 1e-4
"""Smallest deviation of the branches' rewards that an advantage is divided by."""


def branch_advantages(
    rewards: Float[Tensor, "batch branches"], baseline: Float[Tensor, " batch"]
) -> Float[Tensor, "batch branches"]:
    """How much better each branch ended than the state's own ODE, in deviations of its branches.

    Args:
        rewards: Of the branches, at least two of each state.
        baseline: Of the sample that the ODE makes from the state.

    References:
        Zhang et al., "Self-OPD", 2026, arXiv:2608.26872, and its released code: the deviation is the unbiased
        one, at least ``STD_FLOOR``.

    Examples:
        >>> import torch
        >>> branch_advantages(torch.tensor([[1.0, 3.0]]), torch.tensor([2.0]))
        tensor([[-0.7071,  0.7071]])
    """
    std = rewards.std(dim=1, keepdim=True, correction=1).clamp_min(STD_FLOOR)
    return (rewards - baseline[:, None]) / std


def direction_gate(
    offsets: Float[Tensor, "batch branches *latent"], advantages: Float[Tensor, "batch branches"]
) -> Float[Tensor, "batch branches"]:
    """1 for branches that attract; ``(1 - cos) / 2`` of the angle to the best branch for those that repel.

    A branch that goes where the best one goes is not pushed away from.

    Args:
        offsets: Where each branch went, seen from the mean of the transition.
        advantages: Of the branches; the best branch is the first of the largest.

    References:
        Self-OPD, arXiv:2608.26872: direction-aware attenuation.
    """
    directions = torch.nn.functional.normalize(offsets.flatten(2), dim=2)
    best = directions[torch.arange(len(directions)), advantages.argmax(dim=1)]
    cosine = (directions * best[:, None]).sum(dim=2)
    return torch.where(advantages < 0, (1 - cosine) / 2, torch.ones_like(cosine))


def branch_loss(
    mean: Float[Tensor, " batch *latent"],
    std: Float[Tensor, " batch"],
    branches: Float[Tensor, "batch branches *latent"],
    weights: Float[Tensor, "batch branches"],
) -> Float[Tensor, " batch"]:
    """Mean over branches of ``weight * |mean - branch|^2 / (2 std^2)``, averaged over the latent.

    In velocities this is ``(1 + eta^2 / 2)^2 |dt| / (2 sigma^2) * |v - v_branch|^2`` for Flow-GRPO's SDE of
    noise level ``eta``. Positive weights pull towards their branches, negative ones push away.

    Args:
        mean: Of the student's transition; carries the gradient.
        std: Its standard deviation in latent units, above 0.
        branches: Next states that were drawn from it.
        weights: Of the branches; may be negative.

    References:
        Self-OPD, arXiv:2608.26872, and its released code, whose divisor is at least 1e-6.
    """
    error = (mean[:, None].double() - branches.double()).square().flatten(2).mean(dim=2)
    return ((weights.double() * error).mean(dim=1) / (2 * std.double().square())).float()


@final
class SelfOPD:
    """The Self-OPD loss with its settings.

    Attributes:
        name: What its value is logged as.
        needs_noise: Whether a deterministic sampler is an error.
        supervision: What the loss learns from.
    """

    name: ClassVar[str] = "self_opd"
    needs_noise: ClassVar[bool] = True
    supervision: ClassVar[str] = "branches"

    def __init__(self, *, weight_clip: int | float, gate: bool) -> None:
        check_positive(weight_clip=weight_clip)
        self.weight_clip, self.gate = weight_clip, gate

    def __call__(
        self,
        student: Transition,
        mean_old: Float[Tensor, " batch *latent"],
        branches: Float[Tensor, "batch branches *latent"],
        rewards: Float[Tensor, "batch branches"],
        baseline: Float[Tensor, " batch"],
    ) -> LossTerm:
        """Loss per sample; gradients reach ``student`` alone.

        Args:
            student: Transition of the model in training at the state.
            mean_old: Mean of the transition that the branches were drawn from.
            branches: Next states that were drawn.
            rewards: What each branch's finished sample got.
            baseline: What the ODE's sample from the state got.

        Returns:
            Metrics: ``weight``, the mean magnitude of the branches' weights; ``better``, the share of
            branches above the baseline; ``best_gain``, the best branch's reward less the baseline's.

        Raises:
            ValueError: If the transition has no noise.
        """
        require_noise(student, "self_opd")
        advantages = branch_advantages(rewards.float(), baseline.float())
        weights = advantages
        if self.gate:
            weights = weights * direction_gate(branches - mean_old[:, None], advantages)
        weights = weights.clamp(-self.weight_clip, self.weight_clip)
        metrics = {
            "weight": weights.abs().mean(dim=1),
            "better": (advantages > 0).float().mean(dim=1),
            "best_gain": rewards.float().amax(dim=1) - baseline.float(),
        }
        return LossTerm(value=branch_loss(student.mean, student.std, branches, weights), metrics=metrics)
