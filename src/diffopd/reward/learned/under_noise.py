"""An image buried in noise: the bad one of the pair that checks a scorer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_NOISE_SHARE = 0.9


def under_noise(clear: Float[Tensor, " 3 height width"]) -> Float[Tensor, " 3 height width"]:
    """The same image at a tenth of its strength under uniform noise, which is always the same."""
    noise = torch.rand(clear.shape, generator=torch.Generator().manual_seed(0))
    return (1 - _NOISE_SHARE) * clear + _NOISE_SHARE * noise
