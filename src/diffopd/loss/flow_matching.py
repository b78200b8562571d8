"""Flow matching: regress the velocity of the straight path from data to noise."""

from __future__ import annotations

from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from diffopd.flow import reduce_latent, velocity_between
from diffopd.loss.velocity_matching import checked_reduction
from diffopd.types import LossTerm


def flow_matching_loss(
    velocity: Float[Tensor, " batch *latent"],
    clean: Float[Tensor, " batch *latent"],
    noise: Float[Tensor, " batch *latent"],
    *,
    reduction: str,
) -> Float[Tensor, " batch"]:
    """Squared distance of ``velocity`` to ``noise - clean``, in float32.

    Args:
        velocity: Model output at ``(1 - sigma) * clean + sigma * noise``; carries the gradient.
        clean: Data.
        noise: Noise the latent was mixed with.
        reduction: ``"mean"`` or ``"sum"`` over the latent axes.

    References:
        Lipman et al., "Flow Matching for Generative Modeling", 2023, arXiv:2210.02747.

    Examples:
        >>> import torch
        >>> flow_matching_loss(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 2), reduction="sum")
        tensor([2.])
    """
    target = velocity_between(clean.float(), noise.float()).detach()
    return reduce_latent((velocity.float() - target).square(), reduction)


@final
class FlowMatching:
    """The flow-matching loss for pretraining and fine-tuning on data.

    Attributes:
        needs_noise: Whether a deterministic sampler is an error.
        supervision: What the loss learns from.
    """

    needs_noise: ClassVar[bool] = False
    supervision: ClassVar[str] = "data"

    def __init__(self, *, reduction: str) -> None:
        self.reduction = checked_reduction(reduction)

    def __call__(self, velocity: Tensor, clean: Tensor, noise: Tensor) -> LossTerm:
        """Loss per sample; gradients reach ``velocity`` alone."""
        return LossTerm(value=flow_matching_loss(velocity, clean, noise, reduction=self.reduction))
