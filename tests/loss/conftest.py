from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffopd.sampler import CPSSampler, FlowSampler, TransitionSampler
from diffopd.types import Transition


@pytest.fixture(scope="session")
def transitions() -> Callable[..., list[Transition]]:
    """The ten transitions of a rollout with a differentiable velocity; ``sampler`` is flow or cps."""

    def make(noise_level: float, sampler: type[TransitionSampler] = FlowSampler) -> list[Transition]:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(3, 2, 4, 4, generator=generator)
        scale = torch.tensor(0.7, requires_grad=True)

        def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
            return torch.tanh(scale * latent) + sigma.view(-1, 1, 1, 1)

        built = sampler(num_steps=10, noise_level=noise_level, shift=3.0, guidance_scale=1.0)
        return list(built.rollout(velocity, noise, lambda step: torch.randn(3, 2, 4, 4, generator=generator)))

    return make


@pytest.fixture(scope="session")
def cps_transitions(transitions: Callable[..., list[Transition]]) -> list[Transition]:
    """A stochastic CPS rollout: its last step has no noise."""
    return transitions(0.7, CPSSampler)
