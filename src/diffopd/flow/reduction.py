"""Sum or mean over the axes of one latent: the choice every loss and log-probability names."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

REDUCTIONS = ("mean", "sum")


def reduce_latent(values: Float[Tensor, " batch *latent"], reduction: str) -> Float[Tensor, " batch"]:
    """Reduce the latent axes and keep the batch.

    Args:
        values: One number per latent element.
        reduction: ``"sum"`` is the papers' formula; ``"mean"`` is what the released code computes.

    Returns:
        One number per sample.

    Raises:
        ValueError: If ``reduction`` is neither.

    Examples:
        >>> import torch
        >>> reduce_latent(torch.tensor([[1.0, 3.0]]), "mean")
        tensor([2.])
        >>> reduce_latent(torch.tensor([[1.0, 3.0]]), "sum")
        tensor([4.])
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    flat = values.flatten(1)
    return flat.mean(1) if reduction == "mean" else flat.sum(1)
