"""Classifier-free guidance."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffopd.flow.broadcast import per_row


def guide(
    unconditional: Float[Tensor, " batch *latent"],
    conditional: Float[Tensor, " batch *latent"],
    scale: int | float | Float[Tensor, " batch"],
) -> Float[Tensor, " batch *latent"]:
    """Guided velocity ``unconditional + scale * (conditional - unconditional)``.

    Computed from the conditional side, so that ``scale = 1`` returns ``conditional`` exactly.

    Args:
        unconditional: Velocity for the empty prompt.
        conditional: Velocity for the prompt.
        scale: One number for all rows or one per row; 1 = no guidance.

    Examples:
        >>> import torch
        >>> guide(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([1.0, 4.5])).flatten()
        tensor([1.0000, 4.5000])
    """
    extra = per_row(scale, conditional) - 1 if isinstance(scale, Tensor) else scale - 1
    return conditional + extra * (conditional - unconditional)
