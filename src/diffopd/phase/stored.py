"""A stored transition, to compute again with gradients."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class StoredTransition:
    """What a rollout keeps of one step.

    Attributes:
        step: Position in the grid.
        latent: State the step started from.
        velocity: Velocity of the policy that took it, in fp32.
        next_latent: State that was drawn.
        previous_clean: Clean prediction of the step before, for samplers with history.
    """

    step: int
    latent: Float[Tensor, " batch *latent"]
    velocity: Float[Tensor, " batch *latent"]
    next_latent: Float[Tensor, " batch *latent"]
    previous_clean: Float[Tensor, " batch *latent"] | None
