"""Flow-GRPO: the clipped policy gradient on an SDE's transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.flow import per_row, reduce_latent
from diffopd.loss.policy_gradient import PolicyGradient, StoredStep

DENSITIES = ("gaussian", "squared_distance")
"""What the log-probability is: the Gaussian's, or the distance alone as released for CPS."""


def flow_grpo_log_ratio(step: StoredStep, *, density: str, reduction: str) -> Float[Tensor, " batch"]:
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
@dataclass(frozen=True, kw_only=True)
class FlowGRPO(PolicyGradient):
    """Flow-GRPO's loss with its settings.

    Attributes:
        density: ``gaussian`` or ``squared_distance``, see :func:`flow_grpo_log_ratio`.
    """

    name: ClassVar[str] = "flow_grpo"

    density: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density not in DENSITIES:
            raise ValueError(
                f"loss.density must be one of {', '.join(DENSITIES)}, got {self.density!r}; squared_distance "
                "is what released code uses with sampler=cps"
            )

    def log_ratio(self, step: StoredStep) -> Float[Tensor, " batch"]:
        """See :func:`flow_grpo_log_ratio`."""
        return flow_grpo_log_ratio(step, density=self.density, reduction=self.reduction)
