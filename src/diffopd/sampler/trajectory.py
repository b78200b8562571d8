"""Whole rollouts: record one without gradients, and look at its steps again with them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.sampler.base import TransitionSampler
from diffopd.types import NoiseFunction, Sampler, Trajectory, Transition, VelocityFunction


@torch.no_grad()
def sample(
    sampler: Sampler,
    velocity: VelocityFunction,
    noise: Float[Tensor, " batch *latent"],
    fresh_noise: NoiseFunction,
) -> Trajectory:
    """Roll out without gradients and keep every latent.

    Args:
        sampler: Any sampler.
        velocity: The model, already conditioned and guided.
        noise: Start of the rollout, standard normal.
        fresh_noise: Noise of each stochastic step.
    """
    latents = [noise.detach()]
    latents += [transition.next_latent for transition in sampler.rollout(velocity, noise, fresh_noise)]
    return Trajectory(latents=torch.stack(latents), sigmas=sampler.sigmas().to(noise.device))


def transition_at(
    sampler: TransitionSampler,
    step: int,
    latent: Float[Tensor, " batch *latent"],
    velocity: Float[Tensor, " batch *latent"],
    *,
    next_latent: Float[Tensor, " batch *latent"] | None = None,
    previous_clean: Float[Tensor, " batch *latent"] | None = None,
) -> Transition:
    """The transition from a stored latent, for a velocity computed there now.

    Args:
        sampler: The sampler that made the trajectory.
        step: Position in the rollout.
        latent: The stored state the step starts from.
        velocity: Model output there; may carry a gradient.
        next_latent: The stored state the step led to; the mean if omitted.
        previous_clean: Clean prediction of the step before, for ``dpm2`` after step 0.
    """
    return sampler.transition(step, latent, velocity, next_latent=next_latent, previous_clean=previous_clean)
