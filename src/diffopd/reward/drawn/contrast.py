"""Light against dark, neither flat nor glaring, in large soft areas."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffopd.reward.drawn.picture import from_afar, luminance
from diffopd.types import KnownPair, Prompts, Scores
from diffopd.world.known_pairs import accent_and_noise

_TINY = 1e-6


class ContrastReward:
    """:func:`contrast` as a reward.

    Args:
        best_rms: RMS contrast, in units of luminance, that scores 1.
        texture: How much variance inside the windows counts against variance between them; 0 ignores texture.
    """

    def __init__(self, *, best_rms: float, texture: float) -> None:
        self.best_rms = best_rms
        self.texture = texture

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image; prompts play no part."""
        value = contrast(images.float(), best_rms=self.best_rms, texture=self.texture)
        return Scores(value, {}, "[0, 1], 1 = large areas of the best RMS contrast")

    def known_pair(self) -> KnownPair:
        """A clean drawing with one accent in its middle, and noise."""
        return accent_and_noise()


def contrast(
    images: Float[Tensor, " batch 3 height width"], *, best_rms: float, texture: float
) -> Float[Tensor, " batch"]:
    """Nearness to the best RMS contrast times calmness, seen from afar; differentiable.

    With ``v`` the variance of luminance between windows, ``u`` the mean variance inside them and
    ``r = v / best_rms^2``: nearness is ``4 r / (1 + r)^2``, 0 at no contrast, 1 at the best, 0.64 at half or
    double the best RMS; calmness is ``v / (v + texture * u)``, near 0 for noise and fine patterns.

    Examples:
        >>> import torch
        >>> halves = torch.zeros(1, 3, 32, 32)
        >>> halves[..., 16:] = 0.5
        >>> round(contrast(halves, best_rms=0.2, texture=0.0).item(), 2)
        0.99
    """
    light = luminance(images)
    seen = from_afar(light)
    between = seen.flatten(1).var(1, correction=0)
    inside = (from_afar(light.square()) - seen.square()).flatten(1).mean(1).clamp_min(0)  # rounding on flats
    ratio = between / best_rms**2
    return 4 * ratio / (1 + ratio) ** 2 * between / (between + texture * inside + _TINY)
