"""Both pictures of preference pairs at one noise level, as the preference loss takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from diffopd.flow import interpolate, velocity_between
from diffopd.loss import Side
from diffopd.policy import Policy
from diffopd.types import Conditioning


def pair_sides(
    student: Policy,
    reference: Policy | None,
    conditioning: Conditioning,
    pictures: tuple[Tensor, Tensor],
    noise: Tensor,
    sigma: Tensor,
    *,
    guidance_scale: float,
) -> tuple[Side, Side]:
    """Velocities at both pictures' noised latents, in one forward each of student and reference.

    Args:
        student: The trained policy; its velocities carry the gradient.
        reference: The frozen policy it is compared with; None for none.
        conditioning: One row per pair.
        pictures: Clean latents of the preferred pictures, and of those that they are preferred to.
        noise: One per pair, the same for both pictures.
        sigma: Noise level of each pair.
        guidance_scale: Of both policies.

    Returns:
        The preferred and the rejected side.
    """
    latents = torch.cat([interpolate(clean, noise, sigma) for clean in pictures])
    sigmas, given = sigma.repeat(2), Conditioning.concat([conditioning] * 2)
    velocities = student.velocity(latents, sigmas, given, guidance_scale).chunk(2)
    references: tuple[Tensor | None, ...] = (None, None)
    if reference is not None:
        with torch.no_grad():
            references = reference.velocity(latents, sigmas, given, guidance_scale).chunk(2)
    targets = [velocity_between(clean, noise) for clean in pictures]
    preferred, rejected = map(Side, velocities, targets, references)
    return preferred, rejected
