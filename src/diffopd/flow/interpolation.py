"""The straight path between clean data and noise, and conversions between its four descriptions.

``latent = (1 - sigma) * clean + sigma * noise`` and ``velocity = d latent / d sigma = noise - clean``.
Given ``latent`` and ``sigma``, any one of velocity, clean and noise determines the other two.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diffopd.flow.broadcast import per_row


def interpolate(
    clean: Float[Tensor, " batch *latent"],
    noise: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
) -> Float[Tensor, " batch *latent"]:
    """Latent at noise ``sigma`` on the straight path: sigma 0 is ``clean``, sigma 1 is ``noise``."""
    amount = per_row(sigma, clean)
    return (1 - amount) * clean + amount * noise


def velocity_between(
    clean: Float[Tensor, " batch *latent"], noise: Float[Tensor, " batch *latent"]
) -> Float[Tensor, " batch *latent"]:
    """Velocity of the straight path, constant along it: ``noise - clean``."""
    return noise - clean


def velocity_to_clean(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
) -> Float[Tensor, " batch *latent"]:
    """Clean data that ``velocity`` predicts at ``latent``: ``latent - sigma * velocity``."""
    return latent - per_row(sigma, latent) * velocity


def velocity_to_noise(
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    sigma: Float[Tensor, " batch"],
) -> Float[Tensor, " batch *latent"]:
    """Noise that ``velocity`` predicts at ``latent``: ``latent + (1 - sigma) * velocity``."""
    return latent + (1 - per_row(sigma, latent)) * velocity
