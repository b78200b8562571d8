"""Flow-GRPO: the clipped policy gradient on an SDE's transitions."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.flow import per_row, reduce_latent
from diffopd.loss.policy_gradient import PolicyGradient, Step

DENSITIES = ("gaussian", "squared_distance")
"""What the log-probability is: the Gaussian's, or the distance alone as released for CPS."""


def flow_grpo_log_ratio(step: Step, *, density: str, reduction: str) -> Float[Tensor, " batch"]:
    """``log p_new - log p_old`` of the latent that was drawn: ``noise drift / std - drift^2 / (2 std^2)``.

    Over the noise its mean is below 0, more so the smaller ``std``: the ratio sits left of 1, where a
    symmetric clip is not symmetric (what GRPO-Guard repairs).

    Args:
        step: The visited transition.
        density: ``"gaussian"`` is the log-density; ``"squared_distance"`` is the released code's stand-in for
            CPS, ``-(next_latent - mean)^2``, which drops the variance.
        reduction: ``"sum"`` over the latent axes is the log-ratio; the released code takes the ``"mean"``.

    References:
        Liu et al., "Flow-GRPO", 2025, arXiv:2505.05470, Eq. 5.
    """
    deviation = per_row(step.std, step.drift)
    change = 2 * deviation * step.noise * step.drift - step.drift.square()
    if density == "gaussian":
        change = change / (2 * deviation.square())
    return reduce_latent(change, reduction)


@final
class FlowGRPO(PolicyGradient):
    """Flow-GRPO's loss with its settings."""

    name: ClassVar[str] = "flow_grpo"

    def __init__(
        self,
        *,
        reduction: str,
        density: str,
        clip_low: int | float,
        clip_high: int | float,
        advantage_clip: int | float,
        kl_weight: int | float,
        kl_variance: str,
    ) -> None:
        super().__init__(
            reduction=reduction,
            clip_low=clip_low,
            clip_high=clip_high,
            advantage_clip=advantage_clip,
            kl_weight=kl_weight,
            kl_variance=kl_variance,
        )
        if density not in DENSITIES:
            raise ValueError(
                f"loss.density must be one of {', '.join(DENSITIES)}, got {density!r}; squared_distance is "
                "what released code uses with sampler=cps"
            )
        self.density = density

    def log_ratio(self, step: Step) -> Float[Tensor, " batch"]:
        """See :func:`flow_grpo_log_ratio`."""
        return flow_grpo_log_ratio(step, density=self.density, reduction=self.reduction)
