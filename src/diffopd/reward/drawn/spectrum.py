"""Detail spread over scales as clean drawings spread it; held out: measured, never trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from diffopd.reward.drawn.picture import SIDE
from diffopd.types import KnownPair, Prompts, Scores
from diffopd.world.known_pairs import accent_and_noise


class SpectrumReward:
    """:func:`spectrum` as a reward.

    Args:
        shares: Energy share of each band, finest first, in a typical clean drawing; they sum to 1.
        least_energy: Total energy, a squared RGB difference, below which there is nothing to judge.
    """

    def __init__(self, *, shares: Sequence[float], least_energy: float) -> None:
        if len(shares) != NUM_BANDS or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                f"reward.shares must be {NUM_BANDS} positive numbers that sum to 1, got {list(shares)}"
            )
        self.shares = tuple(shares)
        self.least_energy = least_energy

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image; ``parts`` holds the share of the finest band."""
        value = spectrum(images.float(), shares=self.shares, least_energy=self.least_energy)
        energies = band_energies(images.float())
        finest = energies[:, 0] / energies.sum(1).clamp_min(1e-12)
        return Scores(value, {"finest_share": finest}, "[0, 1], 1 = detail on the scales of clean drawings")

    def known_pair(self) -> KnownPair:
        """A clean drawing with one accent in its middle, and noise."""
        return accent_and_noise()


NUM_BANDS = 4


def band_energies(images: Float[Tensor, " batch 3 height width"]) -> Float[Tensor, " batch band"]:
    """Mean squared detail lost by each halving of a 32-pixel picture: 1, 2, 4 and 8 pixels, finest first."""
    picture = adaptive_avg_pool2d(images, SIDE)
    energies = []
    for _ in range(NUM_BANDS):
        coarser = adaptive_avg_pool2d(picture, picture.shape[-1] // 2)
        detail = picture - interpolate(coarser, scale_factor=2, mode="nearest")
        energies.append(detail.square().mean((1, 2, 3)))
        picture = coarser
    return torch.stack(energies, 1)


def spectrum(
    images: Float[Tensor, " batch 3 height width"], *, shares: Sequence[float], least_energy: float
) -> Float[Tensor, " batch"]:
    """Likeness ``(sum sqrt(p q))^2`` of the picture's band shares ``p`` to ``shares``, 0 for flat pictures.

    Noise, blur, checkerboards and posterised flats each put their energy on other scales.
    """
    energies = band_energies(images)
    total = energies.sum(1)
    wanted = torch.tensor(shares, dtype=images.dtype, device=images.device)
    share = energies / (total[:, None] + least_energy)
    # The floor keeps the square root's gradient finite where a band is empty.
    likeness = ((share + 1e-8).sqrt() * wanted.sqrt()).sum(1) - 1e-4 * wanted.sqrt().sum()
    return likeness.clamp(0, 1).square()
