"""From prompts to images, every draw decided by the image's index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffopd.model import guided_velocity
from diffopd.randomness import normal_rows
from diffopd.types import Prompts, Sampler, VelocityModel


def generate(
    model: VelocityModel,
    prompts: Prompts,
    *,
    sampler: Sampler,
    guidance_scale: float | Sequence[float],
    adapters: str | Sequence[str] | None,
    seed: int,
    batch_size: int,
) -> Float[Tensor, " batch 3 height width"]:
    """Images of ``prompts`` in [0, 1] on the CPU; arguments as for :func:`generate_batches`."""
    batches = generate_batches(
        model,
        prompts,
        sampler=sampler,
        guidance_scale=guidance_scale,
        adapters=adapters,
        seed=seed,
        batch_size=batch_size,
    )
    return torch.cat([images for _, images in batches])


def generate_batches(
    model: VelocityModel,
    prompts: Prompts,
    *,
    sampler: Sampler,
    guidance_scale: float | Sequence[float],
    adapters: str | Sequence[str] | None,
    seed: int,
    batch_size: int,
) -> Iterator[tuple[Prompts, Float[Tensor, " batch 3 height width"]]]:
    """Yield images batch by batch, without gradients.

    An image depends on its prompt, ``seed`` and its index in ``prompts.indices``, not on the batch it is
    in (up to rounding).

    Args:
        model: The backbone with its adapters.
        prompts: What to draw.
        sampler: Its own guidance scale is not used.
        guidance_scale: One for all or one per prompt; 1 = CFG off.
        adapters: One for all, one per prompt, or None for the backbone.
        seed: Of start noise and of the fresh noise of stochastic steps.
        batch_size: Images made together.

    Yields:
        The batch's prompts, and its images in [0, 1] on the CPU.
    """
    for start in range(0, len(prompts), batch_size):
        rows = range(start, min(start + batch_size, len(prompts)))
        scale = (
            guidance_scale if isinstance(guidance_scale, int | float) else [guidance_scale[r] for r in rows]
        )
        names = adapters if adapters is None or isinstance(adapters, str) else [adapters[r] for r in rows]
        batch = prompts.select(rows)
        yield batch, _images(model, batch, sampler, scale, names, seed)


@torch.no_grad()
def _images(
    model: VelocityModel,
    prompts: Prompts,
    sampler: Sampler,
    guidance_scale: float | Sequence[float],
    adapters: str | Sequence[str] | None,
    seed: int,
) -> Tensor:
    conditioning = model.condition(prompts)
    device = conditioning.embeds.device
    unguided = guidance_scale == 1
    unconditional = conditioning.select([0]) if unguided else model.encode([""])

    def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
        return guided_velocity(model, latent, sigma, conditioning, unconditional, guidance_scale, adapters)

    def fresh_noise(step: int) -> Tensor:
        return normal_rows(seed, "evaluation/fresh_noise", step, prompts.indices, model.latent_shape).to(
            device
        )

    latent = normal_rows(seed, "evaluation/noise", 0, prompts.indices, model.latent_shape).to(device)
    for transition in sampler.rollout(velocity, latent, fresh_noise):
        latent = transition.next_latent
    return model.decode(latent).cpu()
