"""A focus whose weight rests near the middle of the picture, as much to its left as to its right."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.reward.drawn.picture import from_afar
from diffopd.types import KnownPair, Prompts, Scores
from diffopd.world.known_pairs import accent_and_noise

_TINY = 1e-12


class BalanceReward:
    """:func:`balance` as a reward.

    Args:
        centre_width: Distance of the weight's centroid from the middle, in half picture sides, at which
            the centring factor is ``exp(-1/2)``.
        least_weight: Typical visual weight, a squared RGB distance, below which there is nothing to balance.
    """

    def __init__(self, *, centre_width: float, least_weight: float) -> None:
        self.centre_width = centre_width
        self.least_weight = least_weight

    def __call__(self, images: Float[Tensor, " batch 3 height width"], prompts: Prompts) -> Scores:
        """Score each image; prompts play no part."""
        value = balance(images.float(), centre_width=self.centre_width, least_weight=self.least_weight)
        return Scores(value, {}, "[0, 1], 1 = a focus in the middle, equal weight left and right")

    def known_pair(self) -> KnownPair:
        """A clean drawing with one accent in its middle, and noise."""
        return accent_and_noise()


def balance(
    images: Float[Tensor, " batch 3 height width"], *, centre_width: float, least_weight: float
) -> Float[Tensor, " batch"]:
    """Focus times centring times left-right symmetry of the visual weight, seen from afar; differentiable.

    A place weighs the squared distance of its color from the picture's mean color. With weights ``w`` over
    places: focus is ``var(w) / (mean(w^2) + least_weight^2)``, 0 for flat pictures and low where every place
    weighs alike; centring is ``exp(-|centroid|^2 / (2 centre_width^2))``; symmetry is
    ``1 - ((right - left) / all)^2``.

    Examples:
        >>> import torch
        >>> dot = torch.zeros(1, 3, 32, 32)
        >>> dot[..., 12:20, 12:20] = 1.0
        >>> corner = dot.roll((-12, -12), (2, 3))
        >>> [round(balance(x, centre_width=0.3, least_weight=0.01).item(), 2) for x in (dot, corner)]
        [0.88, 0.0]
    """
    seen = from_afar(images)
    weight = (seen - seen.mean((2, 3), keepdim=True)).square().sum(1)
    total = weight.sum((1, 2)) + _TINY
    focus = weight.flatten(1).var(1, correction=0) / (weight.square().mean((1, 2)) + least_weight**2)
    last = weight.shape[-1] - 1
    # Not linspace: its middle may miss 0 by a rounding error, which sign() below would make a whole side of.
    place = (2 * torch.arange(last + 1, device=weight.device, dtype=weight.dtype) - last) / last
    x = (weight * place).sum((1, 2)) / total
    y = (weight * place[:, None]).sum((1, 2)) / total
    lean = (weight * place.sign()).sum((1, 2)) / total
    return focus * torch.exp(-(x**2 + y**2) / (2 * centre_width**2)) * (1 - lean**2)
