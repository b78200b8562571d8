"""A picture drawn by formulas and the same buried in noise: to check scorers of photographs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.learned.under_noise import under_noise
from diffopd.types import KnownPair

SIDE = 256
_TOP, _HORIZON = (0.15, 0.12, 0.35), (1.0, 0.55, 0.25)
"""Sky above and where it meets the sea."""
_SEA_FAR, _SEA_NEAR = (0.45, 0.22, 0.25), (0.05, 0.07, 0.18)
_SUN = (1.0, 0.9, 0.6)


def sunset_and_noise() -> KnownPair:
    """A sunset over the sea, and the same picture at a tenth of its strength under uniform noise."""
    clear = _sunset()
    return KnownPair.of(clear, under_noise(clear), "a sunset over the sea")


def _sunset() -> Float[Tensor, " 3 height width"]:
    down, right = torch.meshgrid(*(torch.linspace(0, 1, SIDE) for _ in range(2)), indexing="ij")
    sky = _blend(_TOP, _HORIZON, (down / 0.6).clamp(0, 1))
    sea = _blend(_SEA_FAR, _SEA_NEAR, ((down - 0.6) / 0.4).clamp(0, 1))
    distance = ((down - 0.5).square() + (right - 0.5).square()).sqrt()
    glow = torch.exp(-(distance / 0.15).square()).where(distance > 0.07, 1.0)
    path = torch.exp(-((right - 0.5) / 0.06).square()) * (0.6 + 0.4 * torch.sin(150 * down.square()))
    lit = torch.where(down < 0.6, glow, 0.6 * path)
    ground = torch.where(down < 0.6, sky, sea)
    return ground + lit * (torch.tensor(_SUN).view(3, 1, 1) - ground).clamp_min(0)


def _blend(
    first: tuple[float, ...], last: tuple[float, ...], share: Float[Tensor, " height width"]
) -> Float[Tensor, " 3 height width"]:
    a, b = (torch.tensor(colour).view(3, 1, 1) for colour in (first, last))
    return a + share * (b - a)
