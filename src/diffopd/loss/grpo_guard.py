"""GRPO-Guard: a ratio centered on 1 at every step, and steps that weigh alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.flow import reduce_latent
from diffopd.loss.policy_gradient import PolicyGradient, StoredStep
from diffopd.types import Transition


def ratio_norm(step: StoredStep, *, reduction: str) -> Float[Tensor, " batch"]:
    """RatioNorm: ``std (log p_new - log p_old + drift^2 / (2 std^2)) = noise drift``.

    Over the noise its mean is 0 whatever the drift, and its scale does not depend on ``std``, so one clip
    acts alike on both sides and at every step.

    Args:
        step: The visited transition.
        reduction: Over the latent axes; all released code takes the ``"mean"``.

    References:
        GRPO-Guard, 2025, arXiv:2510.22319, Eq. 8.
    """
    return reduce_latent(step.noise * step.drift, reduction)


def step_balance(transition: Transition) -> Float[Tensor, " batch"]:
    """``1 / |dt|``: undoes the factor by which a short step's policy gradient is smaller.

    The paper's factor for Flow-GRPO's SDE is ``(1 + a^2 / 2) / |dt|``; its constant is left to the learning
    rate, as there.

    References:
        GRPO-Guard, 2025, arXiv:2510.22319, Eq. 12.
    """
    return 1 / (transition.sigma - transition.sigma_next)


@final
@dataclass(frozen=True, kw_only=True)
class GRPOGuard(PolicyGradient):
    """GRPO-Guard's loss with its settings.

    Attributes:
        balance_steps: Whether steps weigh ``1 / |dt|``, see :func:`step_balance`.
    """

    name: ClassVar[str] = "grpo_guard"

    balance_steps: bool

    def log_ratio(self, step: StoredStep) -> Float[Tensor, " batch"]:
        """See :func:`ratio_norm`."""
        return ratio_norm(step, reduction=self.reduction)

    def weight(self, transition: Transition) -> Float[Tensor, " batch"]:
        """See :func:`step_balance`; 1 without ``balance_steps``."""
        return step_balance(transition) if self.balance_steps else super().weight(transition)
