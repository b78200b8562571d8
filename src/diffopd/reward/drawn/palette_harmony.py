"""Few hues that belong together, as vivid accents on a calmer ground."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.drawn.picture import chroma_vector, from_afar
from diffopd.types import KnownPair, Prompts, Scores
from diffopd.world.known_pairs import accent_and_noise

_TINY = 1e-6


class PaletteHarmonyReward:
    """:func:`palette_harmony` as a reward.

    Args:
        accent_std: Standard deviation of chroma over the picture at which the accent factor is one half.
        grey_chroma: Chroma, in [0, 1], below which a hue hardly counts.
    """

    def __init__(self, *, accent_std: float, grey_chroma: float) -> None:
        self.accent_std = accent_std
        self.grey_chroma = grey_chroma

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image; prompts play no part."""
        value = palette_harmony(images.float(), accent_std=self.accent_std, grey_chroma=self.grey_chroma)
        return Scores(value, {}, "[0, 1], 1 = one hue or two complementary ones, as accents")

    def known_pair(self) -> KnownPair:
        """A clean drawing with one accent in its middle, and noise."""
        return accent_and_noise()


def palette_harmony(
    images: Float[Tensor, " batch 3 height width"], *, accent_std: float, grey_chroma: float
) -> Float[Tensor, " batch"]:
    """Agreement of hues times strength of accents, seen from afar; differentiable.

    Agreement is the length of the chroma-weighted mean of ``exp(2 i hue)``: 1 for a single hue or a
    complementary pair, 0 for hues spread evenly or two at right angles. The accent factor
    ``v / (v + accent_std^2)``, with ``v`` the variance of chroma over the picture, is 0 for a flat picture
    however vivid.

    Examples:
        >>> import torch
        >>> palette_harmony(torch.ones(1, 3, 32, 32), accent_std=0.1, grey_chroma=0.05)
        tensor([0.])
    """
    a, b = chroma_vector(from_afar(images)).flatten(2).unbind(1)
    squared = a**2 + b**2
    # |z| for vivid colors, |z|^2 / gray for nearly gray ones, whose hue is noise.
    chroma = (squared + grey_chroma**2).sqrt() - grey_chroma
    weight = chroma / (squared + _TINY)
    doubled_x, doubled_y = (weight * (a**2 - b**2)).mean(1), (weight * 2 * a * b).mean(1)
    agreement = (doubled_x**2 + doubled_y**2) / (chroma.mean(1) ** 2 + _TINY)
    variance = chroma.var(1, correction=0)
    return agreement * variance / (variance + accent_std**2)
