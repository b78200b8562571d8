"""Per-row numbers beside whole latents."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def per_row(values: Float[Tensor, " batch"], like: Float[Tensor, " batch *latent"]) -> Tensor:
    """Reshape one number per row so that it multiplies the latents of that row.

    Examples:
        >>> import torch
        >>> per_row(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4)).shape
        torch.Size([2, 1, 1])
    """
    return values.reshape(-1, *(1 for _ in like.shape[1:]))
